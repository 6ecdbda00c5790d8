"""A study's figures as SVG for its page, each with a title and a description in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from scipy import stats

from depthprune.report import numbers
from depthprune.report.export import svg
from depthprune.study.report import figures, maps
from depthprune.study.statistics.data import (
    Floats,
    Ints,
    StudyData,
)
from depthprune.study.statistics.effects import (
    FACTORS,
    Effect,
    StudyPart,
)
from depthprune.study.statistics.estimates import IntervalEstimate, NotEstimable
from depthprune.study.statistics.findings.verdicts import MEASURED, verdict
from depthprune.study.statistics.masks import masks
from depthprune.study.statistics.noise import Difference
from depthprune.study.statistics.overlap import jaccard_matrix
from depthprune.study.statistics.quality import CostQuality
from depthprune.study.statistics.transfer import Transfer
from depthprune.study.statistics.variance import Decomposition
from depthprune.study.table import Row

_MOST_ROWS = 64
_MOST_GROUPS = 16
_LABELS = {"perplexity": "log-perplexity", "accuracy": "points of accuracy"}


def effects(part: StudyPart) -> str:
    """What changing each factor moves, against the noise floor, and the difference asked for."""
    panels, words = [], []
    for measure in part.measures:
        scale = 100.0 if measure == "accuracy" else 1.0
        sizes = []
        for factor in FACTORS:
            effect = part.effects.get((factor, measure))
            if isinstance(effect, Effect):
                size = _scaled(effect.size, scale)
                sizes.append(figures.EffectBar(factor, size, effect.claimed))
                words.append(f"{factor}, {_LABELS[measure]}: {numbers.fixed(size.value, 3)}")
        more = part.more.get(measure)
        if isinstance(more, Difference):
            size = _scaled(more.estimate, scale)
            told = verdict(part, measure) in ("calibration", "search")
            sizes.append(figures.EffectBar(_DIFFERENCE, size, told, signed=True))
            words.append(f"{_DIFFERENCE}, {_LABELS[measure]}: {numbers.fixed(size.value, 3)}")
        floor = part.floors.get(measure)
        line = scale * floor.value if isinstance(floor, IntervalEstimate) else None
        if line is not None:
            words.append(f"noise floor, {_LABELS[measure]}: {numbers.fixed(line, 3)}")
        panels.append((_LABELS[measure], sizes, line))
    return svg(figures.effect_bars(panels), "What changing each thing moves", "; ".join(words))


_DIFFERENCE = "calibration less search"


def _scaled(value: IntervalEstimate, scale: float) -> IntervalEstimate:
    ends = value.interval
    if isinstance(ends, NotEstimable):
        return replace(value, value=scale * value.value)
    return replace(value, value=scale * value.value, low=scale * ends[0], high=scale * ends[1])


def variance(known: Mapping[str, Decomposition]) -> str:
    """The share of variance of each term."""
    panels = [(MEASURED[measure], found) for measure, found in known.items()]
    words = [
        f"{term.name}, {name}: {numbers.fixed(100 * term.within, 1)}%"
        for name, found in panels
        for term in found.terms
        if term.within is not None
    ]
    return svg(figures.variance_bars(panels), "Share of variance by factor", "; ".join(words))


def mask_map(data: StudyData) -> tuple[str, int]:
    """The masks of the first configurations, and how many more there are."""
    # Labels of long names may be alike, so they tell no two configurations apart.
    alike: dict[tuple[int, str, str, str], list[Row]] = {}
    for row in sorted(data.rows, key=_configuration):
        alike.setdefault(_configuration(row), []).append(row)
    blocks = max(row.blocks for row in data.rows)
    groups = list(alike.values())[:_MOST_ROWS]
    shown = [_mask_label(data, rows[0]) for rows in groups]
    shares = np.stack(
        [masks([row.removed for row in rows], blocks).mean(axis=0) for rows in groups]
    )
    always = [
        f"{name}: {numbers.block_list([int(b) for b in np.flatnonzero(share == 1)])}"
        for name, share in zip(shown, shares, strict=True)
    ]
    figure = maps.mask_map(shown, shares)
    description = f"Blocks that every draw removes. {'; '.join(always)}."
    return svg(figure, "Removed blocks by configuration", description), len(alike) - len(shown)


def _configuration(row: Row) -> tuple[int, str, str, str]:
    return row.k, row.calibration.name, row.objective, row.search


def _mask_label(data: StudyData, row: Row) -> str:
    """What tells a row of the map from the others; a long name is cut, and never the search."""
    lead = f"k = {row.k}, " if data.count("k") > 1 else ""
    tail = (f", {row.objective}" if data.count("objective") > 1 else "") + f", {row.search}"
    return f"{lead}{maps.shortened(row.calibration.name, 54 - len(lead + tail))}{tail}"


def jaccard_map(data: StudyData) -> str:
    """Mean Jaccard indices between groups of cells: by calibration and search if few enough."""
    factors = ["calibration", "search"]
    if data.count("calibration") * data.count("search") > _MOST_GROUPS:
        factors = ["calibration"]
    groups = data.joint(*factors)
    labels = []
    for group in range(int(groups.max()) + 1):
        first = int(np.flatnonzero(groups == group)[0])
        labels.append(", ".join(data.levels[f][data.codes[f][first]] for f in factors))
    matrix = _group_means(data, groups)
    between = matrix[~np.eye(len(matrix), dtype=bool)]
    known = between[np.isfinite(between)]
    words = (
        f"Between groups from {numbers.fixed(float(known.min()), 2)} to "
        f"{numbers.fixed(float(known.max()), 2)}."
        if len(known)
        else "There is one group only."
    )
    return svg(maps.jaccard_map(labels, matrix), "Mean Jaccard index between groups", words)


def _group_means(data: StudyData, groups: Ints) -> Floats:
    sets = [row.removed for row in data.rows]
    index = jaccard_matrix(sets, max(row.blocks for row in data.rows))
    alike = data.codes["k"][:, None] == data.codes["k"][None, :]
    np.fill_diagonal(alike, val=False)
    belongs = np.eye(int(groups.max()) + 1)[groups]
    sums, counts = belongs.T @ (index * alike) @ belongs, belongs.T @ alike @ belongs
    means: Floats = np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0)
    return means


def rank_scatter(data: StudyData) -> str:
    """Ranks by mean log-perplexity and mean accuracy, inside each k and objective."""
    texts, tasks = data.columns("perplexity"), data.columns("accuracy")
    groups = data.joint("k", "objective")
    panels, told = [], []
    for group in range(int(groups.max()) + 1):
        inside = np.flatnonzero(groups == group)
        first = data.rows[int(inside[0])]
        name = f"k = {first.k}, {first.objective}"
        x = stats.rankdata(data.values[np.ix_(inside, texts)].mean(axis=1))
        y = stats.rankdata(-data.values[np.ix_(inside, tasks)].mean(axis=1))
        panels.append(figures.RankPanel(name, x, y, [data.rows[i].search for i in inside]))
        best = data.rows[int(inside[np.argmin(x)])]
        told.append(
            f"{name}: {len(x)} cells, the best by perplexity, {best.calibration.name} under "
            f"{best.search}, has rank {numbers.fixed(float(y[np.argmin(x)]), 0)} by accuracy."
        )
    title = "Rank by perplexity against rank by accuracy"
    return svg(figures.rank_scatter(panels), title, " ".join(told))


def transfer_map(matrix: Transfer, measure: str) -> str:
    """Chosen on the row, judged on the column."""
    perplexity = measure == "perplexity"
    loss = matrix.mean if perplexity else -matrix.mean
    best = [
        f"best on {name}: {matrix.calibrations[int(np.argmin(loss[:, i]))]}"
        for i, name in enumerate(matrix.evaluations)
    ]
    figure = maps.transfer_map(matrix, perplexity=perplexity)
    return svg(figure, f"Transfer matrix, {measure}", "; ".join(best))


def cost_front(points: Sequence[CostQuality], measure: str) -> str:
    """Quality against cost."""
    front = [point.search for point in points if point.front]
    figure = figures.cost_front(points, perplexity=measure == "perplexity")
    return svg(figure, f"{measure.capitalize()} against cost", f"On the front: {', '.join(front)}.")
