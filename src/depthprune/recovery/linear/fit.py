"""Choosing a change: least squares with a ridge towards none, its strength on other windows.

For each ridge of a fixed ladder, `D = Σ e xᵀ (Σ x xᵀ + λ I)⁻¹`, λ being the ridge times the mean
of the ordinary tokens' x² over the inputs; one eigendecomposition serves them all, and a singular
system leaves the directions alone of which it knows nothing. How much of D is used, from 0 to 1,
and which ridge, is read off windows that were not fitted: the least mean of the sources' errors,
each as a share of its own error without D, and no source's error above what it was. Zero is
allowed, and then nothing is changed.

Where there are several sources, half of a source's error is that of the change which the *other*
sources alone would give. A map that suits its own kinds of text and no other has too small a ridge,
and windows of the same kinds cannot tell.
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

ELSEWHERE = 0.5
"""Share of a source's error that is of the change fitted on the other sources."""


@dataclass(frozen=True)
class Fit:
    """A chosen change.

    Attributes:
        change: D, shape (outputs, inputs), float64, the strength already in it.
        ridge: As a share of the mean of x².
        strength: How much of the fitted change is used; 0 leaves the weights alone.
        before: Root mean square of what was lacking, an element, on the choosing windows.
        after: The same with the change.
        rank: How many directions the fitted tokens span; the change leaves the others alone.
    """

    change: Tensor
    ridge: float
    strength: float
    before: float
    after: float
    rank: int


def fit(fitted: Sums | Sequence[Sums], choosing: Sequence[Sums], shares: Sequence[float]) -> Fit:
    """Fit a change and choose its ridge and strength.

    Args:
        fitted: Of the windows that are fitted: all sources weighted together, or, weighted alike,
            each source apart.
        choosing: Of other windows, one a source.
        shares: Weight of each source, summing to 1.

    Raises:
        EvaluationError: If the sums are not finite.
    """
    return System(fitted).fit(choosing, shares)


class _Solver:
    """The ridge solutions of some sums, after one eigendecomposition."""

    def __init__(self, sums: Sequence[Sums]) -> None:
        moments = torch.stack([each.moments for each in sums]).sum(0)
        self._sums = sums
        self._values, self._vectors = torch.linalg.eigh((moments + moments.T) / 2)
        self.spread = sum(each.spread for each in sums)
        noise = len(moments) * torch.finfo(self._values.dtype).eps * self._values.max()
        self.rank = int((self._values > noise).sum())

    def turned(self, first: int, last: int) -> Tensor:
        """The products of some outputs in the basis of the eigenvectors."""
        products = torch.stack([each.products[first:last] for each in self._sums]).sum(0)
        turned: Tensor = products @ self._vectors
        return turned

    def change(self, turned: Tensor, ridge: float) -> Tensor:
        """The solution for such products."""
        # What is left of an eigenvalue of zero after rounding may be negative.
        scales = self._values.clamp(min=0.0) + ridge * self.spread / len(self._values)
        found: Tensor = (turned / scales) @ self._vectors.T
        return found


class System:
    """What was summed over the fitted windows, decomposed once for all outputs.

    Args:
        fitted: As `fit` takes it.

    Raises:
        EvaluationError: If the sums are not finite.
    """

    def __init__(self, fitted: Sums | Sequence[Sums]) -> None:
        parts = [fitted] if isinstance(fitted, Sums) else [*fitted]
        _require_finite(parts)
        self.outputs = len(parts[0].products)
        self._whole = _Solver(parts)
        self._without = (
            [_Solver(parts[:p] + parts[p + 1 :]) for p in range(len(parts))]
            if len(parts) > 1
            else []
        )

    def fit(
        self,
        choosing: Sequence[Sums],
        shares: Sequence[float],
        first: int = 0,
        last: int | None = None,
    ) -> Fit:
        """Choose ridge and strength for some of the outputs.

        Args:
            choosing: Of windows that are not fitted, one a source, of all outputs.
            shares: Weight of each source.
            first: Of the outputs.
            last: Behind the last of them; all that there are when None.
        """
        last = self.outputs if last is None else last
        _require_finite(choosing)
        chosen = [each.rows(first, last) for each in choosing]
        whole = self._whole
        turned = whole.turned(first, last)
        others = [each.turned(first, last) for each in self._without]
        best = Fit(torch.zeros_like(turned), 0.0, 0.0, 0.0, 0.0, whole.rank)
        least = 1.0
        for ridge in RIDGES if whole.spread > 0 else ():
            change = whole.change(turned, ridge)
            elsewhere = [
                solver.change(each, ridge)
                for solver, each in zip(self._without, others, strict=True)
            ]
            strength, share = _strength(change, elsewhere, chosen, shares)
            if strength > 0 and share < least:
                least = share
                best = Fit(strength * change, ridge, strength, 0.0, 0.0, whole.rank)
        before = _root_mean_square([s.squares for s in chosen], chosen, shares)
        errors = [max(0.0, s.error(best.change)) for s in chosen]
        after = _root_mean_square(errors, chosen, shares) if best.strength else before
        return replace(best, before=before, after=after)


def _strength(
    change: Tensor,
    elsewhere: Sequence[Tensor],
    choosing: Sequence[Sums],
    shares: Sequence[float],
) -> tuple[float, float]:
    """How much of a change to use, and the mean share of the error that is left then."""
    linear = quadratic = 0.0
    most = 1.0
    parts = []
    for place, (sums, share) in enumerate(zip(choosing, shares, strict=True)):
        if sums.squares <= 0:
            if sums.terms(change)[1] > 0:
                return 0.0, 1.0  # a source that lacks nothing can only lose
            continue
        a, b = (term / sums.squares for term in sums.terms(change))
        # Beyond twice its own best, a source is worse off than without the change.
        most = min(most, max(0.0, 2 * a / b) if b > 0 else most)
        if elsewhere:
            a2, b2 = (term / sums.squares for term in sums.terms(elsewhere[place]))
            a, b = a + ELSEWHERE * (a2 - a), b + ELSEWHERE * (b2 - b)
        parts.append((share, a, b))
        linear, quadratic = linear + share * a, quadratic + share * b
    strength = min(most, linear / quadratic) if quadratic > 0 else 0.0
    if strength <= 0:
        return 0.0, 1.0
    left = sum(share * (1 - 2 * strength * a + strength**2 * b) for share, a, b in parts)
    return strength, left / sum(share for share, _, _ in parts)


def _root_mean_square(
    errors: Sequence[float], sums: Sequence[Sums], shares: Sequence[float]
) -> float:
    means = (e / max(1, s.tokens) for e, s in zip(errors, sums, strict=True))
    mean: float = sum(w * m for w, m in zip(shares, means, strict=True)) / len(sums[0].products)
    return math.sqrt(mean)


def _require_finite(sums: Sequence[Sums]) -> None:
    for each in sums:
        if not (each.moments.isfinite().all() and each.products.isfinite().all()):
            raise EvaluationError(
                "recovery: the sums over the calibration's activations overflow; load the model "
                "with --dtype float32"
            )
