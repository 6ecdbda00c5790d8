"""`--engine ray`: prune, score and study by workers, and what is killed on the way."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from command import run

SPEC = "stdlib-prose,windows=12,length=32"


def test_flags_of_workers_mean_nothing_without_an_engine(
    capsys: pytest.CaptureFixture[str], tiny_llama: Path
) -> None:
    found = run(capsys, "score", tiny_llama, "--workers", 2)
    assert found.status == 2
    assert found.error.startswith("--workers: means nothing without --engine ray")


def test_another_engine_is_refused(
    capsys: pytest.CaptureFixture[str], tiny_llama: Path, tmp_path: Path
) -> None:
    found = run(capsys, "prune", tiny_llama, "-k", 1, "-o", tmp_path / "o", "--engine", "dask")
    assert found.status == 2
    assert found.error == "--engine: expected ray or ray://HOST:PORT, got 'dask'"
    assert not (tmp_path / "o").exists()


def _prune(model: Path, out: Path, memo: Path, *more: str) -> list[str]:
    return [
        *(sys.executable, "-m", "depthprune", "prune", str(model), "-k", "3", "-c", SPEC),
        *("--dtype", "float32", "--device", "cpu", "--threads", "1", "--exact", "--no-bench"),
        *("-o", str(out), "--memo", str(memo), "--json", *more),
    ]


def _told(command: list[str]) -> str:
    """What the command printed; a failure shows what it said."""
    found = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert found.returncode == 0, found.stderr[-4000:]
    return found.stdout


def _facts(document: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(document)
    return {key: found[key] for key in ("removed", "pruned", "dense", "held_out", "blocks")}


@pytest.mark.slow
def test_prune_by_workers_is_prune_and_drivers_that_are_killed_lose_nothing(
    tiny_llama: Path, tmp_path: Path
) -> None:
    pytest.importorskip("ray")
    memo = tmp_path / "memo.sqlite"
    engine = ("--engine", "ray", "--workers", "2", "--cpus-per-worker", "0.5")
    alone = _told(_prune(tiny_llama, tmp_path / "one", tmp_path / "other.sqlite"))
    command = _prune(tiny_llama, tmp_path / "many", memo, *engine)
    rng = random.Random(0)
    for _ in range(3):
        driver = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
        )
        time.sleep(rng.uniform(6, 25))
        os.kill(driver.pid, signal.SIGKILL)
        driver.communicate()
    assert _facts(_told([*command, "--overwrite"])) == _facts(alone)
    again = _told([*command, "--overwrite"])
    assert json.loads(again)["search"]["cost"]["block_tokens"] == 0


@pytest.mark.slow
def test_score_by_workers_is_score(capsys: pytest.CaptureFixture[str], tiny_llama: Path) -> None:
    pytest.importorskip("ray")
    common = ("score", tiny_llama, "-c", SPEC, "--dtype", "float32", "--memo", "off", "--json")
    engine = ("--engine", "ray", "--workers", 2, "--cpus-per-worker", 0.5)
    alone, spread = run(capsys, *common), run(capsys, *common, *engine)
    assert spread.document["blocks"] == alone.document["blocks"]
