"""Writing a study's page from its folder; nothing is computed, and torch is not imported."""

from __future__ import annotations

from pathlib import Path

from depthprune.errors import OutputError, UsageError
from depthprune.study.finalists import FINALS, FINALS_NAME
from depthprune.study.grid import read_grid
from depthprune.study.plan import Stated
from depthprune.study.report.files import WrittenReport, write_study
from depthprune.study.table import TABLE_NAME, Table, read
from depthprune.untrusted import LARGEST_YAML, parse_yaml, read_text

PLAN_NAME = "plan.yaml"


def write_page(folder: Path) -> WrittenReport | None:
    """Write a study's page, figures and tables; None where no cell has run."""
    table = read(folder / TABLE_NAME)
    if not table.done:
        return None
    plan = folder / PLAN_NAME
    text = read_text(plan, error=OutputError, most=LARGEST_YAML) if plan.exists() else ""
    found = parse_yaml(text, str(plan), error=OutputError)
    title = str(found.get("name") or "") if isinstance(found, dict) else ""
    file = folder / FINALS_NAME
    finals = FINALS.read(file)[1] if file.is_file() else ()
    stated = Stated.of(found, str(plan))
    if (stated.has_margin or stated.has_test) and not _is_plan_of(plan, table):
        stated = Stated(by_another=True)
    return write_study(
        table, folder, plan=text, title=title or folder.name, finals=finals, stated=stated
    )


def _is_plan_of(plan: Path, table: Table) -> bool:
    """Whether a table was run by this plan, what it states included."""
    try:
        return read_grid(plan).fingerprint == table.plan
    except UsageError:
        return False
