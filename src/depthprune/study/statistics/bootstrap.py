"""Tables made anew from a core, for the parametric bootstrap (Efron and Tibshirani 1993, ch. 12).

They are of the means of the levels, shrunk by what noise alone would spread them, and of normal
draws of the residuals' own covariance.
"""

from __future__ import annotations

import numpy as np

from depthprune.study.statistics.core import Core
from depthprune.study.statistics.data import Floats, Ints

# A spread that few draws show is drawn towards that of all: it weighs as much as this many draws.
_PRIOR_DRAWS = 4.0


def made_anew(of: Core, count: int, rng: np.random.Generator) -> Floats:
    """Tables of the fitted model, shape (draws, searches, blocks, count × responses)."""
    members, levels = of.calibration, len(of.calibrations)
    flat = of.values.reshape(len(members), -1)
    means = np.stack([flat[members == c].mean(axis=0) for c in range(levels)])
    residuals = flat - means[members]
    freedom = len(flat) - levels
    draws = of.draws
    # Each calibration's draws spread by their own, drawn towards the spread of all.
    all_of_it = (residuals**2).sum() / freedom
    own = np.asarray([(residuals[members == c] ** 2).sum() for c in range(levels)])
    own /= np.maximum(draws - 1, 1) * max(all_of_it, 1e-300)
    trust = (draws - 1) / (draws - 1 + _PRIOR_DRAWS)
    scale = np.sqrt(trust * own + 1 - trust)
    shape = of.values.shape[1:]
    centre = _shrunk(means.reshape(levels, *shape), residuals, freedom, draws)
    noise = rng.standard_normal((count, len(flat), len(flat))) @ (residuals / np.sqrt(freedom))
    tables = centre.reshape(levels, -1)[members] + scale[members][:, None] * noise
    made = tables.reshape(count, len(flat), *shape)
    anew: Floats = np.moveaxis(made, 0, -2).reshape(len(flat), *shape[:2], -1)
    return anew


def _shrunk(means: Floats, residuals: Floats, freedom: int, draws: Ints) -> Floats:
    """Level means, each kind of effect shrunk by what the noise would make of none.

    Args:
        means: Shape (calibrations, searches, blocks, responses).
        residuals: Shape (draws, searches × blocks × responses).
        freedom: Degrees of freedom of the residuals.
        draws: Of each calibration.
    """
    levels, searches = means.shape[:2]
    grand = means.mean(axis=(0, 1), keepdims=True)
    of_calibration = means.mean(axis=1, keepdims=True) - grand
    of_search = means.mean(axis=0, keepdims=True) - grand
    of_both = means - grand - of_calibration - of_search
    noise = residuals.reshape(-1, *means.shape[1:])
    shared = noise.mean(axis=1, keepdims=True)
    per_draw = float((shared**2).sum()) / freedom
    within = float(((noise - shared) ** 2).sum()) / freedom / max(1, searches - 1)
    each = float(np.mean(1 / draws))
    shrunk: Floats = grand + sum(
        (
            _towards_nothing(of_calibration, levels - 1, per_draw * each),
            _towards_nothing(of_search, searches - 1, within * each / levels),
            _towards_nothing(of_both, (levels - 1) * (searches - 1), within * each),
        ),
        np.zeros_like(means),
    )
    return shrunk


def _towards_nothing(effect: Floats, freedom: int, noise: float) -> Floats:
    spread = float((effect**2).sum()) / max(1, freedom)
    kept = max(0.0, 1 - noise / spread) if spread > 0 else 0.0
    shrunk: Floats = effect * np.sqrt(kept)
    return shrunk
