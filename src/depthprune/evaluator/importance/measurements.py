"""Measurements of the dense model that are known: to this evaluator, and to the memo.

The memo keeps a loss for a removed set on a window. A measurement is of all windows together, so
one key stands for them; its value for a block, or for a run of blocks, is stored as that of the set
of those blocks, and what it cost as that of the empty set.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np

from depthprune.calibration import Calibration
from depthprune.evaluator.importance.measures import MEASURES
from depthprune.evaluator.importance.passes import Importance
from depthprune.evaluator.memo.store import Context, Memo, window_key
from depthprune.evaluator.prefix_walk import RemovedSet
from depthprune.evaluator.score import Weighting


class Measurements:
    """What was measured, by name.

    Args:
        blocks: How many the model has.
        calibration: What is measured on; its windows and their weights name a measurement.
        memo: Where measurements are kept for other runs, if anywhere.
        context: What they depend on besides the windows; None where nothing is stored.
    """

    def __init__(
        self, blocks: int, calibration: Calibration, memo: Memo | None, context: Context | None
    ) -> None:
        self._blocks = blocks
        self._memo = memo if context is not None else None
        self._context = context
        digest = hashlib.blake2b(digest_size=16)
        windows = [window_key(w.tokens, w.scored, w.item) for w in calibration.windows]
        for part in (*windows, Weighting.of(calibration).weights().tobytes()):
            digest.update(len(part).to_bytes(8, "little") + part)
        self._key = digest.digest()
        self._known: dict[str, Importance] = {}

    def find(self, name: str) -> Importance | None:
        """A measurement that is known, or None."""
        if name not in self._known and (found := self._recalled(name)) is not None:
            self._known[name] = found
        return self._known.get(name)

    def keep(self, name: str, signal: Importance) -> None:
        """Keep a measurement, here and in the memo."""
        self._known[name] = signal
        if self._memo is None or self._context is None:
            return
        values = {s: signal.values[place] for s, place in self._places(name).items()}
        values[()] = np.float64(signal.block_tokens)
        rows = {removed: np.array([value]) for removed, value in values.items()}
        self._memo.store_all(_of(self._context, name), [self._key], rows)

    def _recalled(self, name: str) -> Importance | None:
        if self._memo is None or self._context is None or name not in MEASURES:
            return None
        places = self._places(name)
        found = self._memo.look_up(_of(self._context, name), [(), *places], [self._key])
        if not all(row.known.all() for row in found.values()):
            return None
        ends = max(places.values())
        shape = (self._blocks,) if len(ends) == 1 else (self._blocks, self._blocks + 1)
        values = np.full(shape, np.nan)
        if len(shape) == 2:
            values[:, 0] = 0.0
        for removed, place in places.items():
            values[place] = found[removed].losses[0]
        return Importance(values, int(found[()].losses[0]))

    def _places(self, name: str) -> dict[RemovedSet, tuple[int, ...]]:
        """Where the value of each set of blocks stands in the array."""
        if name != "angular":
            return {(block,): (block,) for block in range(self._blocks)}
        return {
            tuple(range(first, first + count)): (first, count)
            for first in range(self._blocks)
            for count in range(1, self._blocks - first + 1)
        }


def _of(context: Context, name: str) -> Context:
    return replace(context, objective=f"measurement {name}")
