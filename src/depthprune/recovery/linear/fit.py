"""Choosing T: least squares with a ridge towards the identity, its strength on other windows.

For each ridge of a fixed ladder, `D = Σ e mᵀ (Σ m mᵀ + λ I)⁻¹`, λ being the ridge times the mean
of the ordinary tokens' m² over the width; one eigendecomposition serves them all, and a singular
system leaves the directions alone of which it knows nothing. How much of D is used, from 0 to 1,
and which ridge, is read off windows that were not fitted: the least mean of the sources' errors,
each as a share of its own error without D, and no source's error above what it was. Zero is
allowed, and then nothing is changed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from depthprune.errors import EvaluationError
from depthprune.recovery.linear.normal_equations import Sums

RIDGES = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)


@dataclass(frozen=True)
class Fit:
    """A chosen map.

    Attributes:
        change: T − I, shape (width, width), float64, the strength already in it.
        ridge: As a share of the mean of m².
        strength: How much of the fitted change is used; 0 leaves the weights alone.
        before: Root mean square of what the state lacked, an element, on the choosing windows.
        after: The same with T.
        rank: How many directions the fitted tokens span; T leaves the others alone.
    """

    change: Tensor
    ridge: float
    strength: float
    before: float
    after: float
    rank: int


def fit(fitted: Sums, choosing: Sequence[Sums], shares: Sequence[float]) -> Fit:
    """Fit T and choose its ridge and strength.

    Args:
        fitted: Of the windows that T is fitted on, all sources weighted together.
        choosing: Of other windows, one a source.
        shares: Weight of each source, summing to 1.

    Raises:
        EvaluationError: If the sums are not finite.
    """
    width = len(fitted.moments)
    _require_finite([fitted, *choosing])
    values, vectors = torch.linalg.eigh((fitted.moments + fitted.moments.T) / 2)
    turned = fitted.products @ vectors
    noise = width * torch.finfo(values.dtype).eps * values.max()
    rank = int((values > noise).sum())
    best = Fit(torch.zeros_like(fitted.moments), 0.0, 0.0, 0.0, 0.0, rank)
    least = 1.0
    for ridge in RIDGES if fitted.spread > 0 else ():
        # What is left of an eigenvalue of zero after rounding may be negative.
        scales = values.clamp(min=0.0) + ridge * fitted.spread / width
        change = (turned / scales) @ vectors.T
        strength, share = _strength(change, choosing, shares)
        if strength > 0 and share < least:
            least = share
            best = Fit(strength * change, ridge, strength, 0.0, 0.0, rank)
    before = _root_mean_square([s.squares for s in choosing], choosing, shares, width)
    errors = [max(0.0, s.error(best.change)) for s in choosing]
    after = _root_mean_square(errors, choosing, shares, width) if best.strength else before
    return replace(best, before=before, after=after)


def _strength(
    change: Tensor, choosing: Sequence[Sums], shares: Sequence[float]
) -> tuple[float, float]:
    """How much of a change to use, and the mean share of the error that is left then."""
    linear = quadratic = 0.0
    most = 1.0
    parts = []
    for sums, share in zip(choosing, shares, strict=True):
        if sums.squares <= 0:
            if sums.terms(change)[1] > 0:
                return 0.0, 1.0  # a source that lacks nothing can only lose
            continue
        a, b = (term / sums.squares for term in sums.terms(change))
        parts.append((share, a, b))
        linear, quadratic = linear + share * a, quadratic + share * b
        # Beyond twice its own best, a source is worse off than without the change.
        most = min(most, max(0.0, 2 * a / b) if b > 0 else most)
    strength = min(most, linear / quadratic) if quadratic > 0 else 0.0
    if strength <= 0:
        return 0.0, 1.0
    left = sum(share * (1 - 2 * strength * a + strength**2 * b) for share, a, b in parts)
    return strength, left / sum(share for share, _, _ in parts)


def _root_mean_square(
    errors: Sequence[float], sums: Sequence[Sums], shares: Sequence[float], width: int
) -> float:
    means = (e / max(1, s.tokens) for e, s in zip(errors, sums, strict=True))
    mean: float = sum(w * m for w, m in zip(shares, means, strict=True)) / width
    return math.sqrt(mean)


def _require_finite(sums: Sequence[Sums]) -> None:
    for each in sums:
        if not (each.moments.isfinite().all() and each.products.isfinite().all()):
            raise EvaluationError(
                "recovery: the sums over the calibration's activations overflow; load the model "
                "with --dtype float32"
            )
