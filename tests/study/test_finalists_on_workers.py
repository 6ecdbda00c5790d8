"""Finalists that workers judge have the table of one process, whoever is killed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from depthprune.engine import join, parse_engine
from depthprune.study.finalist_runner import Finals
from depthprune.study.finalists import FINALS, FinalRow
from depthprune.study.grid import Grid, read_grid
from depthprune.study.runner import Study
from depthprune.study.table import read

pytestmark = pytest.mark.slow

TASK = {
    "task": "quiz",
    "dataset_path": "json",
    "test_split": "test",
    "output_type": "multiple_choice",
    "doc_to_text": "{{question}}",
    "doc_to_choice": "{{options}}",
    "doc_to_target": "{{right}}",
    "metric_list": [{"metric": "acc"}],
}


@pytest.fixture
def grid(tmp_path: Path, tiny_llama: Path) -> Grid:
    rows = (
        {"question": f"River {i} is", "answer": str(i), "right": i % 3,
         "options": [f"{i * i} high", f"low {i}", f"{i % 7} long {i}"]}
        for i in range(40)
    )  # fmt: skip
    (tmp_path / "rivers.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    data = {
        "data_files": {"test": str(tmp_path / "rivers.jsonl")},
        "cache_dir": str(tmp_path / "cache"),
    }
    (tmp_path / "quiz.yaml").write_text(
        yaml.safe_dump({**TASK, "dataset_kwargs": data}), encoding="utf-8"
    )
    sums = "jsonl:rivers.jsonl,prompt=question,answer=answer,format=few-shot,shots=1,windows=3"
    missing = sums.replace("rivers", "missing")
    plan = {
        "models": str(tiny_llama),
        "k": [1, 2],
        "calibrations": {"prose": "stdlib-prose,windows=4,length=32"},
        "searches": ["one-shot", "greedy"],
        "draws": 2,
        "texts": {"code": "stdlib-code,windows=3,length=48"},
        "finalists": 2,
        "tasks": ["quiz.yaml"],
        "task_items": 30,
        "generate": {
            "sums": {"spec": sums, "max_new_tokens": 6, "split": "held-out"},
            "missing": {"spec": missing, "max_new_tokens": 6},
        },
        "dtype": "float32",
        "device": "cpu",
    }
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(plan), encoding="utf-8")
    return read_grid(tmp_path / "plan.yaml")


def _rows(folder: Path) -> list[FinalRow]:
    rows = FINALS.read(folder / "finalists.jsonl")[1]
    return [row.model_copy(update={"seconds": 0.0}) for row in rows]


def test_lines_and_their_order_are_those_of_one_process(grid: Grid, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    pytest.importorskip("lm_eval")
    Study(grid, tmp_path).run()
    cells = read(tmp_path / "results.jsonl").rows
    one, many = tmp_path / "one", tmp_path / "many"
    for folder in (one, many):
        folder.mkdir()
    expected = Finals(grid, one).run(cells)
    assert expected.failed == len({row.removed for row in _rows(one)})
    with join(parse_engine("ray", 2, None, 0.5)) as cluster:
        assert Finals(grid, many, cluster=cluster).run(cells) == expected
        # What is in the table is not judged again, and what was added stands in its place.
        lines = (many / "finalists.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
        (many / "finalists.jsonl").write_text("".join(lines[:-2]), encoding="utf-8")
        assert Finals(grid, many, cluster=cluster).run(cells).new == 2
    assert _rows(many) == _rows(one)
    assert len({row.scores for row in _rows(one) if row.kind == "task"}) > 1
    assert sorted(path.name for path in many.iterdir()) == ["finalists.jsonl"]
