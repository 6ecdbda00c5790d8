"""`study` and `report` on a tiny model."""

from __future__ import annotations

from pathlib import Path

import pytest

from command import Command
from depthprune.cli import DONE, FAILED, WRONG_USAGE

PLAN = """
name: tiny <b>study</b>
models: {model}
k: [1, 2]
calibrations:
  prose: "stdlib-prose,windows=4,length=32"
  code: "stdlib-code,windows=4,length=32"
searches: [one-shot, greedy]
draws: 2
texts:
  prose: "stdlib-prose,windows=3,length=48,seed=9"
dtype: float32
device: cpu
"""


@pytest.fixture
def plan(tiny_llama: Path, tmp_path: Path) -> Path:
    path = tmp_path / "plan.yaml"
    path.write_text(PLAN.format(model=tiny_llama), encoding="utf-8")
    return path


def test_a_study_writes_its_table_and_its_page_and_goes_on_without_a_flag(
    depthprune: Command, plan: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    first = depthprune("study", plan, "-o", out, "--json")
    assert first.status == DONE
    assert first.document == {
        "schema": 1, "cells": 16, "done": 16, "failed": 0, "new": 16,
        "table": str(out / "results.jsonl"), "report": str(out / "report.html"),
    }  # fmt: skip
    assert {path.name for path in out.iterdir()} == {
        "plan.yaml", "results.jsonl", "report.html", "figures", "tables.md", "tables.tex",
    }  # fmt: skip
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "tiny &lt;b&gt;study&lt;/b&gt;" in page
    assert "<b>study</b>" not in page
    assert depthprune("study", plan, "-o", out, "--json").document["new"] == 0


def test_report_writes_the_page_again(depthprune: Command, plan: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    depthprune("study", plan, "-o", out)
    before = (out / "report.html").read_bytes()
    (out / "report.html").unlink()
    assert depthprune("report", out).status == DONE
    assert (out / "report.html").read_bytes() == before


def test_report_writes_a_checkpoints_page_again(
    depthprune: Command, tiny_llama: Path, spec: str, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    depthprune(
        "prune", tiny_llama, "-k", 1, "-c", spec, "-o", out, "--no-bench", "--dtype", "float32"
    )
    before = (out / "report.html").read_bytes()
    (out / "report.html").write_text("", encoding="utf-8")
    assert depthprune("report", out, "--json").document["report"] == str(out / "report.html")
    assert (out / "report.html").read_bytes() == before


def test_a_dry_run_tells_the_cells_and_the_cost_and_writes_nothing(
    depthprune: Command, plan: Path, tmp_path: Path
) -> None:
    found = depthprune("study", plan, "-o", tmp_path / "out", "--dry-run", "--json").document
    assert found["cells"] == 16
    assert found["levels"]["draw"] == 2
    assert found["block_tokens"] > 0
    assert not (tmp_path / "out").exists()


def test_a_folder_that_holds_something_else_is_left_alone(
    depthprune: Command, plan: Path, tmp_path: Path
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine", encoding="utf-8")
    outcome = depthprune("study", plan, "-o", tmp_path / "mine")
    assert outcome.status == FAILED
    assert "holds something that is no study" in outcome.error
    assert depthprune("report", tmp_path / "mine").status == WRONG_USAGE


def test_cells_that_failed_make_the_study_fail_with_their_number(
    depthprune: Command, plan: Path, tmp_path: Path
) -> None:
    text = plan.read_text(encoding="utf-8").replace("k: [1, 2]", "k: [1, 6]")
    plan.write_text(text, encoding="utf-8")
    outcome = depthprune("study", plan, "-o", tmp_path / "out")
    assert outcome.status == FAILED
    assert "error: 8 of 16 cells failed; the table says why" in outcome.err
    assert (tmp_path / "out" / "report.html").exists()
