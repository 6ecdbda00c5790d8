"""A Gaussian process over removed sets: what their losses may be, and where it pays to look."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from depthprune.extras import require_extra
from depthprune.searches.common.protocol import RemovedSet, Space

Array = NDArray[np.float64]

_LENGTHS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)
_NUGGET = 1e-6
_REFIT = 1.1
"""The length scale is chosen again when there are this many times as many sets as last time."""


class Surrogate:
    """A Gaussian process over masks."""

    def __init__(self, space: Space) -> None:
        self._place = {block: i for i, block in enumerate(space.free)}
        self._length = 0.0
        self._fitted_on = 0
        self._model: Any = None
        self._best = 0.0

    def learn(self, known: Mapping[RemovedSet, float]) -> None:
        """Fit the losses; one that is not finite counts as the worst that is."""
        masks = self._masks(list(known))
        losses = np.array(list(known.values()))
        finite = np.isfinite(losses)
        losses[~finite] = losses[finite].max() if finite.any() else 0.0
        self._best = float(losses.min())
        if len(known) >= _REFIT * self._fitted_on:
            self._fitted_on = len(known)
            fits = [(_fit(masks, losses, length), length) for length in _LENGTHS]
            likelihoods = [model.log_marginal_likelihood_value_ for model, _ in fits]
            self._model, self._length = fits[int(np.argmax(likelihoods))]
        else:
            self._model = _fit(masks, losses, self._length)

    def improvement(self, sets: Sequence[RemovedSet]) -> Array:
        """Expected improvement over the best loss, shape (sets,)."""
        from scipy.special import ndtr

        mean, deviation = self._model.predict(self._masks(sets), return_std=True)
        deviation = np.maximum(deviation, 1e-12)
        z = (self._best - mean) / deviation
        density = np.exp(-0.5 * z**2) / np.sqrt(2 * np.pi)
        answer: Array = (self._best - mean) * ndtr(z) + deviation * density
        return answer

    def _masks(self, sets: Sequence[RemovedSet]) -> Array:
        masks = np.zeros((len(sets), len(self._place)))
        for row, removed in enumerate(sets):
            masks[row, [self._place[block] for block in removed]] = 1.0
        return masks


def _fit(masks: Array, losses: Array, length: float) -> Any:
    """A process with that length scale."""
    process, _ = _sklearn()
    model = process.GaussianProcessRegressor(
        _kernel()(length), alpha=_NUGGET, optimizer=None, normalize_y=True
    )
    return model.fit(masks, losses)


@cache
def _kernel() -> Any:
    """The kernel's class; scikit-learn's own on L1 distances takes ten times as long."""
    _, kernels = _sklearn()

    stationary, normalised = kernels.StationaryKernelMixin, kernels.NormalizedKernelMixin

    class Hamming(stationary, normalised, kernels.Kernel):  # type: ignore[misc, valid-type, name-defined]
        """exp(−d/ℓ) on the Hamming distance d of masks of 0 and 1."""

        def __init__(self, length: float = 1.0) -> None:
            self.length = length

        def __call__(self, x: Array, y: Array | None = None, eval_gradient: bool = False) -> Array:
            other = x if y is None else y
            distance = x.sum(1)[:, None] + other.sum(1)[None, :] - 2 * x @ other.T
            answer: Array = np.exp(-distance / self.length)
            return answer

    return Hamming


def _sklearn() -> tuple[Any, ...]:
    return require_extra(
        "search bayesian",
        "search",
        "sklearn.gaussian_process",
        "sklearn.gaussian_process.kernels",
    )
