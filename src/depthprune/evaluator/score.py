"""Scores: what the evaluator says of a removed set, with its standard error.

Standard errors are between windows, never between tokens: tokens of one window depend on each
other, and an interval from them would be far too narrow. A difference of two sets is taken window
by window, since both saw the same windows.

Within a source, windows count by their scored tokens, or each the same; sources count by their
shares, or only the domain that is worst (a minimax choice: no domain is given up for another).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from depthprune.calibration import Calibration
from depthprune.errors import EvaluationError
from depthprune.removed_sets import name_blocks

LossArray = NDArray[np.float64]


@dataclass(frozen=True)
class Weighting:
    """How windows make one loss: their groups, the groups' shares, and what a window counts for.

    Attributes:
        groups: Index of each window's group, shape (windows,): its source, or its domain where
            the worst domain counts.
        shares: Share of each source, summing to 1; of domains, of which one counts, all 1.
        tokens: Scored tokens of each window, shape (windows,).
        sizes: What each window counts for within its group, shape (windows,): its scored tokens
            (the default), or 1 for each window (or item) alike.
        worst: Whether the loss is that of the worst group, and not the mean by shares.
    """

    groups: NDArray[np.int64]
    shares: tuple[float, ...]
    tokens: NDArray[np.int64]
    sizes: LossArray | None = None
    worst: bool = False

    @classmethod
    def of(cls, calibration: Calibration) -> Weighting:
        """The weighting of a calibration, by its sources, shares and reductions.

        An item counts as one, whatever it has of tokens: its answer is one loss.
        """
        windows, parts = calibration.windows, calibration.parts
        tokens = np.asarray([int(window.scored.sum()) for window in windows])
        alike = [part.reduction == "window" for part in parts for _ in part.windows]
        each = [own or window.item is not None for own, window in zip(alike, windows, strict=True)]
        sizes = np.where(each, 1.0, tokens)
        if calibration.worst_domain:
            names = sorted(set(calibration.domains))
            groups = [names.index(domain) for domain in calibration.domains]
            return cls(np.asarray(groups), (1.0,) * len(names), tokens, sizes, worst=True)
        groups = [index for index, part in enumerate(parts) for _ in part.windows]
        return cls(np.asarray(groups), tuple(part.share for part in parts), tokens, sizes)

    def mean(self, losses: LossArray) -> float:
        """The loss: the groups' mean losses, weighted by their shares, or the worst of them."""
        if self.worst:
            return self._group_mean(self.worst_group(losses), losses)
        return float(self.weights() @ losses)

    def stderr(self, losses: LossArray) -> float:
        """Standard error of `mean` between windows, stratified by group.

        NaN where a source has one window only: one window says nothing of the spread. For windows
        that count unequally it is that of the ratio estimator. Of the worst group it is that
        group's own; that another might be the worst in another draw is not in it.
        """
        if self.worst:
            return math.sqrt(self._group_variance(self.worst_group(losses), losses))
        variance = 0.0
        for index, share in enumerate(self.shares):
            variance += share**2 * self._group_variance(index, losses)
        return math.sqrt(variance)

    def difference(self, losses: LossArray, base: LossArray) -> tuple[float, float]:
        """`mean(losses) - mean(base)` and its standard error, paired window by window.

        Where the two have different worst groups, their windows are different ones, and the
        variances add.

        Args:
            losses: Of all windows; NaN where one was not seen, which leaves it out of both.
            base: The same of another set.
        """
        seen = np.flatnonzero(~(np.isnan(losses) | np.isnan(base)))
        if len(seen) < len(losses):
            return self.only(seen).difference(losses[seen], base[seen])
        grown = self.mean(losses) - self.mean(base)
        if not self.worst:
            return grown, self.stderr(losses - base)
        first, second = self.worst_group(losses), self.worst_group(base)
        if first == second:
            return grown, math.sqrt(self._group_variance(first, losses - base))
        apart = self._group_variance(first, losses) + self._group_variance(second, base)
        return grown, math.sqrt(apart)

    def only(self, places: NDArray[np.int64]) -> Weighting:
        """The weighting of some of the windows alone."""
        sizes = None if self.sizes is None else self.sizes[places]
        return replace(self, groups=self.groups[places], tokens=self.tokens[places], sizes=sizes)

    def worst_group(self, losses: LossArray) -> int:
        """The group whose mean loss is the largest."""
        means = {index: self._group_mean(index, losses) for index in set(self.groups.tolist())}
        return int(max(means, key=means.__getitem__))

    def weights(self) -> LossArray:
        """Each window's share of the whole loss where no group is the worst, shape (windows,).

        Where a group has no window here, the others take its share between them.
        """
        sizes = self.counts()
        weights = np.zeros(len(self.groups))
        present = 0.0
        for index, share in enumerate(self.shares):
            inside = self.groups == index
            if inside.any():
                weights[inside] = share * sizes[inside] / sizes[inside].sum()
                present += share
        whole = sum(self.shares)
        return weights if present == whole else weights * (whole / present)

    def counts(self) -> LossArray:
        """What each window counts for within its group, shape (windows,)."""
        return self.tokens.astype(np.float64) if self.sizes is None else self.sizes

    def _group_mean(self, index: int, losses: LossArray) -> float:
        inside = self.groups == index
        sizes = self.counts()[inside]
        return float(sizes @ losses[inside] / sizes.sum())

    def _group_variance(self, index: int, losses: LossArray) -> float:
        """Variance of a group's mean loss; NaN for a single window."""
        inside = self.groups == index
        count = int(inside.sum())
        if count < 2:
            return math.nan
        sizes = self.counts()[inside]
        residuals = sizes / sizes.mean() * (losses[inside] - self._group_mean(index, losses))
        return float(residuals @ residuals) / (count - 1) / count


ONE_WINDOW = Weighting(np.zeros(1, dtype=np.int64), (1.0,), np.ones(1, dtype=np.int64))
"""Of a score that is one number and no mean of windows."""


@dataclass(frozen=True)
class Score:
    """The loss of the model without a set of blocks, over all windows of a calibration.

    Attributes:
        removed: The set, sorted.
        loss: Mean loss; infinite where a window's loss is NaN or infinite.
        stderr: Its standard error between windows; NaN with a single window.
        windows: Number of windows that were seen.
        tokens: Their scored tokens.
        window_losses: The losses of all the calibration's windows; NaN where one was not seen.
        weighting: How they were put together.
    """

    removed: tuple[int, ...]
    loss: float
    stderr: float
    windows: int
    tokens: int
    window_losses: LossArray = field(repr=False, compare=False)
    weighting: Weighting = field(repr=False, compare=False)

    @property
    def finite(self) -> bool:
        """Whether every window's loss is finite."""
        return math.isfinite(self.loss)

    @property
    def exact(self) -> bool:
        """Whether it is over all windows of the calibration, and not an estimate from some."""
        return self.windows == len(self.window_losses)

    def require_finite(self) -> Score:
        """The score itself.

        Raises:
            EvaluationError: If the loss is NaN or infinite.
        """
        if self.finite:
            return self
        what = f"without {name_blocks(self.removed)}" if self.removed else "with every block"
        raise EvaluationError(
            f"the loss of the model {what} is NaN or infinite; compute in "
            "another --dtype (float32), or check the weights"
        )


def unscored(removed: tuple[int, ...]) -> Score:
    """What a set that may not go has for a score: an infinite loss, on no window."""
    none = np.zeros(0)
    return Score(
        removed, math.inf, math.nan, 0, 0, none, Weighting(none.astype(int), (), none.astype(int))
    )


def score_of(removed: tuple[int, ...], losses: LossArray, weighting: Weighting) -> Score:
    """Put window losses together."""
    finite = bool(np.isfinite(losses).all())
    return Score(
        removed=removed,
        loss=weighting.mean(losses) if finite else math.inf,
        stderr=weighting.stderr(losses) if finite else math.nan,
        windows=len(losses),
        tokens=int(weighting.tokens.sum()),
        window_losses=losses,
        weighting=weighting,
    )


def partial_score(
    removed: tuple[int, ...], losses: LossArray, weighting: Weighting, places: Sequence[int]
) -> Score:
    """A score over some of the windows.

    Args:
        removed: The set.
        losses: Of all windows, known at `places`.
        weighting: Of all windows.
        places: The windows to count.
    """
    where = np.asarray(places)
    score = score_of(removed, losses[where], weighting.only(where))
    known = np.full(len(losses), np.nan)
    known[where] = losses[where]
    return replace(score, window_losses=known, weighting=weighting)


def increase(score: Score, base: Score) -> tuple[float, float]:
    """How much higher one loss is than another on the same windows, and its paired standard error.

    Args:
        score: Of one set.
        base: Of another on the same calibration, most often the dense model's. Where one of the
            two is an estimate from some of the windows, both are taken on those.
    """
    if not (score.finite and base.finite):
        return math.inf, math.nan
    return score.weighting.difference(score.window_losses, base.window_losses)
