"""Computes the losses that are asked for and not known yet, in this process or by workers.

Where a call does not fit in memory, half as many windows share it from then on, and what was
computed before stays.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager

import numpy as np

from depthprune.evaluator.batches import Batch
from depthprune.evaluator.cost import plain_tokens
from depthprune.evaluator.forward import BatchTooLargeError, Changed
from depthprune.evaluator.loss_table import LossTable
from depthprune.evaluator.prefix_walk import RemovedSet
from depthprune.evaluator.remote import RemoteScoring
from depthprune.evaluator.runner import Runner
from depthprune.evaluator.score import LossArray
from depthprune.progress import Progress, ProgressStep

_Work = list[tuple[list[Batch], list[RemovedSet]]]
"""Batches with the sets that are walked on them."""


class LossComputer:
    """Computes the losses of one calibration that a table lacks.

    Args:
        runner: Runs sets on windows in this process.
        table: Takes down what was computed.
        remote: Runs them elsewhere, if anyone does.
        order: In which further windows fill the rows of a call.
        progress: Where long work shows itself.

    Attributes:
        plain_block_tokens: What plain forwards for all that was computed would cost.
    """

    def __init__(
        self,
        runner: Runner,
        table: LossTable,
        remote: RemoteScoring | None,
        order: Sequence[int],
        progress: Progress,
    ) -> None:
        self.plain_block_tokens = 0
        self._runner = runner
        self._table = table
        self._remote = remote
        self._order = order
        self._progress = progress

    @property
    def block_tokens(self) -> int:
        """Spent so far, by workers too."""
        elsewhere = 0 if self._remote is None else self._remote.block_tokens
        return self._runner.forward.block_tokens + elsewhere

    @property
    def head_tokens(self) -> int:
        """Spent so far, by workers too."""
        elsewhere = 0 if self._remote is None else self._remote.head_tokens
        return self._runner.losses.head_tokens + elsewhere

    def compute(self, sets: Sequence[RemovedSet], places: Sequence[int]) -> None:
        """Make every loss of these sets on these windows known."""
        while missing := self._table.missing(sets, places):
            try:
                self._compute_missing(missing)
            except BatchTooLargeError as error:
                self._share_less(error)

    def changed(self, removed: RemovedSet, changed: Changed) -> LossArray:
        """Losses of a set, shape (components, windows), in a model of which weights are changed.

        Args:
            removed: The set.
            changed: Gives a context inside which the model has the changed weights.
        """
        while True:
            try:
                return self._changed(removed, changed)
            except BatchTooLargeError as error:
                self._share_less(error)

    def _compute_missing(self, missing: Mapping[tuple[int, ...], list[RemovedSet]]) -> None:
        runner = self._runner
        work = [
            (list(runner.calls.batches(unknown, self._spare(unknown, members))), sorted(members))
            for unknown, members in missing.items()
        ]
        total = sum(runner.forward.planned(batches, members) for batches, members in work)
        count = len({removed for _, members in work for removed in members})
        with self._step(count, total) as step, runner.attention():
            found = (
                self._run(work, step)
                if self._remote is None
                else self._remote.run(work, runner.call_key, step)
            )
            for places, losses in found:
                self._count_plain(places, losses)
                self._table.note(places, losses)

    def _run(
        self, work: _Work, step: ProgressStep
    ) -> Iterator[tuple[tuple[int, ...], Mapping[RemovedSet, LossArray]]]:
        for batches, members in work:
            for batch, losses in self._runner.forward.run(batches, members, step):
                yield batch.places, losses

    def _changed(self, removed: RemovedSet, changed: Changed) -> LossArray:
        runner = self._runner
        losses = np.full(runner.judged.shape, np.nan)
        batches = list(runner.calls.batches(range(len(runner.windows))))
        total = runner.forward.planned(batches, [removed], changed)
        with self._step(1, total) as step, runner.attention():
            for batch, found in runner.forward.run(batches, [removed], step, changed):
                self._count_plain(batch.places, found)
                losses[:, batch.places] = found[removed]
        return losses

    def _spare(self, places: Sequence[int], sets: Sequence[RemovedSet]) -> list[int]:
        """Further windows, on which none of the sets is known: those that a race comes to next."""
        taken = set(places)
        known = np.any([self._table.known(removed) for removed in sets], axis=0)
        return [place for place in self._order if place not in taken and not known[place]]

    def _share_less(self, error: BatchTooLargeError) -> None:
        """Halve how many windows share a call; what is computed from here on is kept apart."""
        self._runner.calls.shrink(error.places)
        if self._remote is not None:
            self._remote.shrink(error.places)

    def _count_plain(self, places: Sequence[int], sets: Iterable[RemovedSet]) -> None:
        """What plain forwards for these sets on these windows would cost."""
        tokens = sum(plain_tokens(self._runner.windows[place]) for place in places)
        blocks = self._runner.model.blocks
        self.plain_block_tokens += sum(tokens * (blocks - len(s)) for s in sets)

    def _step(self, sets: int, total: int) -> AbstractContextManager[ProgressStep]:
        label = f"scoring {sets} set{'s' if sets > 1 else ''} of blocks"
        return self._progress.step(label, total, "block-tokens")
