"""What a study leaves beside its results: the page, its figures as files, its tables for a paper.

All are made from the results table alone and replaced as a whole, so that they can be made again at
any time, also while a study is still running.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from depthprune.outputs import PAGE_NAME, whole_file
from depthprune.study.finalists import FinalRow
from depthprune.study.plan import Stated
from depthprune.study.report.page import notes_of, page_of
from depthprune.study.report.sections import Section, sections_of
from depthprune.study.report.table_model import TextTable, latex, markdown
from depthprune.study.statistics.effects import analyse
from depthprune.study.statistics.findings import findings_of
from depthprune.study.statistics.findings.verdicts import Finding
from depthprune.study.table import Table

TABLES_MARKDOWN, TABLES_LATEX, FIGURES = "tables.md", "tables.tex", "figures"


@dataclass(frozen=True)
class WrittenReport:
    """What was written, and what it says.

    Attributes:
        files: Paths relative to the folder.
        findings: The sentences of the page; a table is analysed once for both.
    """

    files: tuple[str, ...]
    findings: tuple[Finding, ...]


def write_study(
    table: Table,
    folder: Path,
    *,
    plan: str = "",
    title: str = "",
    finals: Sequence[FinalRow] = (),
    stated: Stated | None = None,
) -> WrittenReport:
    """Write the page, every figure as SVG, and every table as Markdown and LaTeX.

    The table of all cells is left to the page and the results themselves.

    Args:
        table: The results.
        folder: Where they go; files of the same names are replaced.
        plan: The plan's text.
        title: What the study is called.
        finals: What finalists were judged on besides.
        stated: What the plan states of how results are read.

    Returns:
        The paths written and the findings.

    Raises:
        OutputError: When the disk is full, or the folder cannot be written.
    """
    stated = stated or Stated()
    parts = analyse(table.rows, stated.margin)
    found = findings_of(parts, table.rows)
    sections = sections_of(parts, table.rows, finals, table.dense)
    page = page_of(table, found, sections, notes_of(parts, stated), plan=plan, title=title)
    files = {PAGE_NAME: page}
    text_tables = [
        _named(text_table, shown.part) for section in sections if section.name != "cells"
        for shown in section.shown for text_table in shown.text_tables
    ]  # fmt: skip
    files[TABLES_MARKDOWN] = "\n".join(markdown(text_table) for text_table in text_tables)
    files[TABLES_LATEX] = "\n".join(latex(text_table) for text_table in text_tables)
    files |= dict(_figures(sections))
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as partial:
            partial.write_text(content, encoding="utf-8")
    return WrittenReport(tuple(files), tuple(found))


def _named(text_table: TextTable, part: str) -> TextTable:
    """A table that says which part of the study it is of, since no heading stands above it."""
    caption = f"{part}: {text_table.caption}" if part else text_table.caption
    return replace(text_table, caption=caption)


def _figures(sections: Sequence[Section]) -> Iterator[tuple[str, str]]:
    taken: dict[str, int] = {}
    for section in sections:
        for shown in section.shown:
            if shown.figure:
                # A model's name may be a path, so it is spelled with letters and digits only.
                part = re.sub(r"[^A-Za-z0-9]+", "-", shown.part).strip("-")[:60]
                name = "-".join(filter(None, (section.name, part)))
                taken[name] = taken.get(name, 0) + 1
                more = f"-{taken[name]}" if taken[name] > 1 else ""
                yield f"{FIGURES}/{name}{more}.svg", f"{shown.figure}\n"
