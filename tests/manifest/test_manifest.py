"""The manifest is read back as it was written, whatever its numbers are."""

from __future__ import annotations

import json
import math
import platform
from importlib import metadata
from pathlib import Path

import pytest
from pydantic import ValidationError

from depthprune.manifest import (
    CostRecord,
    Estimate,
    Manifest,
    PathPoint,
    SearchRecord,
    SourceModel,
    Step,
    software,
    versions,
)


def _manifest(loss: float = 2.5, stderr: float = 0.1) -> Manifest:
    return Manifest(
        created="2026-01-01T00:00:00+00:00",
        command="depthprune prune demo -k 2 -o 'out folder'",
        model=SourceModel(name="démo", kind="folder", model_type="llama", blocks=6),
        removed=[2, 4],
        kept=[0, 1, 3, 5],
        dtype="float32",
        dense=Estimate(loss=loss, stderr=stderr, windows=1, tokens=31, perplexity=math.exp(2.5)),
        search=SearchRecord(
            name="greedy",
            seed=0,
            k=2,
            protect=[],
            trace=[Step(evaluations=6, block_tokens=100, removed=[2], loss=loss)],
            cost=CostRecord(
                evaluations=11, block_tokens=9, head_tokens=8, plain_block_tokens=7, seconds=0.5
            ),
            not_finite=[[1], [1, 2]],
        ),
        path=[PathPoint(k=1, removed=[2], loss=loss)],
        versions=versions(),
        files=["config.json", "model.safetensors"],
    )


def _round_trip(written: Manifest, path: Path) -> Manifest:
    written.write(path)
    return Manifest.model_validate_json(path.read_text(encoding="utf-8"))


def test_writing_and_reading_are_inverse(tmp_path: Path) -> None:
    assert _round_trip(_manifest(), tmp_path / "depthprune.json") == _manifest()


def test_numbers_that_json_has_no_word_for_come_back(tmp_path: Path) -> None:
    read = _round_trip(_manifest(loss=math.inf, stderr=math.nan), tmp_path / "depthprune.json")
    assert read.dense is not None
    assert read.search is not None
    assert read.dense.loss == read.search.trace[0].loss == math.inf
    assert math.isnan(read.dense.stderr)


def test_what_is_written_is_strict_json(tmp_path: Path) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    _manifest(loss=math.inf, stderr=math.nan).write(tmp_path / "depthprune.json")
    text = (tmp_path / "depthprune.json").read_text(encoding="utf-8")
    found = json.loads(text, parse_constant=refuse)
    assert (found["dense"]["loss"], found["dense"]["stderr"]) == ("Infinity", "NaN")


def test_the_schema_is_named_in_the_file(tmp_path: Path) -> None:
    _manifest().write(tmp_path / "depthprune.json")
    found = json.loads((tmp_path / "depthprune.json").read_text(encoding="utf-8"))
    assert found["schema"] == 1
    assert found["model"]["name"] == "démo"


def test_what_a_verb_does_not_know_is_null(tmp_path: Path) -> None:
    _manifest().write(tmp_path / "depthprune.json")
    found = json.loads((tmp_path / "depthprune.json").read_text(encoding="utf-8"))
    assert found["held_out"] is found["speed"] is found["parity"] is None


@pytest.mark.parametrize("change", [{"schema": 2}, {"surprise": 1}, {"removed": "2,4"}])
def test_a_file_of_another_schema_is_refused(change: dict[str, object]) -> None:
    found = json.loads(_manifest().model_dump_json(by_alias=True))
    with pytest.raises(ValidationError):
        Manifest.model_validate(found | change)


def test_versions_name_python_and_what_computes() -> None:
    found = versions()
    assert found.python == platform.python_version()
    assert found.packages["torch"] == metadata.version("torch")
    assert found.depthprune == metadata.version("depthprune")


def test_versions_leave_out_what_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(software.metadata, "version", missing)
    assert (versions().depthprune, versions().packages) == ("unknown", {})
