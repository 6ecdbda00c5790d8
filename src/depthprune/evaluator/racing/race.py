"""One race: which sets go on to which windows, and what is reported of them in the end."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from depthprune.calibration import Calibration
from depthprune.evaluator.aggregate import Combination
from depthprune.evaluator.prefix_walk import RemovedSet
from depthprune.evaluator.racing.bounds import bound_for
from depthprune.evaluator.racing.chances import chances
from depthprune.evaluator.racing.decision import decide
from depthprune.evaluator.racing.differences import Earlier
from depthprune.evaluator.racing.rounds import rounds
from depthprune.evaluator.racing.settings import Racing
from depthprune.evaluator.score import LossArray, Score


class Race:
    """Iterate for the next windows and the sets still to be scored on them; then tell the losses.

    Args:
        sets: The candidates.
        keep: How many of them are wanted, fewer than there are.
        settings: How sure the race must be.
        combination: Makes losses of windows of those by component.
        order: The order in which windows are drawn.
        least: Windows that make a round worth its call.
        earlier: Scores of an earlier ask of the same search, raced in the same order.
    """

    def __init__(
        self,
        sets: Sequence[RemovedSet],
        keep: int,
        settings: Racing,
        combination: Combination,
        order: Sequence[int],
        least: int,
        earlier: Sequence[Score] = (),
    ) -> None:
        self._sets = list(sets)
        self._keep = keep
        self._settings = settings
        self._combination = combination
        groups = combination.weighting.groups.tolist()
        self._rounds = rounds(groups, order, least)
        self._drawn = [place for places in self._rounds for place in places]
        self._predecessors = predecessors(sets, earlier)
        width = None
        if combination.bounds is not None:
            # A window that counts for more than others moves the mean by as much more.
            most = float(combination.weighting.weights().max()) * len(order)
            width = most * (combination.bounds[1] - combination.bounds[0])
        looks = np.cumsum([len(places) for places in self._rounds[:-1]]).tolist()
        self._bound = bound_for(looks, len(order), width)
        self._chances: dict[RemovedSet, float] = {}
        self._contenders = list(sets)
        self._kept: list[RemovedSet] = []
        self._seen: list[int] = []
        self._places: dict[RemovedSet, list[int]] = {removed: [] for removed in sets}
        self._losses: dict[RemovedSet, LossArray] = {}

    def __iter__(self) -> Iterator[tuple[list[int], list[RemovedSet]]]:
        """Rounds, until the best are known; `tell` is called after each."""
        for places in self._rounds:
            if not self._contenders or len(self._kept) >= self._keep:
                return
            self._seen = [*self._seen, *places]
            yield sorted(places), list(self._contenders)

    def tell(self, losses: Mapping[RemovedSet, LossArray]) -> None:
        """What the contenders' losses are, by component, known on all windows seen so far."""
        for removed in self._contenders:
            self._losses[removed] = self._combination.windows(losses[removed])
            self._places[removed] = self._seen
        finite = [s for s in self._contenders if np.isfinite(self._losses[s][self._seen]).all()]
        open_places = self._keep - len(self._kept)
        if not self._chances:
            self._chances = self._shared_out()
        if len(finite) <= open_places:
            # What is left are all those that can be kept; nothing more is to be decided.
            self._kept.extend(finite)
            self._contenders = []
            return
        table = np.stack([self._losses[removed][self._seen] for removed in finite])
        strata = self._combination.strata(self._seen)
        tie = self._settings.tolerance * abs(float((table @ strata.weights()).min()))
        decision = decide(
            table,
            strata,
            open_places,
            self._bound,
            np.array([self._chances[removed] for removed in finite]),
            tie,
            pool=True,
            earlier=self._earlier(finite),
        )
        self._kept.extend(s for s, kept in zip(finite, decision.kept, strict=True) if kept)
        self._contenders = [
            removed
            for removed, kept, dropped in zip(finite, decision.kept, decision.dropped, strict=True)
            if not kept and not dropped
        ]

    def _earlier(self, sets: Sequence[RemovedSet]) -> Earlier | None:
        if not any(removed in self._predecessors for removed in sets):
            return None
        unknown = np.full(len(self._drawn), np.nan)
        losses = [
            self._predecessors[removed].window_losses if removed in self._predecessors else unknown
            for removed in sets
        ]
        return Earlier(np.stack(losses)[:, self._drawn], self._combination.strata(self._drawn))

    def _shared_out(self) -> dict[RemovedSet, float]:
        """The chance of an error by candidate, in the order that is known best."""
        if self._predecessors:
            known = {removed: score.loss for removed, score in self._predecessors.items()}
        else:
            known = {removed: self._combined(removed).loss for removed in self._sets}
        values = [known.get(removed, math.inf) for removed in self._sets]
        shares = chances(self._settings.delta, values, self._keep)
        return dict(zip(self._sets, shares.tolist(), strict=True))

    def scores(self) -> list[Score]:
        """The answer, in the order of the sets.

        A set that saw fewer windows than the best is compared with it on those that both saw. One
        that dropped out has at least the loss of the worst that is kept, and a hair more.
        """
        found = {s: self._combined(s) for s in self._sets}
        chosen = self._chosen(found)
        reference = max(chosen, key=lambda s: (found[s].windows, -found[s].loss))
        losses = {s: self._estimate(s, reference, found) for s in self._sets}
        worst = max((losses[s] for s in chosen if math.isfinite(losses[s])), default=-math.inf)
        return [
            replace(
                found[s],
                loss=losses[s] if s in chosen else max(losses[s], math.nextafter(worst, math.inf)),
            )
            for s in self._sets
        ]

    def _combined(self, removed: RemovedSet) -> Score:
        places = sorted(self._places[removed])
        return self._combination.put_together(removed, self._losses[removed], places)

    def _chosen(self, found: Mapping[RemovedSet, Score]) -> list[RemovedSet]:
        rest = sorted(
            (s for s in self._sets if s not in self._kept),
            key=lambda s: (s not in self._contenders, found[s].loss, s),
        )
        return [*self._kept, *rest][: self._keep]

    def _estimate(
        self, removed: RemovedSet, reference: RemovedSet, found: Mapping[RemovedSet, Score]
    ) -> float:
        ours, best = found[removed], found[reference]
        if ours.windows == best.windows or not (ours.finite and best.finite):
            return ours.loss
        places = sorted(self._places[removed])
        there = self._combination.put_together(reference, self._losses[reference], places)
        return best.loss + ours.loss - there.loss


def predecessors(sets: Sequence[RemovedSet], earlier: Sequence[Score]) -> dict[RemovedSet, Score]:
    """Scores of sets that differed among each other as these do, with fewer blocks gone.

    Of greedy's candidates {2, 5, b} in its third step it is {2, b} in its second.

    Args:
        sets: The candidates.
        earlier: Scores of an earlier ask.

    Returns:
        Scores by candidate; none where the asks are not alike in this way.
    """
    scores = {score.removed: score for score in earlier if score.finite}
    if len(sets) < 2 or len(scores) < 2:
        return {}
    common = frozenset.intersection(*map(frozenset, sets))
    before = frozenset.intersection(*map(frozenset, scores))
    if not before < common:
        return {}
    found = {}
    for removed in sets:
        there = scores.get(tuple(sorted((frozenset(removed) - common) | before)))
        if there is not None:
            found[removed] = there
    return found


def order_of(calibration: Calibration) -> list[int]:
    """The order in which windows are drawn for races: random, and the same for one calibration."""
    seed = int.from_bytes(bytes.fromhex(calibration.fingerprint[:16]), "little")
    rng = np.random.default_rng(seed)
    return [int(place) for place in rng.permutation(len(calibration.windows))]
