"""Scores: what the evaluator says of a removed set, with its standard error.

Standard errors are between windows, never between tokens: tokens of one window depend on each
other, and an interval from them would be far too narrow. A difference of two sets is taken window
by window, since both saw the same windows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from depthprune.errors import EvaluationError
from depthprune.models.removal import name_blocks

Losses = NDArray[np.float64]


@dataclass(frozen=True)
class Weighting:
    """How windows make one loss: their sources, shares and scored tokens.

    Attributes:
        groups: Index of each window's source, shape (windows,).
        shares: Share of each source, summing to 1.
        tokens: Scored tokens of each window, shape (windows,).
    """

    groups: NDArray[np.int64]
    shares: tuple[float, ...]
    tokens: NDArray[np.int64]

    def mean(self, losses: Losses) -> float:
        """The sources' token-weighted mean losses, weighted by their shares."""
        return float(self.weights() @ losses)

    def stderr(self, losses: Losses) -> float:
        """Standard error of `mean` between windows, stratified by source.

        NaN where a source has one window only: one window says nothing of the spread. For windows
        of unequal length it is that of the ratio estimator.
        """
        variance = 0.0
        for index, share in enumerate(self.shares):
            inside = self.groups == index
            count = int(inside.sum())
            if count < 2:
                return math.nan
            tokens = self.tokens[inside].astype(np.float64)
            centre = float(tokens @ losses[inside] / tokens.sum())
            residuals = tokens / tokens.mean() * (losses[inside] - centre)
            variance += share**2 * float(residuals @ residuals) / (count - 1) / count
        return math.sqrt(variance)

    def weights(self) -> Losses:
        """Each window's share of the whole loss, shape (windows,)."""
        weights = np.zeros(len(self.groups))
        for index, share in enumerate(self.shares):
            inside = self.groups == index
            if inside.any():
                weights[inside] = share * self.tokens[inside] / self.tokens[inside].sum()
        return weights


@dataclass(frozen=True)
class Score:
    """The loss of the model without a set of blocks, over all windows of a calibration.

    Attributes:
        removed: The set, sorted.
        loss: Mean loss; infinite where a window's loss is NaN or infinite.
        stderr: Its standard error between windows; NaN with a single window.
        windows: Number of windows.
        tokens: Number of scored tokens.
        window_losses: The losses of all the calibration's windows; NaN where one was not seen.
        weighting: How they were put together.
    """

    removed: tuple[int, ...]
    loss: float
    stderr: float
    windows: int
    tokens: int
    window_losses: Losses = field(repr=False, compare=False)
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


def score_of(removed: tuple[int, ...], losses: Losses, weighting: Weighting) -> Score:
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
    removed: tuple[int, ...], losses: Losses, weighting: Weighting, places: Sequence[int]
) -> Score:
    """A score over some of the windows.

    Args:
        removed: The set.
        losses: Of all windows, known at `places`.
        weighting: Of all windows.
        places: The windows to count.
    """
    where = np.asarray(places)
    seen = replace(weighting, groups=weighting.groups[where], tokens=weighting.tokens[where])
    score = score_of(removed, losses[where], seen)
    known = np.full(len(losses), np.nan)
    known[where] = losses[where]
    return replace(score, window_losses=known, weighting=weighting)


def increase(score: Score, base: Score) -> tuple[float, float]:
    """How much higher one loss is than another on the same windows, and its paired standard error.

    Args:
        score: Of one set.
        base: Of another on the same calibration, most often the dense model's.

    Where one of the two is an estimate from some of the windows, both are taken on those.
    """
    if not (score.finite and base.finite):
        return math.inf, math.nan
    paired = score.window_losses - base.window_losses
    if score.exact and base.exact:
        return score.loss - base.loss, score.weighting.stderr(paired)
    # Both are finite, so what is not a number was not seen.
    common = partial_score(
        score.removed, paired, score.weighting, np.flatnonzero(~np.isnan(paired)).tolist()
    )
    return common.loss, common.stderr
