"""One set is chosen of many: by a race on the part of the target that decides.

Sets are compared window by window, on growing numbers of windows, and one drops out as soon as it
is surely worse than another by more than a tie, by the bound that searches race by. Two things
differ from a search's race. What is asked is not the loss over these windows but over the target
they were drawn from, so even with all windows seen a difference has its error. And many sets were
looked at, so the chance of a wrong choice is shared among all of them.

What is left at the end is a tie: the target cannot tell these sets apart. Of those that are within
a standard error of the best, what is lost on everything else decides.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from depthprune.errors import EvaluationError, UsageError
from depthprune.evaluator import RemovedSet, Score, increase
from depthprune.evaluator.racing.bounds import bound_for
from depthprune.evaluator.racing.chances import equal_chances
from depthprune.evaluator.racing.decision import decide
from depthprune.evaluator.racing.differences import Strata
from depthprune.searches.driver import Scorer

CHOICE_DELTA = 0.1
"""Chance that a choice drops a set that is truly the best, by more than a tie. It is higher than a
search's: what is dropped wrongly here is within what the target's own data can show."""

TOLERANCE = 0.001
"""Losses that differ by no more than this share are alike."""

_ENDLESS = 2**40
"""Windows of the target that the windows seen stand for."""

_GROWTH = 2.0


@dataclass(frozen=True)
class Raced:
    """The choice among what was found.

    Attributes:
        winner: The set that is taken.
        scores: Of every set on the windows of the target that it saw.
        general: Each set's loss on text in general.
        tied: Those that cannot be told apart from the best.
        refused: Those that lose too much, in general or of the target.
    """

    winner: RemovedSet
    scores: dict[RemovedSet, Score]
    general: dict[RemovedSet, float]
    tied: tuple[RemovedSet, ...]
    refused: tuple[RemovedSet, ...]


def race(
    scorer: Scorer,
    sets: Sequence[RemovedSet],
    *,
    looked: int,
    first: int,
    delta: float = CHOICE_DELTA,
    tolerance: float = TOLERANCE,
    bounds: tuple[float, float] | None = None,
) -> tuple[list[RemovedSet], dict[RemovedSet, Score]]:
    """Find the sets that cannot be told apart from the best.

    Args:
        scorer: Scores them on the part that decides.
        sets: The candidates.
        looked: How many sets were looked at in all; the chance of an error is shared among them.
        first: Windows of the first round.
        delta: Chance of an error, over all.
        tolerance: Differences within this share of the loss are ties.
        bounds: The range of a window's loss, if it has one.

    Returns:
        Those sets, the best first, and every set's score on the windows that it saw.

    Raises:
        EvaluationError: If none has a finite loss.
    """
    contenders = list(dict.fromkeys(sets))
    scores: dict[RemovedSet, Score] = {}
    looks = _looks(max(first, 2), scorer.windows)
    for windows in looks:
        found = scorer.score(contenders, windows=windows)
        scores.update(zip(contenders, found, strict=True))
        finite = [score for score in found if score.finite]
        if not finite:
            raise EvaluationError(
                "--for: the loss of every set is NaN or infinite on some windows; compute in "
                "another --dtype (float32), or drop those windows' documents"
            )
        contenders = _left(finite, looks, max(looked, len(sets)), delta, tolerance, bounds)
        if len(contenders) == 1 and windows < scorer.windows:
            # Alone, it is still to be known on all windows.
            scores[contenders[0]] = scorer.score(contenders)[0]
            break
    return contenders, scores


def _looks(first: int, windows: int) -> list[int]:
    """Windows seen after each round."""
    looks = [min(first, windows)]
    while looks[-1] < windows:
        looks.append(min(math.ceil(looks[-1] * _GROWTH), windows))
    return looks


def _left(
    scores: Sequence[Score],
    looks: Sequence[int],
    looked: int,
    delta: float,
    tolerance: float,
    bounds: tuple[float, float] | None,
) -> list[RemovedSet]:
    """The sets that are not surely worse than another, the best first."""
    ranked = sorted(scores, key=lambda score: (score.loss, score.removed))
    if len(ranked) == 1:
        return [ranked[0].removed]
    weighting = ranked[0].weighting
    seen = np.flatnonzero(~np.isnan(ranked[0].window_losses))
    seen_weighting = weighting.only(seen)
    strata = Strata(
        groups=seen_weighting.groups,
        sizes=seen_weighting.counts(),
        shares=np.asarray(weighting.shares),
        totals=np.full(len(weighting.shares), _ENDLESS),
    )
    table = np.stack([score.window_losses[seen] for score in ranked])
    width = None
    if bounds is not None:
        width = float(seen_weighting.weights().max()) * len(seen) * (bounds[1] - bounds[0])
    bound = bound_for(looks, _ENDLESS, width)
    chances = np.full(len(ranked), equal_chances(delta, max(looked, 2), 1))
    # A tie is for the text in general to decide, however surely one of its sets is ahead.
    decision = decide(table, strata, 1, bound, chances, -tolerance * abs(ranked[0].loss))
    return [
        score.removed
        for score, dropped in zip(ranked, decision.dropped, strict=True)
        if not dropped
    ]


def allowed_by_general(
    general: Mapping[RemovedSet, float], keep: float | None
) -> tuple[list[RemovedSet], tuple[RemovedSet, ...]]:
    """The sets that lose little enough on the default text, and those that lose too much.

    Args:
        general: Each set's loss on the default text.
        keep: By what share of the best set's loss another's may be above it; None allows all.
    """
    if keep is None:
        return list(general), ()
    best = min(general.values())
    if not math.isfinite(best):
        raise UsageError(
            "--keep-general: every set's loss on the default text is NaN or infinite; drop it"
        )
    limit = best + keep * abs(best)
    kept = [removed for removed, loss in general.items() if loss <= limit]
    return kept, tuple(removed for removed in general if removed not in kept)


def break_tie(
    tied: Sequence[RemovedSet],
    general: Mapping[RemovedSet, float],
    scores: Mapping[RemovedSet, Score],
) -> RemovedSet:
    """Of sets that cannot be told apart, one that is near the best, and loses least in general.

    Near is within a standard error of the paired difference (Breiman, Friedman, Olshen and Stone,
    "Classification and regression trees", 1984, the 1-SE rule): where a target has few items, much
    cannot be told apart for sure that is likely worse.

    Args:
        tied: The sets, the best first.
        general: Each set's loss on the default text.
        scores: Each set's on the part that chooses.
    """
    best = scores[tied[0]]

    def is_near(removed: RemovedSet) -> bool:
        above, stderr = increase(scores[removed], best)
        return above <= max(stderr, TOLERANCE * abs(best.loss))

    near = [removed for removed in tied if removed == tied[0] or is_near(removed)]
    return min(near, key=lambda removed: (general[removed], near.index(removed)))
