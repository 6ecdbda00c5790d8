"""The evaluator: scores many removed sets on one calibration under one objective.

`score` is exact: every set on every window, each shared part of the work done once (see `walk`),
nothing computed that this evaluator or its memo knows. `compare` answers a search that wants the
best few of many: it races them (see `racing`), unless it is told to be exact.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import cached_property

import numpy as np
import torch
import transformers
from numpy.typing import NDArray

from depthprune.calibration import Calibration, require_positions
from depthprune.checkpoints.refusals import Refusal
from depthprune.errors import UsageError
from depthprune.evaluator.aggregate import Combination
from depthprune.evaluator.asked import Asked
from depthprune.evaluator.batches import reads_packed_items
from depthprune.evaluator.calls import Calls
from depthprune.evaluator.cost import Cost
from depthprune.evaluator.forward import (
    BatchTooLargeError,
    Changed,
    Forward,
)
from depthprune.evaluator.importance import measure
from depthprune.evaluator.loss_table import LossTable
from depthprune.evaluator.losses import Losses
from depthprune.evaluator.measurements import Measurements
from depthprune.evaluator.memo.store import Context, Memo, window_key
from depthprune.evaluator.memory import state_budget
from depthprune.evaluator.prefix_walk import RemovedSet
from depthprune.evaluator.racing.race import Race
from depthprune.evaluator.racing.settings import Racing
from depthprune.evaluator.remote import RemoteScoring
from depthprune.evaluator.rounding import Rounding, measure_rounding
from depthprune.evaluator.score import Score, Weighting
from depthprune.evaluator.shards import LossWorkers
from depthprune.models.arithmetic import arithmetic_of
from depthprune.models.attention import (
    AttentionHeads,
    fast_attention,
    products_are_faster,
)
from depthprune.models.devices import DTYPES
from depthprune.models.loading import Model
from depthprune.objectives import Mixture, Objective, parse_objective
from depthprune.progress import SILENT, Progress
from depthprune.removed_sets import check_removed

DEFAULT_RACING = Racing()

_CALL_TOKENS = {"cpu": 512}
_CALL_TOKENS_ELSEWHERE = 16_384


class Evaluator:
    """Scores removed sets of one model on one calibration.

    Args:
        model: A loaded model.
        calibration: What it is scored on.
        objective: A name such as `nll`, `kl:top=64` or `nll:0.5+cosine:0.5`, or an objective.
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
        self.calibration = calibration
        self.objective = parse_objective(objective)
        self.racing = racing
        self.progress = progress
        require_positions(model, calibration)
        windows = calibration.windows
        judged = np.array(self.objective.judged(windows))
        self._judged = judged
        self._combination = Combination(self.objective, judged, calibration)
        self._losses = Losses(model, self.objective, windows, judged)
        budget = state_budget(model, windows, memory, call_tokens(model))
        self._forward = Forward(model, self._losses, budget.bytes)
        self._memory = budget.bytes
        self._batch_tokens = min(budget.batch_tokens, call_tokens(model))
        self._products = not plain and _attends_by_products(model)
        self._remote = None
        if workers is not None:
            self._remote = RemoteScoring(
                workers,
                windows,
                self.objective,
                memory=memory,
                products=self._products,
                batch_tokens=self._batch_tokens,
                blocks=model.blocks,
                streamed=model.streamed,
            )
        contexts = []
        if memo is not None:
            rounds = workers.rounds if workers is not None else arithmetic_of(model)
            contexts = _contexts(model, self.objective, self._products, rounds)
        self._loss_table = LossTable(windows, judged, memo, contexts, self._call_key)
        self._memo = memo
        self._measured: set[str] = set()
        self._order = _order(calibration)
        self._scores: dict[RemovedSet, Score] = {}
        self._asked = Asked(self._order)
        self._plain_block_tokens = 0
        self._seconds = 0.0

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
        remote = self._remote
        return Cost(
            evaluations=self._asked.windows / len(self._order),
            block_tokens=self._forward.block_tokens + (remote.block_tokens if remote else 0),
            head_tokens=self._losses.head_tokens + (remote.head_tokens if remote else 0),
            plain_block_tokens=self._plain_block_tokens,
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
        count = len(self.calibration.windows)
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
        places = range(len(self.calibration.windows))
        self._note_asked([wanted], places)
        losses: NDArray[np.float64] | None = None
        while losses is None:
            try:
                losses = self._changed_losses(wanted, changed)
            except BatchTooLargeError as error:
                self._share_less(error)
        self._seconds += time.monotonic() - began
        return self._combination.score(wanted, losses)

    def _changed_losses(self, removed: RemovedSet, changed: Changed) -> NDArray[np.float64]:
        losses = np.full((len(self.objective.components), self.windows), np.nan)
        batches = list(self._calls.batches(range(self.windows)))
        total = self._forward.planned(batches, [removed], changed)
        with self.progress.step(_label(1), total, "block-tokens") as step, self._attention():
            for batch, found in self._forward.run(batches, [removed], step, changed):
                self._count_plain(batch.places, found)
                losses[:, batch.places] = found[removed]
        return losses

    def compare(self, removed: Iterable[Sequence[int]], keep: int) -> list[Score]:
        """Find the `keep` best of some sets.

        The `keep` lowest of the losses answered are those of the best. With racing the losses are
        estimates from as many windows as it took, and `Score.windows` says how many those were; a
        set that dropped out never ranks above one that did not.

        Args:
            removed: Distinct sets, as for `score`.
            keep: How many of them are wanted.

        Returns:
            One score a set, in the order given.
        """
        sets = self._checked(removed)
        # The dense model shares its way with the candidates: with them it is all but free.
        if self.racing is None or keep >= len(sets) or not self._combination.races:
            return self._scored([(), *sets])[1:]
        self._scale()
        settings = self.racing
        if self.rounding is not None and self.rounding.share > settings.tolerance:
            # What rounding alone can turn round is a tie.
            settings = replace(settings, tolerance=self.rounding.share)
        race = Race(sets, keep, settings, self._combination, self._order, self._least())
        for places, contenders in race:
            self._compute([(), *contenders], places)
            race.tell({s: self._loss_table.losses(s) for s in contenders})
        return race.scores()

    @cached_property
    def rounding(self) -> Rounding | None:
        """What rounding alone does to these losses; None where it is not measured."""
        calibration, judged = self.calibration, self._judged
        return measure_rounding(
            self.model,
            self.objective,
            calibration.windows,
            judged,
            self._order,
            self._calls,
            self._memory,
            self._attention(),
        )

    def measure(self, name: str) -> NDArray[np.float64]:
        """Measure the dense model on the calibration, in one pass: see `signals`.

        What was measured before, here or in the memo, is not measured again.

        Args:
            name: `block-influence`, `relative-magnitude`, `taylor` or `angular`.

        Returns:
            A value for each block; of `angular` one for each block and distance.
        """
        began = time.monotonic()
        signal = self._measurements.find(name)
        if signal is None:
            with self.progress.step(f"measuring {name}", None, ""):
                batches = self._calls.alone(range(self.windows))
                signal = measure(self.model, self.calibration, name, batches, self._memory)
            self._measurements.keep(name, signal)
            self._forward.block_tokens += signal.block_tokens
            self._plain_block_tokens += signal.block_tokens
        if name not in self._measured:
            self._measured.add(name)
            self._asked.block_tokens += signal.block_tokens
        self._seconds += time.monotonic() - began
        values: NDArray[np.float64] = signal.values.copy()
        return values

    @cached_property
    def _measurements(self) -> Measurements:
        # Attention is transformers' own here, whatever losses are computed with.
        rounds = arithmetic_of(self.model)
        contexts = (
            [] if self._memo is None else _contexts(self.model, self.objective, False, rounds)
        )
        windows = [window_key(w.tokens, w.scored, w.item) for w in self.calibration.windows]
        weights = Weighting.of(self.calibration).weights()
        return Measurements(
            self.blocks,
            self._memo,
            contexts[0] if contexts else None,
            [*windows, weights.tobytes()],
        )

    def _checked(self, removed: Iterable[Sequence[int]]) -> list[RemovedSet]:
        return [check_removed(s, self.blocks) if len(s) else () for s in removed]

    def _scored(self, sets: Sequence[RemovedSet]) -> list[Score]:
        self._scale()
        self._note_asked(sets, range(self.windows))
        missing = [s for s in dict.fromkeys(sets) if s not in self._scores]
        if missing:
            self._compute(missing, range(len(self.calibration.windows)))
            for removed in missing:
                losses = self._loss_table.losses(removed)
                self._scores[removed] = self._combination.score(removed, losses)
        return [self._scores[s] for s in sets]

    def _call_key(self, place: int) -> str:
        """What a window's loss rounds by: the shape of its call, and how the head is run."""
        return self._calls.key(place) + self._losses.rounding

    def _scale(self) -> None:
        """For a mixture, have the dense model's losses, which the components are divided by."""
        if self._combination.scaled:
            self._compute([()], range(len(self.calibration.windows)))
            self._combination.scale_by(self._loss_table.losses(()))

    def _compute(self, sets: Iterable[RemovedSet], places: Sequence[int]) -> None:
        """Make every loss of these sets on these windows known."""
        began = time.monotonic()
        sets = list(sets)
        self._note_asked(sets, places)
        while missing := self._loss_table.missing(sets, places):
            try:
                self._compute_missing(missing)
            except BatchTooLargeError as error:
                self._share_less(error)
        self._seconds += time.monotonic() - began

    def _compute_missing(self, missing: Mapping[tuple[int, ...], list[RemovedSet]]) -> None:
        work = [
            (list(self._calls.batches(unknown, self._spare(unknown, members))), sorted(members))
            for unknown, members in missing.items()
        ]
        total = sum(self._forward.planned(batches, members) for batches, members in work)
        count = len({removed for _, members in work for removed in members})
        with self.progress.step(_label(count), total, "block-tokens") as step, self._attention():
            if self._remote is not None:
                found = self._remote.run(work, self._call_key, step)
            else:
                found = (
                    (batch.places, losses)
                    for batches, members in work
                    for batch, losses in self._forward.run(batches, members, step)
                )
            for places, losses in found:
                self._count_plain(places, losses)
                self._loss_table.note(places, losses)

    def _spare(self, places: Sequence[int], sets: Sequence[RemovedSet]) -> list[int]:
        """Further windows, on which none of the sets is known: those that a race comes to next."""
        taken = set(places)
        known = np.any([self._loss_table.known(removed) for removed in sets], axis=0)
        return [place for place in self._order if place not in taken and not known[place]]

    def _share_less(self, error: BatchTooLargeError) -> None:
        """Halve how many windows share a call; what is computed from here on is kept apart."""
        self._calls.shrink(error.places)
        if self._remote is not None:
            self._remote.shrink(error.places)
        self._loss_table.rename()

    def _note_asked(self, sets: Sequence[RemovedSet], places: Sequence[int]) -> None:
        """Count what is asked for, whoever computes it, so that a resumed run agrees."""
        self._asked.note(
            sets,
            places,
            lambda new, spare: list(self._calls.batches(new, spare)),
            self._forward.asked,
        )

    def _count_plain(self, places: Sequence[int], sets: Iterable[RemovedSet]) -> None:
        """What plain forwards for these sets on these windows would cost."""
        tokens = sum(_plain_tokens(self.calibration, place) for place in places)
        self._plain_block_tokens += sum(tokens * (self.blocks - len(s)) for s in sets)

    @cached_property
    def _calls(self) -> Calls:
        """Which windows share a call; what that depends on is tried when it is first needed."""
        windows = self.calibration.windows
        packs = reads_packed_items(self.model, windows)
        attention = "products" if self._products else ""
        with self._attention():
            return Calls(self.model, windows, self._batch_tokens, packs=packs, attention=attention)

    def _least(self) -> int:
        """Windows that fill half a call."""
        return max(1, self._calls.rows // 2)

    def _attention(self) -> AbstractContextManager[None]:
        return fast_attention() if self._products else nullcontext()


def _attends_by_products(model: Model) -> bool:
    if torch.device(model.device).type != "cpu":
        return False
    return products_are_faster(AttentionHeads.of(model.module.config), DTYPES[model.dtype])


def call_tokens(model: Model) -> int:
    """About how many tokens of windows share a call on a model's device."""
    return _CALL_TOKENS.get(torch.device(model.device).type, _CALL_TOKENS_ELSEWHERE)


def _label(sets: int) -> str:
    return f"scoring {sets} set{'s' if sets > 1 else ''} of blocks"


def _plain_tokens(calibration: Calibration, place: int) -> int:
    """Tokens of one window in plain forwards: of an item, its prompt once for each option."""
    window = calibration.windows[place]
    if window.item is None:
        return len(window.tokens)
    prompt = window.item.spans[0][0]
    return len(window.tokens) + prompt * (len(window.item.spans) - 1)


def _contexts(model: Model, objective: Mixture, products: bool, rounds: str) -> list[Context]:
    """What losses depend on; none for weights that have no fingerprint, which are not stored."""
    weights = model.source.fingerprint()
    if weights is None:
        return []
    # Attention by products rounds differently from transformers' own.
    device = torch.device(model.device).type + ("+products" if products else "")
    # The blocks' arithmetic is transformers', and changes with it.
    versions = f"{torch.__version__}, transformers {transformers.__version__}"
    if (code := model.source.code_fingerprint()) is not None:
        versions += f", code {code[:16]}"
    return [
        Context(weights, model.dtype, device, versions, _full_name(component.objective), rounds)
        for component in objective.components
    ]


def _full_name(objective: Objective) -> str:
    """An objective's name; one that is not this package's may have the name of one that is."""
    kind = type(objective)
    if kind.__module__.startswith("depthprune.objectives."):
        return objective.name
    return f"{objective.name} ({kind.__module__}.{kind.__qualname__})"


def _order(calibration: Calibration) -> list[int]:
    """The order in which windows are drawn for races: random, and the same for one calibration."""
    seed = int.from_bytes(bytes.fromhex(calibration.fingerprint[:16]), "little")
    rng = np.random.default_rng(seed)
    return [int(place) for place in rng.permutation(len(calibration.windows))]
