"""The page of a study: the answer in sentences, then figures with captions, then the tables.

Everything is made from the results table, so a page can be made again from it alone. Names, paths
and errors are text from elsewhere and are escaped; a content policy in the page lets no script run
but its own, which sorts, filters and saves the tables.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence

from markupsafe import Markup

from depthprune.report import numbers
from depthprune.report.templating import environment, source
from depthprune.study.plan import Stated
from depthprune.study.report.sections import Section
from depthprune.study.statistics import formatting as fmt
from depthprune.study.statistics.effects import StudyPart
from depthprune.study.statistics.estimates import NotEstimable
from depthprune.study.statistics.findings.verdicts import Finding
from depthprune.study.table import Table

_PACKAGE = "depthprune.study.report"


def page_of(
    table: Table,
    found: Sequence[Finding],
    sections: Sequence[Section],
    notes: Sequence[str],
    *,
    plan: str,
    title: str,
) -> str:
    """The page of a study as a self-contained HTML document.

    Args:
        table: The results.
        found: What they say.
        sections: Their figures and tables.
        notes: By `notes_of`.
        plan: The plan's text, shown as it is; may be empty.
        title: What the study is called; by default after its models.
    """
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
    if stated.by_another:
        return (
            "The plan beside the results is not the one that they were run by, so nothing in it "
            f"was stated beforehand; by default {alike}."
        )
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
