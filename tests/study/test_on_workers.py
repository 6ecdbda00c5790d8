"""A study on a cluster is the study of one process: every row, in the same order."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from depthprune.engine import join, parse_engine
from depthprune.evaluator import Memo
from depthprune.study.grid import Grid, read_grid
from depthprune.study.runner import Study
from depthprune.study.table import read

pytestmark = pytest.mark.slow

PLAN: dict[str, Any] = {
    "k": [1, 2],
    "calibrations": {
        "prose": "stdlib-prose,windows=5,length=32",
        "missing": "text:missing.txt,windows=5,length=32",
        "items": "choices:items.jsonl,windows=6",
    },
    "objectives": ["nll", "option-ce"],
    "searches": ["one-shot", "greedy", "block-influence"],
    "exclude": [{"calibration": "items", "objective": "nll"}],
    "draws": 2,
    "texts": {"code": "stdlib-code,windows=3,length=48"},
    "choices": {"quiz": "choices:items.jsonl,windows=all"},
    "homes": {"quiz": "items"},
    "dtype": "float32",
    "device": "cpu",
}


def _rows(folder: Path) -> list[Any]:
    table = read(folder / "results.jsonl")
    return [*table.dense, *(row.model_copy(update={"cost": None}) for row in table.rows)]


@pytest.fixture
def grid(tmp_path: Path, tiny_llama: Path) -> Grid:
    items = (
        {"prompt": f"The river is {i}", "options": [" high", " long", f" {i}"], "answer": i % 3}
        for i in range(40)
    )
    (tmp_path / "items.jsonl").write_text("\n".join(map(json.dumps, items)), encoding="utf-8")
    (tmp_path / "plan.yaml").write_text(
        yaml.safe_dump({**PLAN, "models": str(tiny_llama)}), encoding="utf-8"
    )
    return read_grid(tmp_path / "plan.yaml")


def test_rows_and_their_order_are_those_of_one_process(grid: Grid, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    one, many = tmp_path / "one", tmp_path / "many"
    for folder in (one, many):
        folder.mkdir()
    Study(grid, one).run()
    with Memo.open(tmp_path / "memo.sqlite") as memo:
        with join(parse_engine("ray", 2, None, 0.5)) as cluster:
            outcome = Study(grid, many, memo, cluster=cluster).run()
        assert outcome.new == len(grid.cells)
        assert outcome.failed == sum(c.calibration == "missing" for c in grid.cells)
        assert _rows(many) == _rows(one)
        # What the workers computed is in the one memo, and costs nothing here.
        again = tmp_path / "again"
        again.mkdir()
        Study(grid, again, memo).run()
        spent = [row.cost.block_tokens for row in read(again / "results.jsonl").rows if row.cost]
        assert spent
        assert not any(spent)


def test_each_search_is_cut_where_there_are_fewer_of_them_than_workers(
    grid: Grid, tmp_path: Path
) -> None:
    pytest.importorskip("ray")
    few = replace(grid, cells=grid.cells[:4] + grid.cells[-6:])
    assert len({(cell.calibration, cell.draw) for cell in few.cells}) == 2
    one, many, again = (tmp_path / name for name in ("one", "many", "again"))
    for folder in (one, many, again):
        folder.mkdir()
    Study(few, one).run()
    with Memo.temporary() as memo, join(parse_engine("ray", 3, None, 0.3)) as cluster:
        Study(few, many, memo, cluster=cluster).run()
        assert _rows(many) == _rows(one)
        assert any(row.cost.block_tokens for row in read(many / "results.jsonl").rows if row.cost)
        Study(few, again, memo, cluster=cluster).run()
        assert _rows(again) == _rows(one)
        spent = [row.cost.block_tokens for row in read(again / "results.jsonl").rows if row.cost]
        assert not any(spent)
