"""Every evaluator of a choice at one place, so that what is spent is counted once and for all.

An evaluator is made when its calibration is first tried and kept, and all share one memo: a set
that is met again, by another search or on another calibration that has the same window, costs
nothing. What makes evaluators is given, so that a dry run rehearses the same choice on ones that
only count.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from depthprune.calibration import Calibration
from depthprune.evaluator import Cost, RemovedSet, Score
from depthprune.evaluator.score import ONE_WINDOW, score_of
from depthprune.objectives import Mixture, parse_objective
from depthprune.pruning.target.configurations import Configuration
from depthprune.searches import Budget
from depthprune.searches.driver import Scorer

Make = Callable[[Calibration, Mixture], Scorer]


class TargetScorers:
    """The evaluators of one choice.

    Args:
        make: Makes what scores sets on a calibration under an objective.
        choose: The part of the target that decides.
        objective: What is measured on it.
        default: The default calibration, whose held-out part is the text in general.
    """

    def __init__(
        self, make: Make, choose: Calibration, objective: Mixture, default: Calibration
    ) -> None:
        self._make = make
        self._scorers: dict[tuple[str, str], Scorer] = {}
        self.choose = self._scorer(choose, objective)
        text = parse_objective("nll")
        self._general = [
            (part.share, self._scorer(held, text))
            for part, held in zip(default.parts, default.held_out(), strict=True)
        ]

    def scorer(self, configuration: Configuration) -> Scorer:
        """What scores sets on a configuration."""
        return self._scorer(configuration.calibration, configuration.objective)

    def general(self, sets: Sequence[RemovedSet]) -> list[float]:
        """Each set's loss on text in general."""
        columns = [[s.loss for s in scorer.score(sets)] for _, scorer in self._general]
        shares = [share for share, _ in self._general]
        return [
            sum(share * loss for share, loss in zip(shares, losses, strict=True))
            for losses in zip(*columns, strict=True)
        ]

    @property
    def cost(self) -> Cost:
        """What has been spent so far, on all of them."""
        total = Cost()
        for scorer in self._scorers.values():
            total += scorer.cost
        return total

    def _scorer(self, calibration: Calibration, objective: Mixture) -> Scorer:
        key = (calibration.fingerprint, objective.name)
        if key not in self._scorers:
            self._scorers[key] = self._make(calibration, objective)
        return self._scorers[key]


class FirstWindows:
    """A scorer on the first of its windows only.

    Args:
        scorer: On all windows.
        windows: How many of them.
    """

    def __init__(self, scorer: Scorer, windows: int) -> None:
        self._scorer = scorer
        self.windows = min(windows, scorer.windows)
        self.blocks = scorer.blocks

    @property
    def cost(self) -> Cost:
        """Of the scorer on all windows."""
        return self._scorer.cost

    def score(self, removed: Iterable[Sequence[int]], *, windows: int | None = None) -> list[Score]:
        """See `Scorer.score`."""
        count = self.windows if windows is None else min(windows, self.windows)
        return self._scorer.score(removed, windows=count)

    def compare(
        self, removed: Iterable[Sequence[int]], keep: int, earlier: Sequence[Score] = ()
    ) -> list[Score]:
        """Exact: on few windows a race has nothing to save."""
        return self.score(removed)

    def measure(self, name: str) -> NDArray[Any]:
        """See `Scorer.measure`; of all windows, as it is one pass."""
        return self._scorer.measure(name)


class Consensus:
    """Scores a set by what it costs on several calibrations, each on its own scale.

    The loss is the mean of the increases over the whole model's losses, each divided by what
    removing one block costs there at the median. Each calibration gives its share of the windows,
    so that a set costs what it does on one of them.

    Args:
        members: A scorer for each calibration.
        free: The blocks that may go.
        share: Of a member's windows, on which blocks were removed one by one before.
    """

    def __init__(self, members: Sequence[Scorer], free: Sequence[int], share: float) -> None:
        self._members = list(members)
        self._counts = [max(2, m.windows // len(members)) for m in members]
        self.blocks = members[0].blocks
        self.windows = sum(self._counts)
        self._scales = [_scale(m, free, window_count(m, share)) for m in members]

    @property
    def cost(self) -> Cost:
        """Of all its members, which others share."""
        total = Cost()
        for member in self._members:
            total += member.cost
        return total

    def score(self, removed: Iterable[Sequence[int]], *, windows: int | None = None) -> list[Score]:
        """See `Scorer.score`."""
        sets = [tuple(each) for each in removed]
        share = 1.0 if windows is None else windows / self.windows
        increases = []
        for member, count, scale in zip(self._members, self._counts, self._scales, strict=True):
            seen = min(max(1, round(share * count)), member.windows)
            dense, *scores = member.score([(), *sets], windows=seen)
            increases.append([(score.loss - dense.loss) / scale for score in scores])
        return [
            replace(
                score_of(each, np.array([statistics.fmean(losses)]), ONE_WINDOW),
                windows=self.windows if windows is None else windows,
            )
            for each, losses in zip(sets, zip(*increases, strict=True), strict=True)
        ]

    def compare(
        self, removed: Iterable[Sequence[int]], keep: int, earlier: Sequence[Score] = ()
    ) -> list[Score]:
        """Exact: scales differ, so windows of different calibrations cannot be raced together."""
        return self.score(removed)

    def measure(self, name: str) -> NDArray[Any]:
        """The mean of its members' measurements, each on the scale of its own mean."""
        found = [member.measure(name) for member in self._members]
        mean: NDArray[Any] = np.mean([each / (np.nanmean(np.abs(each)) or 1) for each in found], 0)
        return mean


def window_count(scorer: Scorer, share: float) -> int:
    """A share of a scorer's windows, two or more where there are two."""
    return min(scorer.windows, max(2, round(share * scorer.windows)))


def on_share(scorer: Scorer, share: float) -> Scorer:
    """A scorer on a share of its windows, the first ones; with a share of 1 itself."""
    return scorer if share == 1 else FirstWindows(scorer, window_count(scorer, share))


def _scale(member: Scorer, free: Sequence[int], windows: int) -> float:
    dense, *alone = member.score([(), *((block,) for block in free)], windows=windows)
    found = [abs(score.loss - dense.loss) for score in alone if score.finite]
    return (statistics.median(found) if found else 1.0) or 1.0


class RemainingBudget:
    """What may still be spent.

    Args:
        budget: The limits.
        scorers: What spends.
        reserve: Share of the limits that searches leave for the choice.
    """

    def __init__(self, budget: Budget, scorers: TargetScorers, reserve: float) -> None:
        self.budget = budget
        self._scorers = scorers
        self._left = 1 - reserve
        self._began = time.monotonic()

    @property
    def seconds(self) -> float:
        """Since it was opened."""
        return time.monotonic() - self._began

    def affords(self, coming: Cost, share: float = 1.0) -> bool:
        """Whether something can be paid for.

        Args:
            coming: What it takes if every set is scored on every window.
            share: How much of that it takes as a rule.
        """
        cost, budget = self._scorers.cost, self.budget
        limits = (
            (budget.evaluations, cost.evaluations, coming.evaluations),
            (budget.block_tokens, cost.asked_block_tokens, coming.asked_block_tokens),
            (budget.seconds, self.seconds, 0.0),
        )
        return all(
            limit is None or spent + share * more <= self._left * limit
            for limit, spent, more in limits
        )
