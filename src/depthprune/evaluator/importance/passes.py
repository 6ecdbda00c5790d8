"""Passes of the dense model that measurements are taken on.

A measurement is a mean over the positions whose states predict scored tokens (of a text window, all
but the last), windows and sources weighted as in the loss. Where blocks are read from disk all
batches go through a block before the next is read, and past the memory their states wait in a file.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from depthprune.calibration import Window
from depthprune.evaluator.batches import Batch
from depthprune.evaluator.forward import recorded
from depthprune.evaluator.state_store import StateStore
from depthprune.models.blocks.carried import State, hidden
from depthprune.models.loading import Model

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Importance:
    """A measurement and what it cost.

    Attributes:
        values: Shape (blocks,); of `angular`, (blocks, blocks + 1).
        block_tokens: Tokens times blocks.
    """

    values: Values
    block_tokens: int


class WeightedBatch:
    """A batch, and what each of its positions counts."""

    def __init__(self, batch: Batch, weights: Values, windows: Sequence[Window]) -> None:
        self.batch = batch
        self.size = batch.size
        self._weights = weights
        self._windows = windows

    @property
    def shares(self) -> Values:
        """Of each position that predicts a scored token in the mean over all, shape (scored,)."""
        parts = [
            np.full(count, self._weights[place] / count)
            for place, count in zip(self.batch.places, self.batch.counts, strict=True)
        ]
        return np.concatenate(parts)

    @property
    def loss_shares(self) -> Values:
        """Of each scored token in the NLL, where an item's wrong options count nothing."""
        parts = []
        for place, count in zip(self.batch.places, self.batch.counts, strict=True):
            item = self._windows[place].item
            counts = np.ones(count)
            if item is not None:
                ends = np.cumsum([last - first for first, last in item.spans])
                counts[:] = 0.0
                counts[ends[item.answer] - _length(item.spans[item.answer]) : ends[item.answer]] = 1
            parts.append(self._weights[place] * counts / counts.sum())
        return np.concatenate(parts)

    def at_positions(self, state: State) -> Tensor:
        """The states that predict scored tokens, shape (scored, width); streams side by side."""
        batch, states = self.batch, hidden(state)
        at = states[batch.rows.to(states.device), batch.columns.to(states.device)]
        return at.flatten(1)


def _length(span: tuple[int, int]) -> int:
    return span[1] - span[0]


def groups(model: Model, batches: Sequence[WeightedBatch]) -> list[list[WeightedBatch]]:
    """Batches that go through a block together."""
    return [list(batches)] if model.streamed else [[batch] for batch in batches]


def passes(
    model: Model, batches: Sequence[WeightedBatch], store: StateStore
) -> Iterator[tuple[int, WeightedBatch, State, State]]:
    """Run batches through the model: each block with each batch's states before and behind it."""
    for group in groups(model, batches):
        inputs, states = recorded(model, [each.batch for each in group], store)
        for block in range(model.blocks):
            with model.anatomy.holding(block):
                for place, batch in enumerate(group):
                    before = states[place].get()
                    behind = model.anatomy.call(block, before, inputs[place])
                    states[place] = store.put(behind)
                    yield block, batch, before, behind
