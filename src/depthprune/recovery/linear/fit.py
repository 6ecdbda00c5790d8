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
from dataclasses import dataclass
from itertools import accumulate, pairwise

import torch
from torch import Tensor

from depthprune.errors import EvaluationError
from depthprune.recovery.linear.normal_equations import Sums

Terms = tuple[float, float]
"""Σ eᵀD x and Σ |D x|² of a change D."""

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
    parts = [fitted] if isinstance(fitted, Sums) else [*fitted]
    (found,) = fit_layers(parts, choosing, shares, [len(parts[0].products)])
    return found


def fit_layers(
    fitted: Sequence[Sums],
    choosing: Sequence[Sums],
    shares: Sequence[float],
    outputs: Sequence[int],
) -> list[Fit]:
    """Fit a change to each of several layers that are given the same.

    Args:
        fitted: As `fit` takes them, the layers' outputs one behind the other.
        choosing: Likewise.
        shares: Weight of each source.
        outputs: How many each layer has.

    Raises:
        EvaluationError: If the sums are not finite.
    """
    _require_finite([*fitted, *choosing])
    bounds = list(accumulate(outputs, initial=0))
    layers = [slice(first, last) for first, last in pairwise(bounds)]
    whole = _Solver(fitted)
    own = whole.judged(choosing, layers)
    elsewhere = []
    for place in range(len(fitted)) if len(fitted) > 1 else ():
        others = _Solver([*fitted[:place], *fitted[place + 1 :]])
        elsewhere.append([table[0] for table in others.judged([choosing[place]], layers)])
    answer = []
    for number, rows in enumerate(layers):
        chosen = [each.rows(rows.start, rows.stop) for each in choosing]
        apart = [tables[number] for tables in elsewhere]
        answer.append(_chosen(whole, rows, own[number], apart, chosen, shares))
    return answer


class _Solver:
    """The ridge solutions of some sums, after one eigendecomposition.

    With V the eigenvectors of Σ x xᵀ and T = (Σ e xᵀ) V, the solution for a ridge is D = T S Vᵀ, S
    being diagonal. So what it gives on other windows, whose sums are P = Σ e xᵀ and M = Σ x xᵀ, is
    Σ eᵀD x = Σⱼ sⱼ (Tᵀ P V)ⱼⱼ and Σ |D x|² = Σⱼₖ sⱼ sₖ (TᵀT)ⱼₖ (VᵀM V)ⱼₖ, without any D.
    """

    def __init__(self, sums: Sequence[Sums]) -> None:
        moments = sums[0].moments.clone()
        for each in sums[1:]:
            moments += each.moments
        self._sums = sums
        self._values, self._vectors = torch.linalg.eigh((moments + moments.T) / 2)
        self._spread = sum(each.spread for each in sums)
        noise = len(moments) * torch.finfo(self._values.dtype).eps * self._values.max()
        self.rank = int((self._values > noise).sum())

    def judged(self, choosing: Sequence[Sums], layers: Sequence[slice]) -> list[list[list[Terms]]]:
        """What the solutions give on other windows, by layer, source and ridge."""
        vectors = self._vectors
        scales = torch.stack([self._scales(ridge) for ridge in RIDGES])
        turned = [self._turned(rows) for rows in layers]
        grams = [each.T @ each for each in turned]
        answer: list[list[list[Terms]]] = [[] for _ in layers]
        for sums in choosing:
            seen = vectors.T @ sums.moments @ vectors
            for place, rows in enumerate(layers):
                linear = (turned[place] * (sums.products[rows] @ vectors)).sum(0)
                quadratic = grams[place] * seen
                squares = ((scales @ quadratic) * scales).sum(1)
                terms = zip((scales @ linear).tolist(), squares.tolist(), strict=True)
                answer[place].append([*terms])
        return answer

    def change(self, rows: slice, ridge: float) -> Tensor:
        """The solution for some outputs."""
        found: Tensor = (self._turned(rows) * self._scales(ridge)) @ self._vectors.T
        return found

    def _turned(self, rows: slice) -> Tensor:
        """The products of some outputs in the basis of the eigenvectors."""
        products = self._sums[0].products[rows].clone()
        for each in self._sums[1:]:
            products += each.products[rows]
        turned: Tensor = products @ self._vectors
        return turned

    def _scales(self, ridge: float) -> Tensor:
        if self._spread <= 0:
            return torch.zeros_like(self._values)
        # What is left of an eigenvalue of zero after rounding may be negative.
        values: Tensor = self._values.clamp(min=0.0) + ridge * self._spread / len(self._values)
        return values.reciprocal()


def _chosen(
    whole: _Solver,
    rows: slice,
    own: Sequence[Sequence[Terms]],
    elsewhere: Sequence[Sequence[Terms]],
    choosing: Sequence[Sums],
    shares: Sequence[float],
) -> Fit:
    """The best ridge and strength for some outputs, from what all solutions give by source."""
    best, least, strength = None, 1.0, 0.0
    for place in range(len(RIDGES)):
        others = [table[place] for table in elsewhere]
        found, share = _strength([table[place] for table in own], others, choosing, shares)
        if found > 0 and share < least:
            best, least, strength = place, share, found
    before = _root_mean_square([s.squares for s in choosing], choosing, shares)
    if best is None:
        return Fit(torch.zeros_like(choosing[0].products), 0.0, 0.0, before, before, whole.rank)
    errors = []
    for sums, table in zip(choosing, own, strict=True):
        linear, quadratic = table[best]
        errors.append(max(0.0, sums.squares - 2 * strength * linear + strength**2 * quadratic))
    after = _root_mean_square(errors, choosing, shares)
    change = strength * whole.change(rows, RIDGES[best])
    return Fit(change, RIDGES[best], strength, before, after, whole.rank)


def _strength(
    own: Sequence[Terms],
    elsewhere: Sequence[Terms],
    choosing: Sequence[Sums],
    shares: Sequence[float],
) -> tuple[float, float]:
    """How much of a change to use, and the mean share of the error that is left then."""
    linear = quadratic = 0.0
    most = 1.0
    parts = []
    for place, (sums, share) in enumerate(zip(choosing, shares, strict=True)):
        if sums.squares <= 0:
            if own[place][1] > 0:
                return 0.0, 1.0  # a source that lacks nothing can only lose
            continue
        a, b = (term / sums.squares for term in own[place])
        # Beyond twice its own best, a source is worse off than without the change.
        most = min(most, max(0.0, 2 * a / b) if b > 0 else most)
        if elsewhere:
            a2, b2 = (term / sums.squares for term in elsewhere[place])
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
