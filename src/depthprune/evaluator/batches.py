"""Batches: windows laid out to be run together, and which state predicts which token.

Windows of text of one length are rows of a batch. An item is a row too: its options stand behind
its prompt, an attention mask lets an option see the prompt and itself, and positions continue from
the prompt, so the prompt is computed once for all options. Where a model cannot read such a row
exactly, each option is a row of its own behind a copy of the prompt. Which windows share a batch is
decided in `calls`.

Whether a model reads packed items exactly, shown on the items themselves.

A packed row needs a model that takes a mask and positions for every token and mixes tokens by
attention alone. Rather than list such models, the longest items are run both ways through all
blocks, and the losses of its tokens are compared: states would not do, whose few massive
activations hide any difference. The two ways are calls of other shapes, which a dtype of few bits
rounds apart by more than some misreadings, so they are compared in float32.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from depthprune.calibration import Window
from depthprune.errors import ModelError
from depthprune.models.blocks.carried import hidden
from depthprune.models.loading import Model
from depthprune.models.widening import widened
from depthprune.objectives.nll import token_nll


@dataclass(frozen=True)
class Batch:
    """Windows that are run together.

    Attributes:
        places: Which of the calibration's windows.
        tokens: Token ids, shape (rows, length).
        rows: For each scored token, in the order of the windows and of their tokens, the row of
            the state that predicts it; shape (scored,).
        columns: And the column, shape (scored,).
        targets: The scored tokens, shape (scored,).
        counts: How many scored tokens each window has.
        shared: Whether windows share the call, by whose number the losses must not round.
        arguments: Further arguments of the model besides the tokens.
    """

    places: tuple[int, ...]
    tokens: Tensor
    rows: Tensor
    columns: Tensor
    targets: Tensor
    counts: tuple[int, ...]
    shared: bool = False
    arguments: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Tokens that go through each block."""
        return self.tokens.numel()


def text_rows(windows: Sequence[Window], places: tuple[int, ...], rows: int) -> Batch:
    """Windows of text of one length, a row each, and copies of the last up to so many rows."""
    tokens = torch.from_numpy(np.stack([windows[p].tokens for p in places]))
    scored = torch.from_numpy(np.stack([windows[p].scored for p in places]))
    scoring, columns = scored.nonzero(as_tuple=True)
    return Batch(
        places=places,
        tokens=_filled(tokens, rows),
        rows=scoring,
        columns=columns - 1,
        targets=tokens[scoring, columns],
        counts=tuple(scored.sum(1).tolist()),
        shared=rows > 1,
    )


def _filled(tensor: Tensor, rows: int) -> Tensor:
    """So many rows: copies of the last behind those that there are."""
    return torch.cat([tensor, tensor[-1:].repeat(rows - len(tensor), *[1] * (tensor.dim() - 1))])


def packed_rows(
    windows: Sequence[Window],
    places: tuple[int, ...],
    dtype: torch.dtype,
    rows: int,
    length: int,
) -> Batch:
    """Items, a row each with its prompt once, filled up to a length and to so many rows.

    Args:
        windows: All windows.
        places: Which of them.
        dtype: Of the attention mask.
        rows: How many rows there are to be.
        length: Tokens of a row; what fills it stands behind, where no token sees it.
    """
    items = [_packed(windows[place], length) for place in places]
    tokens, visible, positions = (
        torch.from_numpy(np.stack(each)) for each in zip(*(i[:3] for i in items), strict=True)
    )
    mask = torch.zeros(visible.shape, dtype=dtype).masked_fill(~visible, torch.finfo(dtype).min)
    columns = [item[3] for item in items]
    counts = tuple(len(each) for each in columns)
    return Batch(
        places=places,
        tokens=_filled(tokens, rows),
        rows=torch.from_numpy(np.repeat(np.arange(len(places)), counts)),
        columns=torch.from_numpy(np.concatenate(columns)),
        targets=torch.from_numpy(
            np.concatenate([windows[p].tokens[windows[p].scored] for p in places])
        ),
        counts=counts,
        shared=rows > 1,
        arguments={
            "attention_mask": _filled(mask[:, None], rows),
            "position_ids": _filled(positions, rows),
        },
    )


def _packed(
    window: Window, length: int
) -> tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.int64], NDArray[np.int64]]:
    """An item in one row: its tokens, who sees whom, positions, and what predicts what counts."""
    spans, size = _spans(window), len(window.tokens)
    prompt = spans[0][0]
    tokens = np.concatenate([window.tokens, np.repeat(window.tokens[:1], length - size)])
    visible = np.tri(length, dtype=np.bool_)
    positions, before = np.arange(length), np.arange(size) - 1
    for first, last in spans:
        visible[first:last, prompt:first] = False
        positions[first:last] = prompt + np.arange(last - first)
        before[first] = prompt - 1
    return tokens, visible, positions, before[window.scored]


def option_rows(windows: Sequence[Window], place: int) -> Batch:
    """One item, a row an option; what fills shorter rows stands behind, where no token sees it."""
    window = windows[place]
    spans, width = _spans(window), _option_width(window)
    prompt = spans[0][0]
    tokens = np.repeat(window.tokens[:1], len(spans) * width).reshape(len(spans), width)
    rows: list[NDArray[np.int64]] = []
    columns: list[NDArray[np.int64]] = []
    for row, (first, last) in enumerate(spans):
        tokens[row, :prompt] = window.tokens[:prompt]
        tokens[row, prompt : prompt + last - first] = window.tokens[first:last]
        inside = np.flatnonzero(window.scored[first:last])
        rows.append(np.full(len(inside), row))
        columns.append(prompt - 1 + inside)
    return Batch(
        places=(place,),
        tokens=torch.from_numpy(tokens),
        rows=torch.from_numpy(np.concatenate(rows)),
        columns=torch.from_numpy(np.concatenate(columns)),
        targets=torch.from_numpy(window.tokens[window.scored]),
        counts=(int(window.scored.sum()),),
    )


def option_tokens(window: Window) -> int:
    """Tokens of an item that is laid out with a row an option."""
    return len(_spans(window)) * _option_width(window)


def _option_width(window: Window) -> int:
    spans = _spans(window)
    return spans[0][0] + max(last - first for first, last in spans)


def _read_behind_another(window: Window) -> int:
    """Where the last option ends that stands behind another and of which a token is read."""
    return max((last for first, last in _spans(window)[1:] if last - first > 1), default=0)


def _spans(window: Window) -> tuple[tuple[int, int], ...]:
    if window.item is None:
        raise ValueError("the window is no item")
    return window.item.spans


_LIMIT = 1e-4
"""Nats a token, in the mean of an item, in float32; what is read wrongly differs by tenths."""


@torch.inference_mode()
def reads_packed_items(model: Model, windows: Sequence[Window]) -> bool:
    """Whether the longest items give the same losses packed as with a row for each option.

    Long in a row, and long behind a prompt: an attention window passes over what is too far back,
    and of an item with many short options nothing is. And long up to an option that is itself read
    behind another: one token is predicted by the prompt alone, whatever stands between. It costs
    those items twice through every block, in float32; a model whose blocks are read from disk is
    not tried.
    """
    items = [place for place, window in enumerate(windows) if window.item is not None]
    if not items or model.streamed:
        return False
    longest = max(items, key=lambda place: len(windows[place].tokens))
    farthest = max(items, key=lambda place: _option_width(windows[place]))
    telling = max(items, key=lambda place: _read_behind_another(windows[place]))
    # Beside another item, which is filled up to the length of the longest.
    places = tuple(dict.fromkeys((items[0], longest, farthest, telling)))
    length = len(windows[longest].tokens)
    try:
        with widened(model.module, model.anatomy.blocks.modules):
            batch = packed_rows(windows, places, torch.float32, len(places), length)
            together = torch.split(_losses(model, batch), list(batch.counts))
            apart = [_losses(model, option_rows(windows, place)) for place in places]
    except (RuntimeError, TypeError, ValueError, IndexError, ModelError):
        # No mask and positions are taken, or memory holds no block in float32: an option a row
        # is always right.
        return False
    pairs = zip(together, apart, strict=True)
    return all(bool((ours - theirs).abs().mean() <= _LIMIT) for ours, theirs in pairs)


def _losses(model: Model, batch: Batch) -> Tensor:
    """−log p of the scored tokens under the dense model, shape (scored,)."""
    inputs = model.anatomy.record(batch.tokens, batch.arguments)
    states = inputs.states
    for block in range(model.blocks):
        states = model.anatomy.call(block, states, inputs)
    states = hidden(states)
    before = states[batch.rows.to(states.device), batch.columns.to(states.device)]
    logits = model.anatomy.head(before.unsqueeze(0))[0]
    return token_nll(logits, batch.targets.to(logits.device))
