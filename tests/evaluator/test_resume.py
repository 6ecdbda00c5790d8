"""With a memo nothing is computed twice, and what comes out is what would have come out without."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from items import calibration_of, random_text

import depthprune as dp
from depthprune.evaluator.forward import Forward
from depthprune.evaluator.memo.store import Memo
from depthprune.searches import search
from tiny import save_tiny

SETS = [(), (1,), (2, 4)]


@pytest.fixture(scope="module")
def model(tiny_llama: Path) -> dp.Model:
    return dp.load(tiny_llama, dtype="bfloat16", device="cpu")


@pytest.fixture(scope="module")
def calibration(model: dp.Model) -> dp.Calibration:
    return dp.calibrate(
        ["stdlib-prose,windows=6,length=48", "stdlib-code,windows=5,length=33"], model
    )


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "memo.sqlite"


def test_a_second_run_computes_nothing(
    model: dp.Model, calibration: dp.Calibration, place: Path
) -> None:
    with Memo.open(place) as memo:
        paid = dp.Evaluator(model, calibration, memo=memo)
        first = paid.score(SETS)
    with Memo.open(place) as memo:
        evaluator = dp.Evaluator(model, calibration, memo=memo)
        second = evaluator.score(SETS)
    assert evaluator.cost.asked_block_tokens == paid.cost.block_tokens > 0
    assert evaluator.cost.block_tokens == evaluator.cost.head_tokens == 0
    assert evaluator.cost.recalled == len(SETS) * 11
    assert second == first == dp.Evaluator(model, calibration).score(SETS)


def test_losses_are_kept_under_the_weights_that_were_loaded_and_not_under_those_on_disk(
    tmp_path: Path, place: Path
) -> None:
    """A model was written anew into its folder while an older one was still in memory."""
    folder = save_tiny(tmp_path / "model", seed=0)
    older = dp.load(folder, dtype="float32", device="cpu")
    save_tiny(folder, seed=1)
    newer = dp.load(folder, dtype="float32", device="cpu")
    calibration = calibration_of([random_text(np.random.default_rng(0)) for _ in range(3)])
    with dp.Memo.open(place) as memo:
        dp.Evaluator(older, calibration, memo=memo).score([(1,)])
        evaluator = dp.Evaluator(newer, calibration, memo=memo)
        found = evaluator.score([(1,)])
    assert evaluator.cost.recalled == 0
    assert found == dp.Evaluator(newer, calibration).score([(1,)])


def test_a_window_that_two_calibrations_share_is_scored_once(model: dp.Model, place: Path) -> None:
    few = dp.calibrate("stdlib-prose,windows=8,length=64,order=first", model)
    more = dp.calibrate("stdlib-prose,windows=16,length=64,order=first", model)
    with Memo.open(place) as memo:
        dp.Evaluator(model, few, memo=memo).score([(3,)])
        evaluator = dp.Evaluator(model, more, memo=memo)
        evaluator.score([(3,)])
    assert evaluator.cost.recalled == 8
    assert evaluator.cost.block_tokens == 5 * 8 * 64


def test_another_dtype_shares_nothing(
    model: dp.Model, calibration: dp.Calibration, tiny_llama: Path, place: Path
) -> None:
    with Memo.open(place) as memo:
        dp.Evaluator(model, calibration, memo=memo).score(SETS)
        wide = dp.load(tiny_llama, dtype="float32", device="cpu")
        evaluator = dp.Evaluator(wide, calibration, memo=memo)
        evaluator.score(SETS)
    assert evaluator.cost.recalled == 0


@pytest.mark.usefixtures("no_rounding")
def test_a_run_that_stops_halfway_is_finished_identically(
    model: dp.Model, calibration: dp.Calibration, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = search("greedy", dp.Evaluator(model, calibration), k=3)
    walks = 0
    walk = Forward._group

    def stopping(self: Forward, *arguments: Any) -> Any:
        nonlocal walks
        walks += 1
        if walks > 3:
            raise KeyboardInterrupt
        return walk(self, *arguments)

    monkeypatch.setattr(Forward, "_group", stopping)
    with Memo.open(place) as memo, pytest.raises(KeyboardInterrupt):
        search("greedy", dp.Evaluator(model, calibration, memo=memo), k=3)
    monkeypatch.setattr(Forward, "_group", walk)
    with Memo.open(place) as memo:
        evaluator = dp.Evaluator(model, calibration, memo=memo)
        resumed = search("greedy", evaluator, k=3)
    assert evaluator.cost.recalled > 0
    assert (resumed.removed, resumed.path) == (whole.removed, whole.path)
    assert [p.loss for p in resumed.trace] == [p.loss for p in whole.trace]


SCRIPT = """
import sys
import depthprune as dp
from depthprune.evaluator import evaluator as evaluator_module
from depthprune.evaluator.memo.store import Memo
from depthprune.evaluator.forward import Forward
from pathlib import Path
from typing import Any
model = dp.load(sys.argv[1], dtype="bfloat16", device="cpu")
calibration = dp.calibrate("stdlib-prose,windows=40,length=64", model)
with Memo.open(Path(sys.argv[2])) as memo:
    evaluator = dp.Evaluator(model, calibration, memo=memo)
    print("ready", flush=True)
    result = dp.search("greedy", evaluator, k=4)
print(result.removed, repr(result.score.loss), evaluator.cost.recalled, flush=True)
"""


def _start(tiny_llama: Path, place: Path) -> subprocess.Popen[str]:
    words = [sys.executable, "-c", SCRIPT, str(tiny_llama), str(place)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=environment)


def _wait_for_losses(place: Path, process: subprocess.Popen[str]) -> None:
    """Until the memo has some, or the search is over."""
    while process.poll() is None:
        with (
            suppress(sqlite3.Error),
            closing(sqlite3.connect(f"file:{place}?mode=ro", uri=True)) as file,
        ):
            if file.execute("SELECT count(*) FROM losses").fetchone()[0]:
                return
        time.sleep(0.02)


@pytest.mark.slow
def test_a_killed_search_ends_as_one_that_was_never_killed(
    tiny_llama: Path, tmp_path: Path
) -> None:
    output, _ = _start(tiny_llama, tmp_path / "whole.sqlite").communicate()
    rng = np.random.default_rng(0)
    for delay in rng.uniform(0.02, 0.6, size=3):
        process = _start(tiny_llama, tmp_path / "killed.sqlite")
        assert process.stdout is not None
        process.stdout.readline()
        _wait_for_losses(tmp_path / "killed.sqlite", process)
        try:
            process.wait(timeout=delay)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
        process.stdout.close()
        process.wait()
    resumed, _ = _start(tiny_llama, tmp_path / "killed.sqlite").communicate()
    whole_line, resumed_line = (text.splitlines()[1] for text in (output, resumed))
    assert resumed_line.rsplit(" ", 1)[0] == whole_line.rsplit(" ", 1)[0]
    assert int(resumed_line.rsplit(" ", 1)[1]) > 0
