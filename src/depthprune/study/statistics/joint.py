"""Joint tests: one for each factor and interaction, over all searches, blocks and texts at once.

Draws are what is repeated, so draws are what is exchanged, whole. Under no effect of the
calibration the draws of all calibrations are alike: they are permuted among the calibrations
(Anderson 2001, on Euclidean distances of all columns). Permutations take unequal spread of the
draws for an effect, so p is the larger of that and of the F of Brunner, Dette and Munk (1997),
Box's approximation for any covariance of each calibration. Searches and objectives are compared
within draws, and no covariance of theirs is assumed either: under no effect a draw's deviations
from its own mean are as likely with the other sign, in all its cells together (sign flips).

A few draws can be permuted or flipped in a few ways only, and no outcome would then be rare. Where
there are fewer than a hundred, the F stands alone (within draws that of repeated measures, with the
degrees of freedom of Greenhouse and Geisser 1959), which trusts in normal draws instead.

An interaction is the same test of what is left when the main effects are taken off: whether the
searches' deviations differ between calibrations, or between objectives.
"""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
from scipy import stats

from depthprune.study.statistics.core import Core
from depthprune.study.statistics.data import Floats, Ints
from depthprune.study.statistics.estimates import NotEstimable

FACTORS = ("calibration", "objective", "search")
INTERACTIONS = ("calibration × search", "objective × search", "calibration × objective")
_PERMUTATIONS = 1999
_FEWEST_WAYS = 100


def joint_tests(
    of: Core, *, permutations: int = _PERMUTATIONS, seed: int = 0
) -> dict[str, float | NotEstimable]:
    """The p of every factor and interaction, or why it cannot be tested.

    Args:
        of: A balanced core with the responses of one kind.
        permutations: How many, beside the identity.
        seed: Of the permutations.
    """
    found: dict[str, float | NotEstimable] = {}
    search, objective = _deviations(of, "search"), _deviations(of, "objective")
    flat = of.values.reshape(len(of.values), -1)
    tests = {
        "calibration": (flat, True),
        "objective": (objective, False),
        "search": (search, False),
        "calibration × search": (search, True),
        "objective × search": (_both(of, search), False),
        "calibration × objective": (objective, True),
    }
    for name, (values, between) in tests.items():
        rng = np.random.default_rng(seed)
        if isinstance(values, NotEstimable):
            found[name] = values
        elif between:
            found[name] = between_draws(values, of.calibration, permutations, rng)
        else:
            found[name] = within_draws(values, of.calibration, permutations, rng)
    return found


def _deviations(of: Core, vary: str) -> Floats | NotEstimable:
    """What each level differs by from the mean of its draw's levels, shape (draws, columns)."""
    if vary == "search":
        if len(of.searches) < 2:
            return NotEstimable("there is one search only that every draw saw")
        around: Floats = of.values - of.values.mean(axis=1, keepdims=True)
        return around.reshape(len(of.values), -1)
    return _among_objectives(of, of.values)


def _both(of: Core, search: Floats | NotEstimable) -> Floats | NotEstimable:
    if isinstance(search, NotEstimable):
        return search
    return _among_objectives(of, search.reshape(of.values.shape))


def _among_objectives(of: Core, values: Floats) -> Floats | NotEstimable:
    """Values less their mean over the objectives of one k, where it has several, as columns."""
    sizes = np.asarray([k for k, _ in of.blocks])
    centred, paired = values.copy(), np.zeros(len(sizes), dtype=np.bool_)
    for k in np.unique(sizes):
        inside = sizes == k
        centred[:, :, inside] -= values[:, :, inside].mean(axis=2, keepdims=True)
        paired |= inside & (inside.sum() > 1)
    if not paired.any():
        return NotEstimable("there is one objective only that every draw saw")
    columns: Floats = centred[:, :, paired].reshape(len(values), -1)
    return columns


def between_draws(
    values: Floats, calibration: Ints, permutations: int, rng: np.random.Generator
) -> float | NotEstimable:
    """Whether the calibrations' means differ in any column.

    Args:
        values: Shape (draws, columns).
        calibration: Of each draw, shape (draws,).
        permutations: How many, beside the identity.
        rng: Of the permutations.
    """
    draws = np.bincount(calibration)
    if len(draws) < 2:
        return NotEstimable("there is one calibration only")
    if (draws < 2).any():
        return NotEstimable("no configuration has two draws; run each with draws of several seeds")
    columns = _varying(values - values.mean(axis=0), values)
    if columns is None:
        return 1.0
    box = _box(columns, calibration, draws)
    if _arrangements(draws) < _FEWEST_WAYS:
        return box
    members = np.eye(len(draws))[calibration]
    orders = np.stack(
        [np.arange(len(members)), *(rng.permutation(len(members)) for _ in range(permutations))]
    )
    observed, *moved = _among(columns, members[orders], draws)
    reached = int((np.asarray(moved) >= observed - 1e-12).sum())
    return max((1 + reached) / (1 + permutations), box)


def _arrangements(draws: Ints) -> float:
    """In how many ways the draws can be divided among calibrations without names."""
    ways = math.lgamma(int(draws.sum()) + 1) - sum(math.lgamma(int(n) + 1) for n in draws)
    alike = sum(math.lgamma(count + 1) for count in Counter(draws.tolist()).values())
    return math.exp(ways - alike)


def _varying(centred: Floats, values: Floats) -> Floats | None:
    """The deviations over their largest, or None where they are what rounding leaves."""
    largest = float(np.abs(centred).max(initial=0.0))
    if largest <= 1e-12 * max(1.0, float(np.abs(values).max(initial=0.0))):
        return None
    scaled: Floats = centred / largest
    return scaled


def _among(columns: Floats, members: Floats, draws: Ints) -> Floats:
    """The sum of squares among calibrations, of each order of the draws, shape (orders,).

    Args:
        columns: Shape (draws, columns).
        members: Which draw is of which calibration, shape (orders, draws, calibrations).
        draws: Of each calibration.
    """
    sums = np.moveaxis(members, -1, 1) @ columns
    among: Floats = (sums**2 / draws[:, None]).sum(axis=(1, 2))
    return among


def _box(columns: Floats, calibration: Ints, draws: Ints) -> float:
    """P of the F of Brunner, Dette and Munk for the calibrations' mean vectors."""
    count = len(draws)
    means = np.stack([columns[calibration == c].mean(axis=0) for c in range(count)])
    residuals = columns - means[calibration]
    spread = np.asarray([(residuals[calibration == c] ** 2).sum() for c in range(count)])
    spread /= draws - 1
    above = float(((means - means.mean(axis=0)) ** 2).sum())
    share = (1 - 1 / count) * spread / draws
    below = float(share.sum())
    if below <= 1e-24:
        return 0.0 if above > 1e-24 else 1.0
    inner = (residuals @ residuals.T) ** 2
    crossed = np.asarray(
        [
            [inner[np.ix_(calibration == a, calibration == b)].sum() for b in range(count)]
            for a in range(count)
        ]
    ) / np.outer(draws - 1, draws - 1)
    np.fill_diagonal(
        crossed,
        [_own_square(float(crossed[c, c]), float(spread[c]), int(draws[c]) - 1, columns.shape[1])
         for c in range(count)],
    )  # fmt: skip
    projector = np.full((count, count), 1 / count**2)
    np.fill_diagonal(projector, (1 - 1 / count) ** 2)
    first = below**2 / float((projector * crossed / np.outer(draws, draws)).sum())
    second = below**2 / float((share**2 / (draws - 1)).sum())
    return float(stats.f.sf(above / below, first, second))


def _own_square(naive: float, trace: float, freedom: int, columns: int) -> float:
    """An estimate of tr S² without the bias that few draws bring, between its bounds."""
    if freedom < 2:
        return naive
    unbiased = freedom**2 / ((freedom - 1) * (freedom + 2)) * (naive - trace**2 / freedom)
    return float(np.clip(unbiased, trace**2 / columns, trace**2))


def within_draws(
    values: Floats, calibration: Ints, permutations: int, rng: np.random.Generator
) -> float | NotEstimable:
    """Whether deviations within draws have a mean, over all draws or in any calibration.

    Args:
        values: Deviations from the draw's own mean, shape (draws, columns).
        calibration: Of each draw, shape (draws,).
        permutations: How many flips of the draws' signs, beside the identity.
        rng: Of the flips.
    """
    if len(values) < 2:
        return NotEstimable("one draw cannot be told from noise; run draws of several seeds")
    columns = _varying(values, values)
    if columns is None:
        return 1.0
    if 2 ** (len(values) - 1) < _FEWEST_WAYS:
        return _repeated(columns)
    draws = np.bincount(calibration)
    members = np.eye(len(draws))[calibration]

    flips = rng.integers(0, 2, size=(permutations, len(values))) * 2.0 - 1.0
    signs = np.vstack([np.ones(len(values)), flips])
    of_each = (signs[:, None, :] * members.T) @ columns
    size = (of_each.sum(axis=1) ** 2).sum(axis=-1) / len(values)
    size += (of_each**2 / draws[:, None]).sum(axis=(1, 2))
    reached = int((size[1:] >= size[0] - 1e-12).sum())
    return (1 + reached) / (1 + permutations)


def _repeated(columns: Floats) -> float:
    """P of the F of repeated measures for the mean of all columns being 0."""
    count, means = len(columns), columns.mean(axis=0)
    residuals = columns - means
    trace = float((residuals**2).sum()) / (count - 1)
    above = count * float((means**2).sum())
    if trace <= 1e-24:
        return 0.0 if above > 1e-24 else 1.0
    naive = float(((residuals @ residuals.T) ** 2).sum()) / (count - 1) ** 2
    freedom = trace**2 / naive
    return float(stats.f.sf(above / trace, freedom, freedom * (count - 1)))


def holm(p: Floats) -> Floats:
    """Holm's adjusted p values along the first axis, shape (tests, …)."""
    order = np.argsort(p, axis=0)
    steps = np.arange(len(p), 0, -1).reshape(-1, *[1] * (p.ndim - 1))
    raised = np.maximum.accumulate(np.take_along_axis(p, order, axis=0) * steps, axis=0)
    adjusted: Floats = np.empty_like(p)
    np.put_along_axis(adjusted, order, np.minimum(raised, 1.0), axis=0)
    return adjusted
