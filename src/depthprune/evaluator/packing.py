"""Whether a model reads packed items exactly, shown on the items themselves.

A packed row needs a model that takes a mask and positions for every token and mixes tokens by
attention alone. Rather than list such models, the longest item is run both ways through all
blocks, and the losses of its tokens are compared: states would not do, whose few massive
activations hide any difference. The two ways are calls of other shapes, which a dtype of few bits
rounds apart by more than some misreadings, so they are compared in float32.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from depthprune.calibration import Window
from depthprune.errors import ModelError
from depthprune.evaluator.sheets import Sheet, option_rows, packed_rows
from depthprune.models.carried import hidden
from depthprune.models.loading import Model
from depthprune.models.widening import widened
from depthprune.objectives.nll import token_nll

_LIMIT = 1e-4
"""Nats a token, in the mean, in float32; what is read wrongly differs by tenths."""


@torch.inference_mode()
def reads_packed_items(model: Model, windows: Sequence[Window]) -> bool:
    """Whether the longest item gives the same losses packed as with a row for each option.

    It costs that item twice through every block, in float32; a model whose blocks are read from
    disk is not tried.
    """
    items = [place for place, window in enumerate(windows) if window.item is not None]
    if not items or model.streamed:
        return False
    longest = max(items, key=lambda place: len(windows[place].tokens))
    # Beside another item, which is filled up to the length of this one.
    places = tuple(dict.fromkeys((items[0], longest)))
    length = len(windows[longest].tokens)
    try:
        with widened(model.module, model.anatomy.blocks.modules):
            sheet = packed_rows(windows, places, torch.float32, len(places), length)
            together = _losses(model, sheet)
            apart = torch.cat([_losses(model, option_rows(windows, place)) for place in places])
    except (RuntimeError, TypeError, ValueError, IndexError, ModelError):
        # No mask and positions are taken, or memory holds no block in float32: an option a row
        # is always right.
        return False
    return bool((together - apart).abs().mean() <= _LIMIT)


def _losses(model: Model, sheet: Sheet) -> Tensor:
    """−log p of the scored tokens under the dense model, shape (scored,)."""
    inputs = model.anatomy.record(sheet.tokens, sheet.arguments)
    states = inputs.states
    for block in range(model.blocks):
        states = model.anatomy.call(block, states, inputs)
    states = hidden(states)
    before = states[sheet.rows.to(states.device), sheet.columns.to(states.device)]
    logits = model.anatomy.head(before.unsqueeze(0))[0]
    return token_nll(logits, sheet.targets.to(logits.device))
