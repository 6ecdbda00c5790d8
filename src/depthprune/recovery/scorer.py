"""Scoring removed sets as they are after recovery, for a search that is told to.

The best set after recovery need not be the best before: a block that a linear map can stand in for
is cheap whatever its loss. Every set is recovered on the calibration's fitting windows and scored
on those that choose, which no map was fitted on. Blocks behind gaps are not refitted for a score.
Sets that are asked for together share what they have in common (`shared_fits.py`), so a set of a
search that adds one block to those it has costs a walk from there to the last gap: for one-shot
and greedy, not for searches of thousands.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from depthprune.calibration import Calibration
from depthprune.checkpoints.refusals import Refusal
from depthprune.errors import UsageError
from depthprune.evaluator import Cost, Evaluator, RemovedSet, Score
from depthprune.evaluator.rehearsal import Rehearsal
from depthprune.models.loading import Model
from depthprune.objectives import Mixture
from depthprune.progress import SILENT, Progress
from depthprune.recovery.result import Recovery, block_runs, recovered
from depthprune.recovery.shared_fits import recover_each, shared_block_runs
from depthprune.recovery.splits import as_text, choosing_places
from depthprune.removed_sets import check_removed


class RecoveringScorer:
    """Scores removed sets of one model after recovery. It answers a search like an evaluator.

    Args:
        model: The dense original.
        calibration: Whose windows are fitted, choose, and (the latter) score.
        objective: As an evaluator takes it.
        memory: Bytes that hidden states may take when a set is scored.
        progress: Where the work shows itself.
    """

    def __init__(
        self,
        model: Model,
        calibration: Calibration,
        objective: Any = "nll",
        *,
        memory: int | None = None,
        progress: Progress = SILENT,
    ) -> None:
        self.model = model
        self.calibration = calibration
        self.scored_on = _choosing(calibration)
        self._evaluator = Evaluator(model, self.scored_on, objective, memory=memory)
        self._progress = progress
        self._scores: dict[RemovedSet, Score] = {}
        self._fitting = Cost()

    @property
    def blocks(self) -> int:
        """Number of the model's blocks."""
        return self.model.blocks

    @property
    def refusal(self) -> Refusal:
        """See `Evaluator.refusal`."""
        return self.model.refusal

    @property
    def windows(self) -> int:
        """Number of windows that sets are scored on."""
        return len(self.scored_on.windows)

    @property
    def cost(self) -> Cost:
        """What has been spent so far, on fitting and on scoring."""
        return self._evaluator.cost + self._fitting

    def score(self, removed: Iterable[Sequence[int]], *, windows: int | None = None) -> list[Score]:
        """Losses of removed sets after recovery; `()` is the dense model.

        Raises:
            UsageError: If a set does not fit the model, or fewer windows are asked for.
        """
        if windows not in (None, self.windows):
            raise UsageError("windows: a recovered set is scored on all that choose; pass None")
        sets = [check_removed(s, self.blocks) if len(s) else () for s in removed]
        missing = [s for s in dict.fromkeys(sets) if s not in self._scores]
        if () in missing:
            self._scores[()] = self._evaluator.dense
        fitted = [s for s in missing if s]
        label = f"recovering and scoring {len(fitted)} sets of blocks"
        with self._progress.step(label, len(fitted), "sets") as step:
            for recovery in self._recovered(fitted):
                context = partial(recovered, self.model, recovery)
                score = self._evaluator.score_changed(recovery.removed, context)
                self._scores[recovery.removed] = score
                step.advance()
        return [self._scores[s] for s in sets]

    def compare(
        self, removed: Iterable[Sequence[int]], keep: int, earlier: Sequence[Score] = ()
    ) -> list[Score]:
        """As `score`: nothing is estimated from fewer windows."""
        return self.score(removed)

    def measure(self, name: str) -> Any:
        """No measurement of the dense model says what recovery can do."""
        raise UsageError(
            f"--search-with-recovery: the search asks for {name}, which is not of recovered sets; "
            "take one-shot or greedy"
        )

    def _recovered(self, sets: Sequence[RemovedSet]) -> Iterator[Recovery]:
        """Each set's recovery, and what all of them cost."""
        if not sets:
            return
        plain = fitting_cost(sets, fitted_tokens(self.calibration)).plain_block_tokens
        self._fitting += Cost(plain_block_tokens=plain)
        counted = _Counted()
        each = recover_each(self.model, sets, self.calibration, counted)
        while True:
            began, before = time.monotonic(), counted.block_tokens
            recovery = next(each, None)
            spent, seconds = counted.block_tokens - before, time.monotonic() - began
            self._fitting += Cost(block_tokens=spent, asked_block_tokens=spent, seconds=seconds)
            if recovery is None:
                return
            yield recovery


class _Counted:
    """The block-tokens that a walk was told to have run."""

    block_tokens = 0

    def advance(self, amount: float = 1.0) -> None:
        """Count some more."""
        self.block_tokens += round(amount)


def fitted_tokens(calibration: Calibration) -> int:
    """Tokens that are read to fit a map: of an item its prompt and the right option."""
    return sum(len(as_text(window)) for window in calibration.windows)


def fitting_cost(sets: Sequence[RemovedSet], tokens: int) -> Cost:
    """What recovering some sets together costs, as far as can be told beforehand.

    Args:
        sets: None of them empty.
        tokens: Of the calibration, as they are fitted.
    """
    fitted = tokens * shared_block_runs(sets)
    plain = tokens * sum(map(block_runs, sets))
    return Cost(block_tokens=fitted, plain_block_tokens=plain, asked_block_tokens=fitted)


class RecoveringRehearsal(Rehearsal):
    """Counts what scoring recovered sets would cost; each is fitted on all windows."""

    _fitted = 0

    @classmethod
    def of(cls, model: Model, calibration: Calibration, objective: Mixture) -> RecoveringRehearsal:
        """For what a scorer would be made of."""
        made = super().of(model, _choosing(calibration), objective)
        made._fitted = fitted_tokens(calibration)
        return made

    def compare(
        self, removed: Iterable[Sequence[int]], keep: int, earlier: Sequence[Score] = ()
    ) -> list[Score]:
        """As the scorer's, which has no use for the dense model."""
        return self.score(removed)

    def _walked(self, new: Sequence[RemovedSet], share: float) -> int:
        """A model with changed weights shares nothing with the one that it is compared with."""
        kept = sum(self.blocks - len(s) for s in self._together(new))
        return round(share * self._tokens) * kept

    def _ask(self, new: Sequence[RemovedSet], share: float) -> None:
        for each in new:
            super()._ask([each], share)
        asked = fitting_cost([s for s in new if s], self._fitted).asked_block_tokens
        self._cost += Cost(asked_block_tokens=asked)

    def _pay(self, new: Sequence[RemovedSet], share: float) -> None:
        for each in new:
            super()._pay([each], share)
        self._cost += replace(
            fitting_cost([s for s in new if s], self._fitted), asked_block_tokens=0
        )


def _choosing(calibration: Calibration) -> Calibration:
    """The windows that no map is fitted on."""
    return Calibration(
        tuple(
            replace(part, windows=tuple(part.windows[i] for i in sorted(choosing_places(part))))
            for part in calibration.parts
        )
    )
