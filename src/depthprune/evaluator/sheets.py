"""Sheets: windows laid out to be run together, and which state predicts which token.

Windows of text of one length are rows of a sheet; one of another length makes a sheet of its own,
so nothing is ever padded. Items share a single row: each item's options stand behind its prompt,
an attention mask lets an option see the prompt and itself, and positions continue from the prompt,
so the prompt is computed once for all options (and several items fill a call). Where a model
cannot read such a row exactly, each option is a row of its own behind a copy of the prompt.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from depthprune.calibration import Window


@dataclass(frozen=True)
class Sheet:
    """Windows that are run together.

    Attributes:
        places: Which of the calibration's windows.
        tokens: Token ids, shape (rows, length).
        rows: For each scored token, in the order of the windows and of their tokens, the row of
            the state that predicts it; shape (scored,).
        columns: And the column, shape (scored,).
        targets: The scored tokens, shape (scored,).
        counts: How many scored tokens each window has.
        arguments: What the model is told besides the tokens.
    """

    places: tuple[int, ...]
    tokens: Tensor
    rows: Tensor
    columns: Tensor
    targets: Tensor
    counts: tuple[int, ...]
    arguments: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Tokens that go through each block."""
        return self.tokens.numel()


def lay_out(
    windows: Sequence[Window],
    places: Sequence[int],
    *,
    text_tokens: int,
    item_tokens: int,
    packs: bool,
    dtype: torch.dtype,
) -> Iterator[Sheet]:
    """Lay some windows out on sheets.

    Args:
        windows: All windows.
        places: Which of them, in the order in which they are to be run.
        text_tokens: Up to how many tokens windows of text share a sheet.
        item_tokens: Up to how many tokens items share a row.
        packs: Whether the model reads packed items exactly.
        dtype: Of the model's attention masks.
    """
    by_length: dict[int, list[int]] = {}
    for place in places:
        if windows[place].item is None:
            by_length.setdefault(len(windows[place].tokens), []).append(place)
    for length, alike in by_length.items():
        size = max(1, text_tokens // length)
        for first in range(0, len(alike), size):
            yield _text_sheet(windows, tuple(alike[first : first + size]))
    items = [place for place in places if windows[place].item is not None]
    if not packs:
        yield from (option_rows(windows, place) for place in items)
        return
    row: list[int] = []
    for place in items:
        if row and sum(len(windows[p].tokens) for p in (*row, place)) > item_tokens:
            yield packed(windows, tuple(row), dtype)
            row = []
        row.append(place)
    if row:
        yield packed(windows, tuple(row), dtype)


def _text_sheet(windows: Sequence[Window], places: tuple[int, ...]) -> Sheet:
    tokens = torch.from_numpy(np.stack([windows[p].tokens for p in places]))
    scored = torch.from_numpy(np.stack([windows[p].scored for p in places]))
    rows, columns = scored.nonzero(as_tuple=True)
    counts = tuple(scored.sum(1).tolist())
    return Sheet(places, tokens, rows, columns - 1, tokens[rows, columns], counts)


def packed(windows: Sequence[Window], places: tuple[int, ...], dtype: torch.dtype) -> Sheet:
    """Items in one row, each prompt once."""
    tokens = np.concatenate([windows[p].tokens for p in places])
    positions, columns, counts = [], [], []
    visible = torch.zeros(len(tokens), len(tokens), dtype=torch.bool)
    start = 0
    for place in places:
        window = windows[place]
        spans = _spans(window)
        prompt = spans[0][0]
        causal = torch.ones(len(window.tokens), len(window.tokens), dtype=torch.bool).tril()
        where = np.arange(len(window.tokens))
        before = np.arange(len(window.tokens)) - 1
        for first, last in spans:
            causal[first:last, prompt:first] = False
            where[first:last] = prompt + np.arange(last - first)
            before[first] = prompt - 1
        end = start + len(window.tokens)
        visible[start:end, start:end] = causal
        positions.append(where)
        columns.append(start + before[window.scored])
        counts.append(int(window.scored.sum()))
        start = end
    mask = torch.zeros(visible.shape, dtype=dtype).masked_fill(~visible, torch.finfo(dtype).min)
    scored = np.concatenate([windows[p].scored for p in places])
    column = torch.from_numpy(np.concatenate(columns))
    return Sheet(
        places=places,
        tokens=torch.from_numpy(tokens)[None],
        rows=torch.zeros_like(column),
        columns=column,
        targets=torch.from_numpy(tokens[scored]),
        counts=tuple(counts),
        arguments={
            "attention_mask": mask[None, None],
            "position_ids": torch.from_numpy(np.concatenate(positions))[None],
        },
    )


def option_rows(windows: Sequence[Window], place: int) -> Sheet:
    """One item, a row an option; what fills shorter rows stands behind, where no token sees it."""
    window = windows[place]
    spans = _spans(window)
    prompt = spans[0][0]
    width = prompt + max(last - first for first, last in spans)
    tokens = np.repeat(window.tokens[:1], len(spans) * width).reshape(len(spans), width)
    rows: list[NDArray[np.int64]] = []
    columns: list[NDArray[np.int64]] = []
    for row, (first, last) in enumerate(spans):
        tokens[row, :prompt] = window.tokens[:prompt]
        tokens[row, prompt : prompt + last - first] = window.tokens[first:last]
        inside = np.flatnonzero(window.scored[first:last])
        rows.append(np.full(len(inside), row))
        columns.append(prompt - 1 + inside)
    return Sheet(
        places=(place,),
        tokens=torch.from_numpy(tokens),
        rows=torch.from_numpy(np.concatenate(rows)),
        columns=torch.from_numpy(np.concatenate(columns)),
        targets=torch.from_numpy(window.tokens[window.scored]),
        counts=(int(window.scored.sum()),),
    )


def _spans(window: Window) -> tuple[tuple[int, int], ...]:
    if window.item is None:
        raise ValueError("the window is no item")
    return window.item.spans


def halves(windows: Sequence[Window], sheet: Sheet) -> list[Sheet]:
    """A sheet of at least two windows as two."""
    middle = len(sheet.places) // 2
    parts = sheet.places[:middle], sheet.places[middle:]
    mask = sheet.arguments.get("attention_mask")
    if mask is None:
        return [_text_sheet(windows, part) for part in parts]
    return [packed(windows, part, mask.dtype) for part in parts]
