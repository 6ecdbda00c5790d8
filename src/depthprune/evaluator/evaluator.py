"""The evaluator: scores many removed sets on one calibration under one objective.

`score` is exact: every set on every window, each shared part of the work done once (see
`prefix_walk`), nothing computed that this evaluator or its memo knows. `compare` answers a search
that wants the best few of many: it races them (see `racing`), unless it is told to be exact.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cached_property, partial

import numpy as np
from numpy.typing import NDArray

from depthprune.calibration import Calibration, require_positions
from depthprune.checkpoints.refusals import Refusal
from depthprune.errors import UsageError
from depthprune.evaluator.aggregate import Combination
from depthprune.evaluator.asked import Asked
from depthprune.evaluator.compute import LossComputer
from depthprune.evaluator.cost import Cost
from depthprune.evaluator.forward import Changed
from depthprune.evaluator.importance import measure
from depthprune.evaluator.importance.measurements import Measurements
from depthprune.evaluator.loss_table import LossTable
from depthprune.evaluator.memo.contexts import contexts_of
from depthprune.evaluator.memo.store import Memo
from depthprune.evaluator.memory import call_tokens
from depthprune.evaluator.prefix_walk import RemovedSet
from depthprune.evaluator.racing.race import Race, order_of
from depthprune.evaluator.racing.settings import Racing
from depthprune.evaluator.remote import RemoteScoring
from depthprune.evaluator.rounding import Rounding, measure_rounding
from depthprune.evaluator.runner import Runner, attends_by_products
from depthprune.evaluator.score import Score
from depthprune.evaluator.shards import LossWorkers
from depthprune.models.arithmetic import arithmetic_of
from depthprune.models.loading import Model
from depthprune.objectives import Mixture, Objective, parse_objective
from depthprune.progress import SILENT, Progress
from depthprune.removed_sets import check_removed

DEFAULT_RACING = Racing()


class Evaluator:
    """Scores removed sets of one model on one calibration.

    Args:
        model: A loaded model.
        calibration: What it is scored on.
        objective: A name such as `nll`, `kl:top=64` or `nll:0.5+option-ce:0.5`, or an objective.
        memory: Bytes that hidden states may take; by default half of what is free.
        memo: Store of losses that are computed once for all runs; None keeps them to this object.
        racing: How `compare` races; None makes it exact.
        plain: Compute attention as transformers does also where products are faster, so that a
            window's losses are those of a plain forward of the same shape; in others they round.
        progress: Where long work shows itself.
        workers: Who computes losses in this process's place; what they round by is what the memo
            keeps them under.

    Raises:
        UsageError: If the objective is unknown or cannot judge the calibration, or `memory` is
            below what two states of the longest window take.
    """

    def __init__(
        self,
        model: Model,
        calibration: Calibration,
        objective: str | Objective | Mixture = "nll",
        *,
        memory: int | None = None,
        memo: Memo | None = None,
        racing: Racing | None = DEFAULT_RACING,
        plain: bool = False,
        progress: Progress = SILENT,
        workers: LossWorkers | None = None,
    ) -> None:
        self.model = model
        self._mended = tuple(model.mended)
        self.calibration = calibration
        self.objective = parse_objective(objective)
        self.racing = racing
        self.progress = progress
        require_positions(model, calibration)
        windows = calibration.windows
        products = not plain and attends_by_products(model)
        self._runner = Runner(
            model, windows, self.objective, memory, call_tokens(model), products=products
        )
        self._combination = Combination(self.objective, self._runner.judged, calibration)
        contexts = []
        if memo is not None:
            rounds = workers.rounds if workers is not None else arithmetic_of(model)
            contexts = contexts_of(model, self.objective, products, rounds)
        self._loss_table = LossTable(
            windows, self._runner.judged, memo, contexts, self._runner.call_key
        )
        self._order = order_of(calibration)
        remote = None if workers is None else RemoteScoring(workers, self._runner, memory)
        self._computer = LossComputer(self._runner, self._loss_table, remote, self._order, progress)
        self._memo = memo
        self._measured: set[str] = set()
        self._scores: dict[RemovedSet, Score] = {}
        self._asked = Asked(self._order)
        self._seconds = 0.0

    def __repr__(self) -> str:
        return f"Evaluator({self.model!r}, {self.calibration!r}, {self.objective.name!r})"

    @property
    def blocks(self) -> int:
        """Number of the model's blocks."""
        return self.model.blocks

    @property
    def refusal(self) -> Refusal:
        """Says why the model without a set could not be saved, or None: a search asks it."""
        return self.model.refusal

    @property
    def windows(self) -> int:
        """Number of the calibration's windows."""
        return len(self.calibration.windows)

    @property
    def cost(self) -> Cost:
        """What has been spent so far, by workers too."""
        return Cost(
            evaluations=self._asked.windows / len(self._order),
            block_tokens=self._computer.block_tokens,
            head_tokens=self._computer.head_tokens,
            plain_block_tokens=self._computer.plain_block_tokens,
            recalled=self._loss_table.recalled,
            asked_block_tokens=self._asked.block_tokens,
            seconds=self._seconds,
        )

    @property
    def dense(self) -> Score:
        """The score of the model with every block."""
        return self._scored([()])[0]

    def forget_asked(self) -> None:
        """Count what is asked for from here on as if for the first time; losses stay known.

        Searches that share an evaluator are then each counted, and limited by a budget, as if
        alone.
        """
        self._asked.forget()
        self._measured.clear()

    def has_asked(self, removed: RemovedSet) -> bool:
        """Whether a sorted set was scored before, be it on some of the windows."""
        return removed in self._asked

    def known(self, removed: Sequence[RemovedSet]) -> list[Score]:
        """Scores of sorted sets over the windows that they were scored on; over all if on none."""
        unseen = [s for s in removed if not self._loss_table.known(s).any()]
        self._scored(unseen)
        return [self._at_hand(s) for s in removed]

    def _at_hand(self, removed: RemovedSet) -> Score:
        if removed in self._scores or self._loss_table.known(removed).all():
            return self._scored([removed])[0]
        places = np.flatnonzero(self._loss_table.known(removed)).tolist()
        return self._combination.score(removed, self._loss_table.losses(removed), places)

    def score(self, removed: Iterable[Sequence[int]], *, windows: int | None = None) -> list[Score]:
        """Score removed sets exactly.

        Args:
            removed: Sets of original block numbers, in any order; `()` is the dense model.
            windows: On how many windows, the first of a fixed random order; None for all.

        Returns:
            One score a set, in the order given.

        Raises:
            UsageError: If a set names a block twice, or one that does not exist, or there are
                fewer windows.
        """
        sets = self._checked(removed)
        count = self.windows
        if windows is None or windows == count:
            return self._scored(sets)
        if not 1 <= windows < count:
            raise UsageError(f"windows: expected 1 to {count}, got {windows}")
        self._scale()
        places = sorted(self._order[:windows])
        self._compute(sets, places)
        return [self._combination.score(s, self._loss_table.losses(s), places) for s in sets]

    def score_changed(self, removed: Sequence[int], changed: Changed) -> Score:
        """Score a removed set in a model of which some weights are changed; nothing is kept.

        What it is compared with, or scaled by, is the dense model with its own weights.

        Args:
            removed: Original block numbers, at least one.
            changed: Gives a context inside which the model has the changed weights.

        Raises:
            UsageError: If the set does not fit the model.
        """
        wanted = check_removed(removed, self.blocks)
        self._scale()
        began = time.monotonic()
        self._note_asked([wanted], range(self.windows), changed)
        losses = self._computer.changed(wanted, changed)
        self._seconds += time.monotonic() - began
        return self._combination.score(wanted, losses)

    def compare(
        self, removed: Iterable[Sequence[int]], keep: int, earlier: Sequence[Score] = ()
    ) -> list[Score]:
        """Find the `keep` best of some sets.

        The `keep` lowest of the losses answered are those of the best. With racing the losses are
        estimates from as many windows as it took, and `Score.windows` says how many those were; a
        set that dropped out never ranks above one that did not.

        Args:
            removed: Distinct sets, as for `score`.
            keep: How many of them are wanted.
            earlier: What was answered to the same search before. Where its sets differed as these
                do, it tells how much windows differ, and fewer are needed.

        Returns:
            One score a set, in the order given.

        Raises:
            UsageError: If a set does not fit the model, or `keep` is below 1.
        """
        if keep < 1:
            raise UsageError(f"keep: expected how many of the best are wanted, got {keep}")
        sets = self._checked(removed)
        # The dense model shares its way with the candidates: with them it is all but free.
        if self.racing is None or keep >= len(sets) or not self._combination.races:
            return self._scored([(), *sets])[1:]
        self._scale()
        settings = self.racing
        if self.rounding is not None and self.rounding.share > settings.tolerance:
            # What rounding alone can turn round is a tie.
            settings = replace(settings, tolerance=self.rounding.share)
        least = max(1, self._runner.calls.rows // 2)  # half a call
        race = Race(sets, keep, settings, self._combination, self._order, least, earlier)
        for places, contenders in race:
            self._compute([(), *contenders], places)
            race.tell({s: self._loss_table.losses(s) for s in contenders})
        return race.scores()

    @cached_property
    def rounding(self) -> Rounding | None:
        """What rounding alone does to these losses; None where it is not measured."""
        return measure_rounding(self._runner, self._order)

    def measure(self, name: str) -> NDArray[np.float64]:
        """Measure the dense model on the calibration, in one pass: see `importance`.

        What was measured before, here or in the memo, is not measured again.

        Args:
            name: `block-influence`, `relative-magnitude`, `taylor` or `angular`.

        Returns:
            A value for each block; of `angular` one for each block and distance.
        """
        self._require_its_weights()
        began = time.monotonic()
        signal = self._measurements.find(name)
        if signal is None:
            with self.progress.step(f"measuring {name}", None, ""):
                batches = self._runner.calls.alone(range(self.windows))
                signal = measure(self.model, self.calibration, name, batches, self._runner.memory)
            self._measurements.keep(name, signal)
            self._runner.forward.block_tokens += signal.block_tokens
            self._computer.plain_block_tokens += signal.block_tokens
        if name not in self._measured:
            self._measured.add(name)
            self._asked.block_tokens += signal.block_tokens
        self._seconds += time.monotonic() - began
        values: NDArray[np.float64] = signal.values.copy()
        return values

    @cached_property
    def _measurements(self) -> Measurements:
        contexts = []
        if self._memo is not None:
            # Attention is transformers' own here, whatever losses are computed with.
            rounds = arithmetic_of(self.model)
            contexts = contexts_of(self.model, self.objective, False, rounds)
        return Measurements(
            self.blocks, self.calibration, self._memo, contexts[0] if contexts else None
        )

    def _checked(self, removed: Iterable[Sequence[int]]) -> list[RemovedSet]:
        return [check_removed(s, self.blocks) if len(s) else () for s in removed]

    def _require_its_weights(self) -> None:
        if [*map(id, self._mended)] != [*map(id, self.model.mended)]:
            raise UsageError(
                "evaluator: was made when the model had other weights; make another one inside "
                "dp.recovered, or behind it"
            )

    def _scored(self, sets: Sequence[RemovedSet]) -> list[Score]:
        self._require_its_weights()
        self._scale()
        self._note_asked(sets, range(self.windows))
        missing = [s for s in dict.fromkeys(sets) if s not in self._scores]
        if missing:
            self._compute(missing, range(self.windows))
            for removed in missing:
                losses = self._loss_table.losses(removed)
                self._scores[removed] = self._combination.score(removed, losses)
        return [self._scores[s] for s in sets]

    def _scale(self) -> None:
        """For a mixture, have the dense model's losses, which the components are divided by."""
        if self._combination.scaled:
            self._compute([()], range(self.windows))
            self._combination.scale_by(self._loss_table.losses(()))

    def _compute(self, sets: Sequence[RemovedSet], places: Sequence[int]) -> None:
        """Make every loss of these sets on these windows known."""
        self._require_its_weights()
        began = time.monotonic()
        self._note_asked(sets, places)
        self._computer.compute(sets, places)
        self._seconds += time.monotonic() - began

    def _note_asked(
        self, sets: Sequence[RemovedSet], places: Sequence[int], changed: Changed | None = None
    ) -> None:
        """Count what is asked for, whoever computes it, so that a resumed run agrees."""
        self._asked.note(
            sets,
            places,
            lambda new, spare: self._runner.calls.layout(new, spare),
            partial(self._runner.forward.asked, changed=changed),
        )
