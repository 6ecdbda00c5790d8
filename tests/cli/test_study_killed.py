"""A study that is killed goes on where it was: the same table, nothing done twice."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

pytestmark = pytest.mark.slow

_DRAWS = 6
_SUMS = "jsonl:sums.jsonl,prompt=question,answer=answer,format=zero-shot,windows=4"


def _start(plan: Path, out: Path, cache: Path) -> subprocess.Popen[bytes]:
    words = [sys.executable, "-c", "from depthprune.cli import main; main()", "study", str(plan)]
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache), "OMP_NUM_THREADS": "1"}
    with (out.parent / f"{out.name}.log").open("ab") as log:
        return subprocess.Popen([*words, "-o", str(out)], env=environment, stdout=log, stderr=log)


def _lines(table: Path) -> int:
    """Whole lines behind the header."""
    return table.read_bytes().count(b"\n") - 1 if table.exists() else 0


def _kill_at(table: Path, lines: int, process: subprocess.Popen[bytes]) -> int:
    """SIGKILL once a table has so many lines; how many it has then."""
    while process.poll() is None and _lines(table) < lines:
        time.sleep(0.002)
    assert process.poll() is None, "the study ended before it could be killed"
    process.kill()
    process.wait()
    return _lines(table)


def _rows(table: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in table.read_text(encoding="utf-8").splitlines()[1:]]


def _but_for_cost(row: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key not in ("cost", "seconds")}


@pytest.fixture
def plan(tmp_path: Path, tiny_llama: Path) -> Path:
    sums = ({"question": f"What is {i}?", "answer": f"#### {i}"} for i in range(30))
    (tmp_path / "sums.jsonl").write_text("\n".join(map(json.dumps, sums)), encoding="utf-8")
    plan = {
        "models": str(tiny_llama),
        "k": [1, 3],
        "calibrations": {
            "prose": "stdlib-prose,windows=16,length=64",
            "code": "stdlib-code,windows=16,length=64",
        },
        "searches": ["one-shot", "greedy", "random:samples=8"],
        "draws": _DRAWS,
        "texts": {"text": "stdlib-prose,windows=8,length=96,seed=50"},
        "finalists": 4,
        "generate": {"sums": {"spec": _SUMS, "max_new_tokens": 24}},
        "dtype": "float32",
        "device": "cpu",
    }
    path = tmp_path / "plan.yaml"
    path.write_text(yaml.safe_dump(plan), encoding="utf-8")
    return path


def test_a_study_killed_twice_gives_the_same_table_and_does_nothing_twice(
    plan: Path, tmp_path: Path
) -> None:
    cells = 2 * 3 * 2 * _DRAWS
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert _start(plan, whole, tmp_path / "one").wait() == 0

    table = killed / "results.jsonl"
    for at in (3, 20):
        before = table.read_bytes() if table.exists() else b""
        found = _kill_at(table, at, _start(plan, killed, tmp_path / "two"))
        assert at <= found < cells
        # What was written stays, but for a line that the kill cut short.
        assert table.read_bytes().startswith(before[: before.rfind(b"\n") + 1])
    kept = table.read_bytes()
    kept = kept[: kept.rfind(b"\n") + 1]
    assert _start(plan, killed, tmp_path / "two").wait() == 0
    assert table.read_bytes().startswith(kept)

    undisturbed, resumed = _rows(whole / "results.jsonl"), _rows(table)
    assert [row.get("kind") for row in resumed].count("dense") == 1
    assert len(resumed) == cells + 1
    assert list(map(_but_for_cost, resumed)) == list(map(_but_for_cost, undisturbed))
    # A cell pays for no more than it does undisturbed, although its evaluator was begun anew: what
    # the cells before it had computed comes from the memo.
    for before_, after in zip(undisturbed[1:], resumed[1:], strict=True):
        assert after["cost"]["block_tokens"] <= before_["cost"]["block_tokens"]
    assert _losses(tmp_path / "two") == _losses(tmp_path / "one")

    finals, again = (_rows(folder / "finalists.jsonl") for folder in (whole, killed))
    assert len(finals) == 1 + 2 * 4
    assert list(map(_but_for_cost, again)) == list(map(_but_for_cost, finals))


def test_a_study_killed_among_its_finalists_judges_none_twice(plan: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    table = out / "finalists.jsonl"
    found = _kill_at(table, 2, _start(plan, out, tmp_path / "cache"))
    assert 2 <= found < 9
    kept = table.read_bytes()
    kept = kept[: kept.rfind(b"\n") + 1]
    cells = (out / "results.jsonl").read_bytes()
    assert _start(plan, out, tmp_path / "cache").wait() == 0
    assert table.read_bytes().startswith(kept)
    assert len(_rows(table)) == 9
    assert (out / "results.jsonl").read_bytes() == cells


def _losses(cache: Path) -> int:
    """Window losses in a memo."""
    from depthprune.evaluator import Memo

    with Memo.open(cache / "depthprune" / "memo.sqlite") as memo:
        return sum(context.losses for context in memo.statistics().contexts)
