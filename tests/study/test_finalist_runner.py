"""Finalists are judged as what would be written, a line as each ends, nothing twice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from torch import nn

import depthprune as dp
from depthprune import extras
from depthprune.errors import EvaluationError, UsageError
from depthprune.pruning.generation import answer
from depthprune.pruning.output import dense_checkpoint
from depthprune.study import finalist_judge, finalist_runner
from depthprune.study.finalist_judge import FinalJudge
from depthprune.study.finalist_runner import Finals
from depthprune.study.finalists import FINALS, FinalRow
from depthprune.study.grid import Grid, read_grid
from depthprune.study.runner import Study
from depthprune.study.table import read
from plain_greedy import greedy


@pytest.fixture
def grid(tmp_path: Path, tiny_llama: Path) -> Grid:
    rows = (
        {"question": f"How high is number {i}?", "answer": f"It is {i}.\n#### {i}"}
        for i in range(40)
    )
    (tmp_path / "sums.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    (tmp_path / "quiz.yaml").write_text("task: quiz\n", encoding="utf-8")
    sums = "jsonl:sums.jsonl,prompt=question,answer=answer,format=few-shot,shots=1,windows=3"
    plan = {
        "models": str(tiny_llama),
        "k": [1, 2],
        "calibrations": {"prose": "stdlib-prose,windows=4,length=32"},
        "searches": ["one-shot", "greedy"],
        "draws": 2,
        "texts": {"code": "stdlib-code,windows=3,length=48"},
        "finalists": 2,
        "tasks": ["quiz.yaml", "arc_easy"],
        "task_items": 5,
        "generate": {"sums": {"spec": sums, "max_new_tokens": 6, "split": "held-out"}},
        "dtype": "float32",
        "device": "cpu",
    }
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(plan), encoding="utf-8")
    return read_grid(tmp_path / "plan.yaml")


Calls = list[tuple[int, str]]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """Stands in for the harness: the blocks of the model that it was given, and the task."""
    found: Calls = []

    def run(module: Any, tokenizer: Any, tasks: list[str], *, items: int | None) -> Any:
        assert items == 5
        found.append((len(module.model.layers), Path(tasks[0]).name))
        metrics = {"alias": "quiz", "acc,none": 0.1 * len(module.model.layers)}
        return {"results": {"quiz": metrics}, "n-samples": {"quiz": {"effective": 5}}}

    monkeypatch.setattr(finalist_judge, "run_tasks", run)
    monkeypatch.setattr(finalist_runner, "require_harness", lambda: None)
    return found


def _judged(grid: Grid, folder: Path) -> tuple[FinalRow, ...]:
    return FINALS.read(folder / "finalists.jsonl")[1]


def test_the_best_sets_and_the_whole_model_are_judged_on_everything(
    grid: Grid, tmp_path: Path, calls: Calls
) -> None:
    Study(grid, tmp_path).run()
    cells = read(tmp_path / "results.jsonl").rows
    outcome = Finals(grid, tmp_path).run(cells)
    rows = _judged(grid, tmp_path)
    sets = list(dict.fromkeys(row.removed for row in rows))
    assert sets[0] == ()
    assert {len(removed) for removed in sets} == {0, 1, 2}
    assert {row.removed for row in cells} >= set(sets[1:])
    names = [("task", "quiz.yaml"), ("task", "arc_easy"), ("generate", "sums")]
    assert [(r.removed, r.kind, r.name) for r in rows] == [(s, *n) for s in sets for n in names]
    assert (outcome.done, outcome.failed, outcome.new) == (len(rows), 0, len(rows))
    # Every task saw a model that really is shorter.
    expected = [(6 - len(s), name) for s in sets for name in ("quiz.yaml", "arc_easy")]
    assert calls == expected
    for row in rows:
        assert (row.blocks, row.k, row.error) == (6, len(row.removed), None)
        (score,) = row.scores
        if row.kind == "task":
            assert score.value == pytest.approx(0.1 * (6 - row.k))
        else:
            assert (score.task, score.metric, score.n) == ("sums", "exact_match", 3)
    assert not list(tmp_path.glob(".finalist*"))
    assert not list(tmp_path.glob("finalists")) + list(tmp_path.glob(".finalists*"))


def test_nothing_is_judged_twice_and_a_stop_loses_one_line_at_most(
    grid: Grid, tmp_path: Path, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    Study(grid, tmp_path).run()
    cells = read(tmp_path / "results.jsonl").rows
    fake = finalist_judge.run_tasks

    def stopped(*arguments: Any, **options: Any) -> Any:
        if len(calls) == 3:
            raise KeyboardInterrupt
        return fake(*arguments, **options)

    monkeypatch.setattr(finalist_judge, "run_tasks", stopped)
    with pytest.raises(KeyboardInterrupt):
        Finals(grid, tmp_path).run(cells)
    before = (tmp_path / "finalists.jsonl").read_bytes()
    assert len(_judged(grid, tmp_path)) == 4
    monkeypatch.setattr(finalist_judge, "run_tasks", fake)
    outcome = Finals(grid, tmp_path).run(cells)
    assert (tmp_path / "finalists.jsonl").read_bytes().startswith(before)
    rows = _judged(grid, tmp_path)
    assert outcome.new == len(rows) - 4
    assert len(calls) == len({row.key for row in rows if row.kind == "task"})
    assert Finals(grid, tmp_path).run(cells).new == 0


def test_a_task_that_fails_is_recorded_and_the_rest_goes_on(
    grid: Grid, tmp_path: Path, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    Study(grid, tmp_path).run()
    fake = finalist_judge.run_tasks

    def failing(module: Any, tokenizer: Any, tasks: list[str], **options: Any) -> Any:
        if tasks == ["arc_easy"]:
            raise EvaluationError("tasks: no such thing")
        return fake(module, tokenizer, tasks, **options)

    monkeypatch.setattr(finalist_judge, "run_tasks", failing)
    outcome = Finals(grid, tmp_path).run(read(tmp_path / "results.jsonl").rows)
    rows = _judged(grid, tmp_path)
    assert {(row.name, row.error) for row in rows if row.error} == {
        ("arc_easy", "tasks: no such thing")
    }
    assert outcome.failed == len(rows) // 3
    assert outcome.done == 2 * outcome.failed


def test_a_model_that_cannot_be_loaded_fails_its_finalists(
    grid: Grid, tmp_path: Path, calls: Calls
) -> None:
    Study(grid, tmp_path).run()

    def loader(name: str, **options: Any) -> dp.Model:
        raise dp.ModelError(f"{name}: cannot be loaded")

    cells = read(tmp_path / "results.jsonl").rows
    outcome = Finals(grid, tmp_path, loader=loader).run(cells)
    assert outcome.done == 0
    assert outcome.failed == outcome.new > 0


def test_a_finalist_generates_as_the_masked_model_does_without_a_cache(
    grid: Grid, tmp_path: Path, tiny_llama: Path
) -> None:
    model = dp.load(tiny_llama, dtype="float32", device="cpu")
    prompt = model.tokenizer("The river is high", add_special_tokens=False)["input_ids"]
    for removed in [(0,), (0, 3), (5,)]:
        with model.anatomy.masked(removed) as masked:
            tokens = greedy(masked, model.tokenizer, prompt, 16)
        expected = model.tokenizer.decode(tokens, skip_special_tokens=True)
        folder = tmp_path / "-".join(map(str, removed))
        folder.mkdir()
        with dense_checkpoint(model, tmp_path / "finalists") as dense:
            judge = FinalJudge(grid.plan, model, dense, {}, tmp_path)
            module: nn.Module = judge.pruned(removed, folder)
        assert answer(module, model.tokenizer, prompt, 16, []) == expected


def test_finalists_of_another_plan_are_refused_before_anything_runs(
    grid: Grid, tmp_path: Path, calls: Calls
) -> None:
    Study(grid, tmp_path).run()
    Finals(grid, tmp_path).run(read(tmp_path / "results.jsonl").rows)
    text = (tmp_path / "plan.yaml").read_text(encoding="utf-8")
    (tmp_path / "plan.yaml").write_text(text.replace("task_items: 5", "task_items: 6"))
    with pytest.raises(UsageError, match="its plan is"):
        Finals(read_grid(tmp_path / "plan.yaml"), tmp_path).check()


def test_more_finalists_go_on_with_the_same_table_and_cells(
    grid: Grid, tmp_path: Path, calls: Calls
) -> None:
    Study(grid, tmp_path).run()
    cells = read(tmp_path / "results.jsonl").rows
    before = Finals(grid, tmp_path).run(cells).done
    text = (tmp_path / "plan.yaml").read_text(encoding="utf-8")
    (tmp_path / "plan.yaml").write_text(text.replace("finalists: 2", "finalists: 1"))
    fewer = read_grid(tmp_path / "plan.yaml")
    assert fewer.fingerprint == grid.fingerprint
    outcome = Finals(fewer, tmp_path).run(cells)
    assert (outcome.new, outcome.done) == (0, before)


def test_without_the_harness_tasks_are_refused_and_problems_are_not(
    grid: Grid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"depthprune\[eval\]"):
        Finals(grid, tmp_path).check()
    text = (tmp_path / "plan.yaml").read_text(encoding="utf-8")
    text = text.replace("tasks:\n- quiz.yaml\n- arc_easy\n", "tasks: []\n")
    (tmp_path / "plan.yaml").write_text(text, encoding="utf-8")
    Finals(read_grid(tmp_path / "plan.yaml"), tmp_path).check()


def test_a_plan_without_either_judges_no_finalists(grid: Grid, tmp_path: Path) -> None:
    text = (tmp_path / "plan.yaml").read_text(encoding="utf-8")
    plan = yaml.safe_load(text)
    (tmp_path / "plan.yaml").write_text(
        yaml.safe_dump({k: v for k, v in plan.items() if k not in ("tasks", "generate")})
    )
    assert Finals(read_grid(tmp_path / "plan.yaml"), tmp_path).run([]).new == 0
    assert not (tmp_path / "finalists.jsonl").exists()


def test_a_line_that_another_process_is_writing_is_left_alone(
    grid: Grid, tmp_path: Path, calls: Calls
) -> None:
    """What is checked first is only looked at: the folder is not this process's yet."""
    finals = Finals(grid, tmp_path / "out")
    finals.folder.mkdir()
    FINALS.write(finals.table, finals.fingerprint)
    with finals.table.open("a", encoding="utf-8") as file:
        file.write('{"model":"tiny","blo')
    before = finals.table.read_bytes()
    finals.check()
    assert finals.table.read_bytes() == before


def test_a_task_without_a_number_fails_alone(
    grid: Grid, tmp_path: Path, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = finalist_judge.run_tasks

    def without(module: nn.Module, tokenizer: Any, tasks: list[str], **options: Any) -> Any:
        found = known(module, tokenizer, tasks, **options)
        return {**found, "results": {}} if tasks == ["arc_easy"] else found

    monkeypatch.setattr(finalist_judge, "run_tasks", without)
    out = tmp_path / "out"
    out.mkdir()
    Study(grid, out).run()
    outcome = Finals(grid, out).run(read(out / "results.jsonl").rows)
    assert outcome.failed
    errors = {row.error for row in FINALS.read(out / "finalists.jsonl")[1] if row.error}
    assert errors == {"arc_easy: lm-evaluation-harness gives no number for it"}
