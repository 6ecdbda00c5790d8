"""`study` and `report` on a tiny model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from command import Command
from depthprune import extras
from depthprune.cli import DONE, FAILED, WRONG_USAGE
from depthprune.study.report import files
from depthprune.study.statistics import effects
from depthprune.study.statistics.findings import gather as findings

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
        "finalists": {"done": 0, "failed": 0, "new": 0},
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
    assert "what the objective moves (one objective only, nll)" in found["not_estimable"]
    # Two sources, two draws, two searches, one and two of six blocks gone.
    assert found["judging_at_most"]["block_tokens"] == 3 * 48 * 8 * (5 + 4)
    assert not (tmp_path / "out").exists()


def test_a_plan_that_cannot_answer_what_it_asks_is_refused_before_anything_is_made(
    depthprune: Command, plan: Path, tmp_path: Path
) -> None:
    text = plan.read_text(encoding="utf-8")
    plan.write_text(f"{text}test: joint\n", encoding="utf-8")
    outcome = depthprune("study", plan, "-o", tmp_path / "out")
    assert outcome.status == WRONG_USAGE
    assert "test: joint, and the grid cannot estimate the interval of the difference" in (
        outcome.error
    )
    assert not (tmp_path / "out").exists()
    plan.write_text(f"{text}margin: {{perplexity: 0.05}}\n", encoding="utf-8")
    told = depthprune("study", plan, "-o", tmp_path / "out")
    assert "warning: cannot be estimated: the interval of the difference" in told.err
    assert "Stated in the plan before it ran" in (tmp_path / "out" / "report.html").read_text(
        encoding="utf-8"
    )


def test_a_folder_that_holds_something_else_is_left_alone(
    depthprune: Command, plan: Path, tmp_path: Path
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine", encoding="utf-8")
    outcome = depthprune("study", plan, "-o", tmp_path / "mine")
    assert outcome.status == FAILED
    assert "holds something that is no study" in outcome.error
    assert depthprune("report", tmp_path / "mine").status == WRONG_USAGE


def test_a_plan_that_names_a_missing_file_is_refused_before_anything_is_made(
    depthprune: Command, plan: Path, tmp_path: Path
) -> None:
    text = plan.read_text(encoding="utf-8")
    plan.write_text(text.replace("stdlib-code,windows=4", "text:none.txt,windows=4"))
    outcome = depthprune("study", plan, "-o", tmp_path / "out")
    assert outcome.status == WRONG_USAGE
    assert f"calibrations.code: no such file {tmp_path / 'none.txt'}" in outcome.error
    assert not (tmp_path / "out").exists()
    outcome = depthprune("study", tmp_path / "no.yaml", "-o", tmp_path / "out")
    assert outcome.status == WRONG_USAGE
    assert "cannot be read" in outcome.error


@pytest.mark.parametrize(
    ("change", "words"),
    [("draws: 3", "its plan is"), ("draws: 2\nbudget: lots", "budget: --budget")],
)
def test_a_table_of_another_plan_is_left_as_it_is(
    change: str, words: str, depthprune: Command, plan: Path, tmp_path: Path
) -> None:
    table = tmp_path / "out" / "results.jsonl"
    table.parent.mkdir()
    table.write_text('{"kind": "depthprune-study", "schema": 1, "plan": "another"}\n')
    before = table.read_bytes()
    plan.write_text(plan.read_text(encoding="utf-8").replace("draws: 2", change))
    outcome = depthprune("study", plan, "-o", table.parent)
    assert outcome.status == WRONG_USAGE
    assert words in outcome.error
    assert table.read_bytes() == before


def test_a_table_of_another_version_is_left_as_it_is(
    depthprune: Command, plan: Path, tmp_path: Path
) -> None:
    table = tmp_path / "out" / "results.jsonl"
    table.parent.mkdir()
    table.write_text('{"kind": "depthprune-study", "schema": 9, "plan": "another"}\n')
    for words in (("study", plan, "-o", table.parent), ("report", table.parent)):
        outcome = depthprune(*words)
        assert outcome.status == WRONG_USAGE
        assert "expected schema 1, found 9" in outcome.error
    assert table.read_bytes().endswith(b'"another"}\n')


def test_finalists_are_told_on_the_page_and_what_failed_fails_the_study(
    depthprune: Command, plan: Path, tmp_path: Path
) -> None:
    sums = ({"question": f"What is {i}?", "answer": f"#### {i}"} for i in range(30))
    (tmp_path / "sums.jsonl").write_text("\n".join(map(json.dumps, sums)), encoding="utf-8")
    spec = "jsonl:sums.jsonl,prompt=question,answer=answer,format=zero-shot,windows=2"
    text = plan.read_text(encoding="utf-8")
    text += f'generate: {{"<b>sums</b>": {{spec: "{spec}", max_new_tokens: 4}}}}\nfinalists: 1\n'
    plan.write_text(text, encoding="utf-8")
    found = depthprune("study", plan, "-o", tmp_path / "out", "--json").document
    assert found["finalists"] == {"done": 3, "failed": 0, "new": 3}
    assert (tmp_path / "out" / "finalists.jsonl").is_file()
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "Finalists on tasks and problems" in page
    assert "&lt;b&gt;sums&lt;/b&gt;" in page
    assert "<b>sums" not in page
    assert "exact\\_match" in (tmp_path / "out" / "tables.md").read_text(encoding="utf-8")
    again = depthprune("study", plan, "-o", tmp_path / "out", "--json").document
    assert again["finalists"] == {"done": 3, "failed": 0, "new": 0}

    (tmp_path / "sums.jsonl").write_text('{"question": "Who?", "answer": ""}\n' * 30)
    (tmp_path / "out" / "finalists.jsonl").unlink()
    outcome = depthprune("study", plan, "-o", tmp_path / "out")
    assert outcome.status == FAILED
    assert "3 of the finalists' tasks failed; the table says why" in outcome.err


def test_tasks_without_the_harness_name_the_extra_before_any_cell(
    depthprune: Command, plan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    plan.write_text(plan.read_text(encoding="utf-8") + "tasks: arc_easy\n", encoding="utf-8")
    outcome = depthprune("study", plan, "-o", tmp_path / "out")
    assert outcome.status == WRONG_USAGE
    assert "pip install 'depthprune[eval]'" in outcome.error
    assert not (tmp_path / "out").exists()


def test_the_table_is_analysed_once(
    depthprune: Command, plan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    analysed = []

    def analyse(rows: Any, margin: Any) -> Any:
        analysed.append(len(rows))
        return effects.analyse(rows, margin)

    for module in (files, findings):
        monkeypatch.setattr(module, "analyse", analyse)
    outcome = depthprune("study", plan, "-o", tmp_path / "out")
    assert analysed == [16]
    assert "two draws of one configuration differ by" in " ".join(outcome.out.split())


def test_cells_that_failed_make_the_study_fail_with_their_number(
    depthprune: Command, plan: Path, tmp_path: Path
) -> None:
    text = plan.read_text(encoding="utf-8").replace("k: [1, 2]", "k: [1, 6]")
    plan.write_text(text, encoding="utf-8")
    outcome = depthprune("study", plan, "-o", tmp_path / "out")
    assert outcome.status == FAILED
    assert "error: 8 of 16 cells failed; the table says why" in outcome.err
    assert (tmp_path / "out" / "report.html").exists()
