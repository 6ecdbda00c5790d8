"""The tables of a study's page, as words: every figure the page draws can be read here too.

One template draws them all, and one script sorts, filters and saves them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from depthprune.report import numbers
from depthprune.study.report.table_model import (
    DASH,
    TableCell,
    TextTable,
    interval,
    number,
    p_value,
)
from depthprune.study.statistics.data import StudyData
from depthprune.study.statistics.effects import StudyPart
from depthprune.study.statistics.estimates import NotEstimable
from depthprune.study.statistics.findings.verdicts import MEASURED
from depthprune.study.statistics.masks import contiguity
from depthprune.study.statistics.overlap import agreement, agreement_p, jaccard_matrix
from depthprune.study.statistics.permanova import permanova
from depthprune.study.statistics.ranks import (
    objective_ranks,
    perplexity_ranks,
    perplexity_ranks_by_cell,
)
from depthprune.study.statistics.spread import spread
from depthprune.study.statistics.standings import Standing
from depthprune.study.statistics.transfer import Transfer
from depthprune.study.statistics.variance import Decomposition, Term
from depthprune.study.table import Row


def variance_table(measure: str, found: Decomposition) -> TextTable:
    """Every estimated term, and those that are not with the reason."""
    rows: list[tuple[TableCell, ...]] = [
        (
            TableCell(term.name),
            TableCell(str(term.df), term.df),
            number(term.eta2),
            number(term.within),
            number(term.omega2),
            TableCell(_judged(term)),
        )
        for term in found.terms
    ]
    rows.append(
        (
            TableCell("residual"),
            TableCell(str(found.residual_df), found.residual_df),
            number(found.residual),
            *[DASH] * 3,
        )
    )
    rows += [
        (
            TableCell(name),
            TableCell("not estimated"),
            *[DASH] * 3,
            TableCell(why.reason),
        )
        for name, why in found.not_estimable.items()
    ]
    head = ("Term", "df", "η²", "η² within model and k", "ω²", "Judged against")
    caption = f"Variance of {MEASURED[measure]}: type II sums of squares over {found.cells} cells"
    return TextTable(caption, head, tuple(rows))


def _judged(term: Term) -> str:
    return "the draws" if term.error == "draw" else "the residual"


def contiguity_table(data: StudyData) -> TextTable:
    """How clustered the sets of each calibration and search are."""
    rows = []
    for name, inside in _groups(data, lambda row: f"{row.calibration.name}, {row.search}"):
        found = [contiguity(row.removed, row.blocks) for row in inside]
        shapes = [shape for shape in found if not isinstance(shape, NotEstimable)]
        if shapes:
            means = (
                np.mean([s.runs for s in shapes]),
                np.mean([s.longest for s in shapes]),
                np.mean([s.span for s in shapes]),
                np.mean([s.mean_depth for s in shapes]),
            )
            places = (1, 1, 1, 2)
            cells = [number(float(m), p) for m, p in zip(means, places, strict=True)]
            rows.append((TableCell(name), TableCell(str(len(shapes)), len(shapes)), *cells))
    head = ("Configuration", "Sets", "Runs", "Longest run", "Span", "Mean depth, 0 to 1")
    return TextTable("How clustered the removed sets are, on average", head, tuple(rows))


def agreement_table(data: StudyData) -> TextTable:
    """Mean Jaccard indices against chance."""
    words = {
        "search": "two searches on the same draw",
        "objective": "two objectives on the same draw",
        "draw": "two draws of one configuration",
        "calibration": "two calibrations under one search",
    }
    rows: list[tuple[TableCell, ...]] = []
    for vary, name in words.items():
        found = agreement(data, vary)
        if isinstance(found, NotEstimable):
            rows.append((TableCell(name), number(found), DASH, DASH, TableCell("0", 0)))
        else:
            count = TableCell(f"{found.pairs:,}", found.pairs)
            p = p_value(agreement_p(data, vary))
            rows.append((TableCell(name), number(found.mean), number(found.chance), p, count))
    head = (
        "Sets that differ by",
        "Mean Jaccard index",
        "By chance",
        "p, 999 permutations",
        "Pairs",
    )
    return TextTable("How far removed sets agree", head, tuple(rows))


def pattern_table(part: StudyPart) -> TextTable:
    """PERMANOVA of the patterns by calibration, objective and search, at each k.

    It is of the balanced core, since draws can be exchanged only where all saw the same searches
    and objectives. Draws move whole where calibrations are compared. Searches are shuffled among
    the cells of one draw and objective, and objectives among those of one draw and search.
    """
    rows: list[tuple[TableCell, ...]] = []
    data = part.compared
    for level, k in enumerate(data.levels["k"]):
        inside = np.flatnonzero(data.codes["k"] == level)
        cells = [data.rows[i] for i in inside]
        distances = 1 - jaccard_matrix([row.removed for row in cells], cells[0].blocks)
        unit = data.codes["unit"][inside]
        for factor, other in (
            ("calibration", ""),
            ("objective", "search"),
            ("search", "objective"),
        ):
            whole = factor == "calibration"
            if factor == "objective" and data.count("objective") < 2:
                continue
            found = permanova(
                distances,
                data.codes[factor][inside],
                units=unit if whole else None,
                within=None if whole else data.joint("unit", other)[inside],
            )
            name = TableCell(f"{factor}, k = {k}")
            if isinstance(found, NotEstimable):
                rows.append((name, number(found), DASH, DASH))
            else:
                rows.append((name, number(found.r2), number(found.f, 1), p_value(found.p)))
    head = ("Factor", "R²", "Pseudo-F", "p, 999 permutations")
    return TextTable("PERMANOVA on the Jaccard distances of the sets", head, tuple(rows))


def rank_table(data: StudyData) -> TextTable:
    """ρ and τ-b of perplexity and accuracy, pooled and apart, and of the calibration loss."""
    found = {
        "perplexity and accuracy, pooled": perplexity_ranks(data),
        **perplexity_ranks_by_cell(data),
        "calibration loss and perplexity, on each draw": objective_ranks(data, "perplexity"),
        "calibration loss and accuracy, on each draw": objective_ranks(data, "accuracy"),
    }
    rows: list[tuple[TableCell, ...]] = []
    for name, each in found.items():
        if isinstance(each, NotEstimable):
            rows.append((TableCell(name), number(each), *[DASH] * 4))
        else:
            rho, tau = each.spearman, each.kendall
            shown = (number(rho.value, 2), interval(rho), number(tau.value, 2), interval(tau))
            rows.append((TableCell(name), *shown, TableCell(str(rho.n), rho.n)))
    head = ("Ranks of", "Spearman's ρ", "95% interval", "Kendall's τ-b", "95% interval", "Cells")
    return TextTable("How far ranks agree, from best to worst", head, tuple(rows))


def transfer_table(matrix: Transfer, *, perplexity: bool) -> TextTable:
    """Chosen on the row, judged on the column."""
    rows = []
    for name, means, same in zip(matrix.calibrations, matrix.mean, matrix.same, strict=True):
        values = np.exp(means) if perplexity else 100 * means
        cells = [
            TableCell(numbers.fixed(float(v), 2) + (" (own domain)" if own else ""), float(v))
            for v, own in zip(values, same, strict=True)
        ]
        rows.append((TableCell(name), *cells))
    caption = "perplexity, the exponential of the mean loss" if perplexity else "accuracy in %"
    return TextTable(
        f"Chosen on A, judged on B: {caption}", ("Calibrated on", *matrix.evaluations), tuple(rows)
    )


def standings_table(found: Sequence[Standing], measure: str) -> TextTable:
    """Calibrations from the best on, and whether each may be the best."""
    perplexity = measure == "perplexity"
    rows = []
    for each in found:
        mean = np.exp(each.mean) if perplexity else 100 * each.mean
        if each.behind is None:
            behind: tuple[TableCell, ...] = (DASH, DASH)
        else:
            scale = 1.0 if perplexity else 100.0
            behind = (number(scale * each.behind.value, 3), interval(each.behind, scale))
        cells = (TableCell(each.calibration), number(float(mean), 2), *behind)
        rows.append((*cells, TableCell("yes" if each.may_be_best else "no")))
    mean, unit = ("Perplexity", "log-perplexity") if perplexity else ("Accuracy in %", "points")
    head = ("Calibration", mean, f"Behind, {unit}", "95%, all together", "May be the best")
    caption = f"Calibrations by {MEASURED[measure]} over all that was judged, the best first"
    return TextTable(caption, head, tuple(rows))


def spread_table(data: StudyData) -> TextTable:
    """How far searches spread within a configuration, the mean over its draws."""
    rows = []
    for column, response in enumerate(data.responses):
        logarithm = response.kind == "perplexity"
        raw = np.exp(data.values[:, column]) if logarithm else 100 * data.values[:, column]
        index = {row: float(value) for row, value in zip(data.rows, raw, strict=True)}
        for name, inside in _groups(
            data, lambda row: f"{row.calibration.name}, {row.objective}, k = {row.k}"
        ):
            drawn = [
                spread(_by_search(inside, index, draw), logarithm=logarithm)
                for draw in sorted({row.draw for row in inside})
            ]
            found = [each for each in drawn if not isinstance(each, NotEstimable)]
            if not found:
                continue
            figures = (
                np.mean([f.variance for f in found]),
                np.mean([f.range for f in found]),
                np.mean([f.robust for f in found]),
            )
            cells = [number(float(figure), 4) for figure in figures]
            rows.append((TableCell(name), TableCell(response.name), *cells))
    head = ("Configuration", "Judged on", "σ² (ddof 0)", "Range", "Robust σ")
    caption = (
        "Spread between searches, the mean over draws: of perplexity and of accuracy in points; "
        "robust σ of log-perplexity and of accuracy in points"
    )
    return TextTable(caption, head, tuple(rows))


def _by_search(rows: Sequence[Row], values: Mapping[Row, float], draw: int) -> list[float]:
    """One value a search; those of its seeds are averaged, since seeds are no searches."""
    found: dict[str, list[float]] = {}
    for row in rows:
        if row.draw == draw:
            found.setdefault(row.search, []).append(values[row])
    return [float(np.mean(each)) for each in found.values()]


def _groups(data: StudyData, name: Callable[[Row], str]) -> list[tuple[str, list[Row]]]:
    found: dict[str, list[Row]] = {}
    for row in data.rows:
        found.setdefault(name(row), []).append(row)
    return list(found.items())
