"""The page of a study: the answer in sentences, then figures with captions, then the tables.

Everything is made from the results table, so a page can be made again from it alone. Names, paths
and errors are text from elsewhere and are escaped; a content policy in the page lets no script run
but its own, which sorts, filters and saves the tables. What cannot be said stands in its place.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from depthprune.report import numbers
from depthprune.report.templating import environment, source
from depthprune.study.finalists import FinalRow
from depthprune.study.plan import Stated
from depthprune.study.report import captions as views
from depthprune.study.report import tables
from depthprune.study.report.cells import cell_table, cost_table, worth_table
from depthprune.study.report.effects import effect_table, gain_table
from depthprune.study.report.finalists import final_table
from depthprune.study.report.table_model import TextTable
from depthprune.study.statistics import formatting as fmt
from depthprune.study.statistics.effects import StudyPart, analyse
from depthprune.study.statistics.estimates import NotEstimable
from depthprune.study.statistics.findings import findings_of
from depthprune.study.statistics.quality import quality_against_cost
from depthprune.study.statistics.ranks import perplexity_ranks
from depthprune.study.statistics.transfer import transfer
from depthprune.study.statistics.verdicts import MEASURED, Finding
from depthprune.study.table import DenseRow, Row, Table

_PACKAGE = "depthprune.study.report"


@dataclass(frozen=True)
class FigureWithTables:
    """One figure and its tables, for one part of the study.

    Attributes:
        part: Which part; empty where there is one only.
        figure: An SVG; empty where there is none.
        caption: Of the figure.
        tables: Tables.
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


def render_study(
    table: Table,
    *,
    plan: str = "",
    title: str = "",
    finals: Sequence[FinalRow] = (),
    stated: Stated | None = None,
) -> str:
    """The page of a study as a self-contained HTML document.

    Args:
        table: The results.
        plan: The plan's text, shown as it is; may be empty.
        title: What the study is called; by default after its models.
        finals: What finalists were judged on besides.
        stated: What the plan states of how results are read.
    """
    stated = stated or Stated()
    parts = analyse(table.rows, stated.margin)
    sections = sections_of(parts, table.rows, finals, table.dense)
    found = findings_of(parts, table.rows)
    return page_of(table, found, sections, notes_of(parts, stated), plan=plan, title=title)


def page_of(
    table: Table,
    found: Sequence[Finding],
    sections: Sequence[Section],
    notes: Sequence[str],
    *,
    plan: str,
    title: str,
) -> str:
    """The same, of findings, sections and `notes_of` that are made already."""
    script = source("study.js", _PACKAGE)
    verdicts = [each for each in found if each.topic == "verdict"]
    not_estimable = [each for each in verdicts if each.verdict == "unsaid"]
    answers = [e for e in found if e.topic in ("verdict", "rests") and e.verdict != "unsaid"]
    missing = [each for each in found if each.topic == "missing"]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        environment(autoescape=True, package=_PACKAGE)
        .get_template("study.html.jinja")
        .render(
            title=title or ", ".join(dict.fromkeys(row.model for row in table.rows)) or "no model",
            answers=answers or not_estimable,
            more=[each for each in found if each.topic not in ("verdict", "rests", "missing")],
            missing=[*(not_estimable if answers else []), *missing],
            notes=notes,
            facts=_facts(table),
            sections=sections,
            numbers_of=_numbers_of,
            plan=plan,
            fingerprint=table.plan,
            style=Markup(source("report.css") + source("study.css", _PACKAGE)),
            script=Markup(script),
            script_hash=digest,
        )
    )


def notes_of(parts: Sequence[StudyPart], stated: Stated) -> list[str]:
    """What the intervals are of, and what was stated beforehand; nothing where there are none."""
    ranges = _ranges(parts)
    return [ranges, _stated(stated)] if ranges else []


def _stated(stated: Stated) -> str:
    margins = " and ".join(
        fmt.margin(value, measure)
        for measure, value in (
            ("perplexity", stated.margin.perplexity),
            ("accuracy", stated.margin.accuracy),
        )
    )
    alike = f"effects that differ by less than {margins} count as alike"
    if stated.has_margin and stated.has_test:
        return f"Stated in the plan before it ran: tests are joint, and {alike}."
    if stated.has_margin:
        return f"Stated in the plan before it ran: {alike}."
    tests = " It states that tests are joint." if stated.has_test else ""
    return f"The plan stated no margin before it ran; by default {alike}.{tests}"


def _ranges(parts: Sequence[StudyPart]) -> str:
    cores = [
        part.core.of(measure)
        for part in parts
        if not isinstance(part.core, NotEstimable)
        for measure in part.measures
    ]
    if not cores:
        return ""
    draws = "Intervals are 95%: for further draws of the same calibrations"
    if all(each.by_item for each in cores):
        return f"{draws}, and further windows and items of the same texts and tasks."
    return (
        f"{draws}, and of these very windows and items, whose own error is not in them since "
        "results were not kept by item."
    )


def _facts(table: Table) -> list[str]:
    done = table.done
    counts = (
        ("cell", len(done)),
        ("calibration", len({row.calibration.name for row in done})),
        ("objective", len({row.objective for row in done})),
        ("search", len({row.search for row in done})),
        ("draw", len({(row.calibration.name, row.draw) for row in done})),
        ("distinct set", len({(row.model, row.removed) for row in done})),
    )
    words = [f"{count:,} {_plural(name, count)}" for name, count in counts]
    failed = len(table.rows) - len(done)
    # What the searches cost by themselves; what a memo recalled says nothing of a search.
    spent = sum(row.cost.asked_block_tokens or row.cost.block_tokens for row in done if row.cost)
    cost = f"{numbers.format_count(spent)} block-tokens of search"
    return [*words, *[f"{failed:,} failed"] * bool(failed), cost]


def _plural(name: str, count: int) -> str:
    if count == 1:
        return name
    return "searches" if name == "search" else f"{name}s"


def _numbers_of(finding: Finding) -> list[tuple[str, str]]:
    """The numbers behind a sentence, in words."""
    found = []
    for name, value in finding.numbers.items():
        pair = value if isinstance(value, tuple) else (value,)
        found.append((name, " to ".join(f"{v:,.4g}".replace("-", numbers.MINUS) for v in pair)))
    return found


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
            "Where the differences between cells of one model and k come from. Dashed: the share "
            "that the draw alone explains. Hatched: the draw, and what no term explains. Where the "
            "grid has gaps, terms overlap and the shares do not add up to 100."
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
            "Each cell's rank by the mean log-perplexity and by the mean accuracy, over all k. On "
            "the line both agree. The coefficients rank each k and objective apart."
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
    "transfer": ("Chosen on one text, judged on another", _transfer),
    "spread": ("Spread between searches", _spread),
    "cost": ("Quality against cost", _cost),
}
