"""The documents say what the code has."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from depthprune import manifest
from depthprune.calibration import PRESETS, SOURCES, CalibrationSpec
from depthprune.searches import SEARCHES, make_search
from depthprune.study.cells import key_of
from depthprune.study.finalists import FinalRow, FinalScore
from depthprune.study.grid import read_grid
from depthprune.study.statistics import formatting as fmt
from depthprune.study.statistics.effects import analyse
from depthprune.study.statistics.estimates import NotEstimable
from depthprune.study.statistics.findings import findings
from depthprune.study.statistics.overlap import agreement
from depthprune.study.statistics.quality import quality_against_cost
from depthprune.study.table import CellCalibration, CellCost, DenseRow, Evaluation, Row, read

ROOT = Path(__file__).parent.parent
RECORDS = [
    thing
    for thing in vars(manifest).values()
    if isinstance(thing, type)
    and issubclass(thing, BaseModel)
    and thing.__module__.startswith(f"{manifest.__name__}.")
    and not thing.__name__.startswith("_")
]


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.__name__)
def test_every_field_of_the_manifest_is_documented(record: type[BaseModel]) -> None:
    text = (ROOT / "docs" / "manifest.md").read_text(encoding="utf-8")
    section = text.split(f"## {record.__name__}\n", 1)[1].split("\n## ", 1)[0]
    named = re.findall(r"^\| `(\w+)` \|", section, flags=re.MULTILINE)
    assert named == [field.alias or name for name, field in record.model_fields.items()]


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.__name__)
def test_what_may_be_null_in_the_manifest_is_said_to_be(record: type[BaseModel]) -> None:
    text = (ROOT / "docs" / "manifest.md").read_text(encoding="utf-8")
    section = text.split(f"## {record.__name__}\n", 1)[1].split("\n## ", 1)[0]
    said = re.findall(r"^\| `\w+` \| ([^|]*) \|", section, flags=re.MULTILINE)
    for kind, (name, field) in zip(said, record.model_fields.items(), strict=True):
        assert kind.endswith("or null") == (type(None) in get_args(field.annotation)), name


def test_every_field_of_a_scored_block_is_in_the_document_of_score() -> None:
    text = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    section = text.split("## score\n", 1)[1].split("\n## ", 1)[0]
    assert all(f'"{name}": ' in section for name in manifest.BlockScore.model_fields)


@pytest.mark.parametrize(
    "record", [Row, DenseRow, CellCalibration, CellCost, Evaluation, FinalRow, FinalScore]
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


def test_the_study_is_what_its_recipe_and_its_table_say() -> None:
    folder = ROOT / "docs" / "study-smollm2"
    recipe = ROOT / "docs" / "recipes" / "paper-smol.yaml"
    assert (folder / "plan.yaml").read_text(encoding="utf-8") == recipe.read_text(encoding="utf-8")
    table = read(folder / "results.jsonl")
    grid = read_grid(recipe)
    assert table.plan == grid.fingerprint
    assert len(table.rows) == len(grid.cells)
    text = " ".join((ROOT / "docs" / "study-smollm2.md").read_text(encoding="utf-8").split())
    assert f"{len(table.rows)} cells, {len({row.removed for row in table.rows})} distinct" in text
    plain = text.replace("> ", "")
    for finding in findings(table.rows):
        if (
            finding.topic in ("verdict", "rests", "own", "standings", "gain", "transfer")
            and "text cal" in finding.sentence
        ):
            sentence = finding.sentence.removeprefix("text calibrations: ")
            assert sentence[0].upper() + sentence[1:] in plain
    (part,) = (each for each in analyse(table.rows) if each.kind == "text")
    for name, words_of in (("calibration", "Two calibrations under one search share"),
                           ("search", "two searches on one draw"),
                           ("draw", "two draws of one calibration")):  # fmt: skip
        assert f"{words_of} {_known(agreement(part.compared, name)).mean:.2f}" in text
    (six,) = (p for p in analyse([r for r in table.rows if r.k == 6]) if p.kind == "text")
    (greedy,) = six.gains["perplexity"]
    assert f"that is {fmt.difference(greedy.draws, 'perplexity')} for further draws" in text
    assert f"{' to '.join(fmt.ends(greedy.calibrations, 'perplexity'))} for further" in text
    assert _known(greedy.interaction) is not None
    for each in (*greedy.by_objective.values(), _known(greedy.interaction)):
        assert fmt.difference(each, "perplexity") in text
    points = quality_against_cost(part.data, "perplexity")
    assert not isinstance(points, NotEstimable)
    for point in points:
        assert f"| {point.search} | {point.cost:,.0f} | {math.exp(point.quality):.2f} |" in text


def test_the_study_of_two_families_is_what_its_recipe_and_its_table_say() -> None:
    folder = ROOT / "docs" / "study-two-families"
    recipe = ROOT / "docs" / "recipes" / "two-families.yaml"
    assert (folder / "plan.yaml").read_text(encoding="utf-8") == recipe.read_text(encoding="utf-8")
    table, grid = read(folder / "results.jsonl"), read_grid(recipe)
    assert table.plan == grid.fingerprint
    assert [row.key for row in table.rows] == [key_of(cell) for cell in grid.cells]
    text = " ".join((ROOT / "docs" / "study-two-families.md").read_text(encoding="utf-8").split())
    sets = {(row.model, row.removed) for row in table.rows}
    assert f"{len(table.rows)} cells, {len(sets)} distinct sets" in text
    told = text.replace("> ", "")
    for finding in findings(table.rows, grid.plan.margin):
        if finding.topic in ("verdict", "rests", "own", "standings", "gain", "transfer"):
            assert finding.sentence in told
    for part in analyse(table.rows, grid.plan.margin):
        whole = next(row for row in table.dense if row.model == part.model)
        for search in ("one-shot", "greedy"):
            rows = [row for row in part.data.rows if row.search == search]
            assert f"| {part.model} | {search} | {_worth(rows)} |" in text
        assert f"| {part.model} | whole | {_worth([whole])} |" in text


def _worth(rows: Sequence[Row | DenseRow]) -> str:
    """Geometric means of perplexities and means of accuracies, in the order of a row."""
    shown = []
    for judged in zip(*(row.evaluations for row in rows), strict=True):
        values = [each.value for each in judged]
        if judged[0].kind == "perplexity":
            shown.append(f"{math.exp(sum(map(math.log, values)) / len(values)):.1f}")
        else:
            shown.append(f"{100 * sum(values) / len(values):.1f}")
    return " | ".join(shown)


def _known(value: Any) -> Any:
    assert value is not None
    assert not isinstance(value, NotEstimable)
    return value
