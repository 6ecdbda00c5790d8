"""What one search gains on another, on the same draws, and what the gain's ± is an error of.

Cells share draws, draws share a calibration and calibrations a source, so a mean over cells has
three errors, and which is right depends on what is asked: would further draws of these calibrations
say the same, further calibrations, further sources? Each is the 95% interval of Student's t over
the means of the units that it names; within given calibrations the draws' spread is pooled with the
degrees of freedom of Satterthwaite (1946). All units were judged on the same items, so in each the
items' own error comes on top (see `intervals`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from depthprune.study.statistics.core import Core
from depthprune.study.statistics.data import Floats, Ints
from depthprune.study.statistics.estimates import IntervalEstimate, NotEstimable
from depthprune.study.statistics.intervals import (
    VariancePart,
    half_width,
    item_parts,
)


@dataclass(frozen=True)
class Gain:
    """How much better one search's sets are than another's.

    Attributes:
        search: The search.
        against: The other, on the same draws.
        draws: The mean gain in log-perplexity saved or accuracy won, with the interval for further
            draws of these calibrations.
        calibrations: The same mean, with the interval for further calibrations.
        sources: The same mean, with the interval for further sources; each source weighs alike.
        by_objective: For each objective the gain under it, with the interval for further draws.
        interaction: How much larger the gain is under the first objective than under the second,
            on the same draws; None with another number of objectives.
    """

    search: str
    against: str
    draws: IntervalEstimate
    calibrations: IntervalEstimate
    sources: IntervalEstimate
    by_objective: dict[str, IntervalEstimate]
    interaction: IntervalEstimate | None


def gain(of: Core, search: str, against: str, *, lower_is_better: bool) -> Gain:
    """What a search gains on another.

    Args:
        of: A balanced core with the responses of one kind.
        search: One of its searches.
        against: Another.
        lower_is_better: Whether the responses are losses.
    """
    one, other = of.searches.index(search), of.searches.index(against)
    sign = -1.0 if lower_is_better else 1.0

    def cells(values: Floats) -> Floats:
        """Shape (draws, blocks, responses)."""
        gained: Floats = sign * (values[:, one] - values[:, other])
        return gained

    def within(blocks: NDArray[np.bool_]) -> Callable[[Floats], Floats]:
        return lambda values: cells(values)[:, blocks].mean(axis=1)

    def between(each: Callable[[Floats], Floats]) -> IntervalEstimate:
        items = item_parts(of, lambda values: _of_calibrations(each(values), of.calibration))
        return between_draws(each(of.values).mean(axis=-1), of.calibration, items)

    objective = np.asarray([name for _, name in of.blocks])
    both, everything = _paired_blocks(of), within(np.ones(len(of.blocks), dtype=np.bool_))
    interaction = None
    if len(of.objectives) == 2 and both.any():
        first, second = (within(both & (objective == name)) for name in of.objectives)
        interaction = between(lambda values: first(values) - second(values))
    means = _means(everything(of.values).mean(axis=-1), of.calibration)
    items = item_parts(of, lambda values: _of_calibrations(everything(values), of.calibration))
    source = np.unique(of.sources, return_inverse=True)[1].reshape(-1)
    return Gain(
        search,
        against,
        between(everything),
        between_means(means, "calibration", items),
        between_means(_means(means, source), "source", items),
        {name: between(within(objective == name)) for name in of.objectives},
        interaction,
    )


def _of_calibrations(each: Floats, calibration: Ints) -> Floats:
    """The mean over calibrations of the mean over their draws, shape (responses,)."""
    members = np.eye(int(calibration.max()) + 1)[calibration]
    means: Floats = (members / members.sum(axis=0)).T @ each
    mean: Floats = means.mean(axis=0)
    return mean


def _paired_blocks(of: Core) -> NDArray[np.bool_]:
    """Blocks whose k every objective has."""
    have = {k: {name for size, name in of.blocks if size == k} for k, _ in of.blocks}
    return np.asarray([have[k] == set(of.objectives) for k, _ in of.blocks])


def _means(values: Floats, group: Ints) -> Floats:
    means: Floats = np.bincount(group, weights=values) / np.bincount(group)
    return means


def between_draws(
    values: Floats, calibration: Ints, items: Sequence[VariancePart] = ()
) -> IntervalEstimate:
    """The mean over calibrations of the mean over their draws, with the interval between draws.

    Args:
        values: One a draw.
        calibration: Of each draw.
        items: What the items judged on add.
    """
    draws, means = np.bincount(calibration), _means(values, calibration)
    value = float(means.mean())
    if (draws < 2).any():
        why = NotEstimable("one draw of a calibration gives no interval")
        return IntervalEstimate(value, why, why, len(values))
    spread = np.bincount(calibration, weights=(values - means[calibration]) ** 2) / (draws - 1)
    parts = spread / draws / len(draws) ** 2
    own = [VariancePart(float(part), float(n - 1)) for part, n in zip(parts, draws, strict=True)]
    width = math.hypot(half_width(own), half_width(items))
    return IntervalEstimate(value, value - width, value + width, len(values))


def between_means(means: Floats, name: str, items: Sequence[VariancePart] = ()) -> IntervalEstimate:
    """The mean of some means, with Student's interval between them.

    Args:
        means: One a unit.
        name: What a unit is called.
        items: What the items judged on add.
    """
    value = float(means.mean())
    if len(means) < 2:
        why = NotEstimable(f"there is one {name} only")
        return IntervalEstimate(value, why, why, len(means))
    own = VariancePart(float(means.var(ddof=1)) / len(means), float(len(means) - 1))
    width = math.hypot(half_width([own]), half_width(items))
    return IntervalEstimate(value, value - width, value + width, len(means))
