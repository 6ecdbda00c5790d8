"""Errors of several origins put together: between draws, and between the items judged on.

An interval says what else could have come: further draws of the same calibrations, and further
windows and items of the same texts and tasks. The two are drawn apart, so the half-widths that each
gives alone are added as squares (Zou and Donner 2008), which never makes an interval narrower. What
items do is the jackknife that leaves out a group of them in turn (Efron and Stein 1981), each text
or task by itself, in all cells together: every comparison is then of the same items, and what they
share falls out. Where results by item were not kept, their error is in no interval, and the page
says so.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from depthprune.study.statistics.core import Core
from depthprune.study.statistics.data import Floats

ALPHA = 0.05


@dataclass(frozen=True)
class VariancePart:
    """One origin of a figure's variance.

    Attributes:
        variance: Of the figure.
        freedom: Degrees of freedom of its estimate.
    """

    variance: float
    freedom: float


def item_parts(of: Core, figure: Callable[[Floats], Floats]) -> list[VariancePart]:
    """What the items judged on add to a figure's variance, a part a text or task.

    Args:
        of: A balanced core.
        figure: From values, shape (draws, searches, blocks, columns), to one figure a column,
            shape (columns,); the mean over the responses is the figure.

    Returns:
        Nothing where results by item were not kept.
    """
    if of.without_items is None or not of.by_item:
        return []
    without = of.without_items
    groups, count = len(without), without.shape[-1]
    # Columns are independent of each other, so all groups are computed as columns of one table.
    beside = np.moveaxis(without, 0, -2).reshape(*without.shape[1:-1], groups * count)
    figures = figure(beside).reshape(groups, count)
    parts = []
    for column in figures.T:
        left = column[np.isfinite(column)]
        spread = float(((left - left.mean()) ** 2).sum()) * (len(left) - 1) / len(left)
        parts.append(VariancePart(spread / count**2, len(left) - 1))
    return parts


def together(parts: Sequence[VariancePart]) -> VariancePart:
    """Independent parts as one."""
    total = math.fsum(part.variance for part in parts)
    below = math.fsum(part.variance**2 / part.freedom for part in parts)
    return VariancePart(total, total**2 / below if below > 0 else sum(p.freedom for p in parts))


def half_width(parts: Sequence[VariancePart], alpha: float = ALPHA) -> float:
    """Half the interval of a figure whose variance has these parts.

    Args:
        parts: Independent ones.
        alpha: The chance of being outside; 95% intervals by default.
    """
    whole = together(parts)
    if not whole.variance:
        return 0.0
    return float(stats.t.ppf(1 - alpha / 2, whole.freedom)) * math.sqrt(whole.variance)
