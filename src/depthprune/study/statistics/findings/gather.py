"""From a table to plain sentences, each with the numbers behind it.

A sentence calls something an effect only where its joint test allows it (`effects`). Everything
else is given as a figure with its interval, or as the reason why it cannot be said.
"""

from __future__ import annotations

from collections.abc import Sequence

from depthprune.study.plan import Margin
from depthprune.study.statistics.effects import StudyPart, analyse
from depthprune.study.statistics.estimates import NotEstimable
from depthprune.study.statistics.findings.effects import effect_findings
from depthprune.study.statistics.findings.own import own_finding
from depthprune.study.statistics.findings.relations import additivity_findings, relation_findings
from depthprune.study.statistics.findings.verdicts import Finding, Numbers, verdict_of
from depthprune.study.table import Row


def findings(rows: Sequence[Row], margin: Margin | None = None) -> list[Finding]:
    """All that a table says, the answer to the study's question first.

    Args:
        rows: Of the table.
        margin: What counts as alike, as the plan states it.
    """
    return findings_of(analyse(rows, margin), rows)


def findings_of(parts: Sequence[StudyPart], rows: Sequence[Row]) -> list[Finding]:
    """The same, of parts that are analysed already.

    Args:
        parts: By `analyse`.
        rows: The table they are of.
    """
    if not parts:
        return [_missing("No cell of the table ran, so nothing can be said.", rows)]
    found: list[Finding] = []
    for part in parts:
        where = _where(part, parts)
        for measure in part.measures:
            found.append(verdict_of(part, measure, where))
            if not isinstance(part.core, NotEstimable):
                found += effect_findings(part, measure, where)
        found += own_finding(part, where)
        found += _left_out(part, where)
        if not part.measures:
            found.append(Finding("missing", f"{where}The cells share no evaluation.", {}, "unsaid"))
        if part.data.rows:
            found += relation_findings(part, where)
    found += additivity_findings([row for part in parts for row in part.data.rows])
    if any(row.error is not None for row in rows):
        found.append(_missing("", rows))
    # What an answer rests on stands beside it.
    order = {"verdict": 0, "rests": 0, "own": 2, "missing": 4}
    return sorted(
        found, key=lambda each: 1 if each.verdict == "unsaid" else order.get(each.topic, 3)
    )


def _where(part: StudyPart, parts: Sequence[StudyPart]) -> str:
    several = len({each.model for each in parts}) > 1, len({each.kind for each in parts}) > 1
    names = [part.model] * several[0] + [f"{part.kind} calibrations"] * several[1]
    return f"{', '.join(names)}: " if names else ""


def _left_out(part: StudyPart, where: str) -> list[Finding]:
    """What ran and is in no figure, so that a measure is never missing without a word."""
    found, of = [], part.data
    if not isinstance(part.core, NotEstimable) and part.core.left_out:
        left = "; ".join(f"{name} {', '.join(of)}" for name, of in part.core.left_out.items())
        sentence = (
            f"{where}Effects are compared on the {len(part.core.cells)} of {len(of.rows)} cells in "
            f"which every draw saw the same searches under the same objectives; not among them: "
            f"{left}."
        )
        found.append(Finding("missing", sentence, {"compared": len(part.core.cells)}))
    if of.left_out:
        cells = of.left_out + len(of.rows)
        sentence = (
            f"{where}{of.left_out} of {cells} cells that ran have an evaluation that is not finite "
            "and are left out of every figure."
        )
        numbers: Numbers = {"left out": of.left_out, "cells": cells}
        found.append(Finding("missing", sentence, numbers))
    if of.partial:
        names = ", ".join(f"{each.name} ({each.kind})" for each in of.partial)
        sentence = (
            f"{where}Not every cell was judged on {names}, so no comparison uses it; the table of "
            "cells has what there is."
        )
        found.append(Finding("missing", sentence, {}))
    return found


def _missing(lead: str, rows: Sequence[Row]) -> Finding:
    failed = sum(row.error is not None for row in rows)
    told = f"{failed} of {len(rows)} cells failed and are left out of every figure."
    return Finding("missing", f"{lead} {told}".strip(), {"failed": failed, "cells": len(rows)})
