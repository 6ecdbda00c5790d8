"""The documents say what the code has."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from depthprune import manifest
from depthprune.calibration import PRESETS, SOURCES, CalibrationSpec
from depthprune.search import SEARCHES, make_search
from depthprune.study.finals import FinalRow, FinalScore
from depthprune.study.table import CellCalibration, CellCost, Evaluation, Row

ROOT = Path(__file__).parent.parent
RECORDS = [
    thing
    for thing in vars(manifest).values()
    if isinstance(thing, type)
    and issubclass(thing, BaseModel)
    and thing.__module__ == manifest.__name__
    and not thing.__name__.startswith("_")
]


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.__name__)
def test_every_field_of_the_manifest_is_documented(record: type[BaseModel]) -> None:
    text = (ROOT / "docs" / "manifest.md").read_text(encoding="utf-8")
    section = text.split(f"## {record.__name__}\n", 1)[1].split("\n## ", 1)[0]
    named = re.findall(r"^\| `(\w+)` \|", section, flags=re.MULTILINE)
    assert named == [field.alias or name for name, field in record.model_fields.items()]


@pytest.mark.parametrize(
    "record", [Row, CellCalibration, CellCost, Evaluation, FinalRow, FinalScore]
)
def test_every_field_of_the_results_table_is_documented(record: type[BaseModel]) -> None:
    text = (ROOT / "docs" / "study-table.md").read_text(encoding="utf-8")
    section = text.split(f"## {record.__name__}\n", 1)[1].split("\n## ", 1)[0]
    assert re.findall(r"^\| `(\w+)` \|", section, flags=re.MULTILINE) == list(record.model_fields)


def test_every_source_and_key_of_a_calibration_is_documented() -> None:
    text = (ROOT / "docs" / "calibrations.md").read_text(encoding="utf-8")
    keys = [k for k in CalibrationSpec.model_fields if k not in ("source", "target", "options")]
    assert all(f"`{key}=`" in text for key in keys)
    assert all(re.search(rf"`{name}[:`]", text) for name in SOURCES.names())
    options = {key for name in SOURCES.names() for key in SOURCES.get(name).options}
    assert all(f"`{key}=`" in text for key in options)
    assert all(f"`{name}`" in text for name in PRESETS)


@pytest.mark.parametrize("name", SEARCHES.names())
def test_every_search_is_described_with_its_parameters(name: str) -> None:
    text = (ROOT / "docs" / "searches.md").read_text(encoding="utf-8")
    section = text.split(f"### {name}\n", 1)[1].split("\n#", 1)[0]
    parameters = re.findall(r"`(\w+)=([^`]*)`", section)
    made: Any = make_search(name)
    assert parameters == [(f.name, str(f.default)) for f in fields(made)]


def test_every_link_between_documents_leads_somewhere() -> None:
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")):
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name}: {target}"
