"""The sections of a study's page: figures with captions, and the tables that they show.

What cannot be said stands in its place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from depthprune.study.finalists import FinalRow
from depthprune.study.report import captions as views
from depthprune.study.report import tables
from depthprune.study.report.cells import cell_table, cost_table, worth_table
from depthprune.study.report.effects import effect_table, gain_table
from depthprune.study.report.finalists import final_table
from depthprune.study.report.table_model import TextTable
from depthprune.study.statistics.effects import StudyPart
from depthprune.study.statistics.estimates import NotEstimable
from depthprune.study.statistics.findings.verdicts import MEASURED
from depthprune.study.statistics.quality import quality_against_cost
from depthprune.study.statistics.ranks import perplexity_ranks
from depthprune.study.statistics.transfer import transfer
from depthprune.study.table import DenseRow, Row


@dataclass(frozen=True)
class FigureWithTables:
    """One figure and its tables, for one part of the study.

    Attributes:
        part: Which part; empty where there is one only.
        figure: An SVG; empty where there is none.
        caption: Of the figure.
        text_tables: What the figure shows, in words.
        missing: Why there is neither; empty otherwise.
    """

    part: str
    figure: Markup
    caption: str
    text_tables: tuple[TextTable, ...]
    missing: str = ""


@dataclass(frozen=True)
class Section:
    """A section of the page."""

    name: str
    title: str
    shown: tuple[FigureWithTables, ...]


def sections_of(
    parts: Sequence[StudyPart],
    rows: Sequence[Row],
    finals: Sequence[FinalRow] = (),
    dense: Sequence[DenseRow] = (),
) -> list[Section]:
    """The figures and tables of the page, in its order."""
    several = len({part.model for part in parts}) > 1, len({part.kind for part in parts}) > 1
    found = []
    for name, (title, make) in _SECTIONS.items():
        shown = []
        for part in parts:
            if not part.data.rows:
                continue
            words = [part.model] * several[0] + [f"{part.kind} calibrations"] * several[1]
            shown += [
                FigureWithTables(
                    ", ".join(words), Markup(figure), caption, tuple(text_tables), missing
                )
                for figure, caption, text_tables, missing in make(part)
            ]
            if name == "effects" and part.measures and dense:
                worth = worth_table(part, dense)
                shown.append(FigureWithTables(", ".join(words), Markup(""), "", (worth,)))
        if shown:
            found.append(Section(name, title, tuple(shown)))
    if finals:
        text_table = FigureWithTables("", Markup(""), "", (final_table(finals),))
        found.append(Section("finalists", "Finalists on tasks and problems", (text_table,)))
    if rows:
        every = FigureWithTables("", Markup(""), "", (cell_table(rows, dense),))
        found.append(Section("cells", "Every cell", (every,)))
    return found


_Made = Iterator[tuple[str, str, list[TextTable], str]]
"""A figure, its caption, its tables, and why there is neither."""


def _effects(part: StudyPart) -> _Made:
    if part.measures:
        yield (
            views.effects(part),
            "The mean absolute difference of two cells that differ in one thing and in the draw, "
            "with its 95% interval. Dashed: what the draw alone does. Solid: told "
            "from noise by a joint test; hatched: not. Below, how much more the calibration moves "
            "than the search: filled where one of them is said to matter more.",
            [effect_table(part), gain_table(part)],
            "",
        )


def _masks(part: StudyPart) -> _Made:
    figure, left = views.mask_map(part.data)
    more = f" {left:,} more configurations are in the table of cells." if left else ""
    yield (
        figure,
        "The blocks that go, a row a configuration; the stronger, the more of its draws remove the "
        f"block.{more}",
        [tables.contiguity_table(part.data)],
        "",
    )


def _overlap(part: StudyPart) -> _Made:
    yield (
        views.jaccard_map(part.data),
        "The mean Jaccard index of sets of the same k; on the diagonal, of different cells of the "
        "same group. A column is the group of the same number.",
        [tables.agreement_table(part.compared), tables.pattern_table(part)],
        "",
    )


def _variance(part: StudyPart) -> _Made:
    known = {m: v for m, v in part.variance.items() if not isinstance(v, NotEstimable)}
    text_tables = [tables.variance_table(measure, found) for measure, found in known.items()]
    if known:
        caption = (
            "Where the differences between cells of one model and k come from. Hatched: the draw, "
            "and what no term explains. Chance alone gives a term of many levels a larger share; "
            "ω² in the table takes that off. Where the grid has gaps, terms overlap and the shares "
            "do not add up to 100."
        )
        yield views.variance(known), caption, text_tables, ""
    for measure, why in part.variance.items():
        if isinstance(why, NotEstimable):
            yield "", "", [], f"Variance of {MEASURED[measure]}: {why.reason}."


def _ranks(part: StudyPart) -> _Made:
    found = perplexity_ranks(part.data)
    if isinstance(found, NotEstimable):
        yield "", "", [], f"Perplexity against accuracy: {found.reason}."
    else:
        caption = (
            "Each cell's rank by the mean log-perplexity and by the mean accuracy, among those of "
            "its k and objective. On the line both agree."
        )
        yield views.rank_scatter(part.data), caption, [tables.rank_table(part.data)], ""


def _transfer(part: StudyPart) -> _Made:
    for measure in part.measures:
        matrix, perplexity = transfer(part.data, measure), measure == "perplexity"
        if isinstance(matrix, NotEstimable):
            yield "", "", [], f"Transfer, {MEASURED[measure]}: {matrix.reason}."
        else:
            caption = (
                "Chosen on the row, judged on the column; the stronger the shade, the further "
                "from the best of its column. Framed: both of one domain."
            )
            text_tables = [tables.transfer_table(matrix, perplexity=perplexity)]
            yield views.transfer_map(matrix, measure), caption, text_tables, ""


def _standings(part: StudyPart) -> _Made:
    for measure, found in part.standings.items():
        if isinstance(found, NotEstimable):
            yield "", "", [], f"Calibrations by {MEASURED[measure]}: {found.reason}."
        else:
            yield "", "", [tables.standings_table(found, measure)], ""


def _spread(part: StudyPart) -> _Made:
    text_table = tables.spread_table(part.data)
    if text_table.rows:
        yield "", "", [text_table], ""


def _cost(part: StudyPart) -> _Made:
    for measure in part.measures[:1]:
        points = quality_against_cost(part.data, measure)
        if isinstance(points, NotEstimable):
            yield "", "", [], f"Quality against cost: {points.reason}."
        else:
            perplexity = measure == "perplexity"
            caption = (
                "Mean quality against mean cost, over the configurations that every search was run "
                "on. Filled and joined: the Pareto front."
            )
            text_table = cost_table(points, part.data.rows, perplexity=perplexity)
            yield views.cost_front(points, measure), caption, [text_table], ""


_SECTIONS: dict[str, tuple[str, Callable[[StudyPart], _Made]]] = {
    "effects": ("What moves what", _effects),
    "masks": ("Which blocks went", _masks),
    "overlap": ("How far the sets agree", _overlap),
    "variance": ("Where the variance comes from", _variance),
    "ranks": ("Perplexity against accuracy", _ranks),
    "standings": ("Which calibration is the best", _standings),
    "transfer": ("Chosen on one text, judged on another", _transfer),
    "spread": ("Spread between searches", _spread),
    "cost": ("Quality against cost", _cost),
}
