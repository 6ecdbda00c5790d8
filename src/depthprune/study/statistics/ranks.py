"""Whether ranks agree: perplexity with accuracy, and a search's own loss with both.

All are ranked from best to worst, so 1 is full agreement. The paper's cell is one model, k and
objective; ranks are taken inside it, and pooled over cells.
"""

from __future__ import annotations

import numpy as np

from depthprune.study.statistics.correlation import (
    Correlation,
    averaged,
    pooled,
)
from depthprune.study.statistics.data import (
    Floats,
    Ints,
    StudyData,
)
from depthprune.study.statistics.estimates import NotEstimable


def perplexity_ranks(data: StudyData) -> Correlation | NotEstimable:
    """The agreement of perplexity and accuracy, pooled; means over the texts and over the tasks.

    Args:
        data: One model's cells. Draws are resampled whole.
    """
    sides = _sides(data)
    if isinstance(sides, NotEstimable):
        return sides
    x, y = sides
    groups = _groups(data, "k", "objective")
    unit = data.codes["unit"]
    return pooled([x[g] for g in groups], [y[g] for g in groups], [unit[g] for g in groups])


def perplexity_ranks_by_cell(data: StudyData) -> dict[str, Correlation | NotEstimable]:
    """The same for each k and objective apart, by a name such as `k = 6, nll`."""
    sides = _sides(data)
    if isinstance(sides, NotEstimable):
        return {}
    (x, y), unit = sides, data.codes["unit"]
    found = {}
    for group in _groups(data, "k", "objective"):
        row = data.rows[int(group[0])]
        found[f"k = {row.k}, {row.objective}"] = pooled([x[group]], [y[group]], [unit[group]])
    return found


def objective_ranks(data: StudyData, kind: str) -> Correlation | NotEstimable:
    """Whether the set with the lower calibration loss is the better one on what is judged.

    Losses compare only between searches on one draw under one objective; the agreement of each
    such group is averaged, and draws are resampled.

    Args:
        data: One model's cells.
        kind: `perplexity` or `accuracy`.
    """
    columns = data.columns(kind)
    if not len(columns):
        return NotEstimable(f"the cells share no evaluation of {kind}")
    losses = np.asarray([np.nan if row.loss is None else row.loss for row in data.rows])
    if not np.isfinite(losses).all():
        return NotEstimable("the calibration loss of some cells was not kept or is not finite")
    judged = data.values[:, columns].mean(axis=1)
    quality = -judged if kind == "perplexity" else judged
    groups = _groups(data, "k", "objective", "unit")
    units = [int(data.codes["unit"][group[0]]) for group in groups]
    return averaged([-losses[g] for g in groups], [quality[g] for g in groups], units)


def _sides(data: StudyData) -> tuple[Floats, Floats] | NotEstimable:
    texts, tasks = data.columns("perplexity"), data.columns("accuracy")
    if not len(texts) or not len(tasks):
        return NotEstimable("the cells share no text and task to be compared on")
    return -data.values[:, texts].mean(axis=1), data.values[:, tasks].mean(axis=1)


def _groups(data: StudyData, *factors: str) -> list[Ints]:
    code = data.joint(*factors)
    return [np.flatnonzero(code == each) for each in np.unique(code)]
