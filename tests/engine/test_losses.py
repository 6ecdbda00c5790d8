"""A search by workers on a cluster is the search of one process, to the bit."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
import pytest

import depthprune as dp
from depthprune.engine import Cluster
from depthprune.engine.losses import RayLosses
from depthprune.errors import UsageError
from depthprune.evaluator import Memo
from tiny import save_tiny

pytestmark = pytest.mark.slow


def _loads(folder: Path, dtype: str = "float32") -> Callable[[], dp.Model]:
    return partial(dp.load, folder, dtype=dtype, device="cpu")


@pytest.mark.parametrize("objective", ["nll", "kl"])
def test_greedy_is_the_same_set_loss_and_trace(
    cluster: Cluster, tiny_llama: Path, text: Path, objective: str
) -> None:
    model = _loads(tiny_llama)()
    calibration = dp.calibrate(f"text:{text},windows=12,length=24", model)
    expected = dp.search("greedy", dp.Evaluator(model, calibration, objective), k=3)
    with (
        Memo.temporary() as memo,
        RayLosses(cluster, _loads(tiny_llama), model) as workers,
    ):
        spread = dp.Evaluator(model, calibration, objective, workers=workers, memo=memo)
        found = dp.search("greedy", spread, k=3)
        assert (found.removed, found.score) == (expected.removed, expected.score)
        assert [p.loss for p in found.trace] == [p.loss for p in expected.trace]
        alone = dp.Evaluator(model, calibration, objective, memo=memo)
        assert dp.search("greedy", alone, k=3).score == expected.score
        assert alone.cost.block_tokens == 0


def _actors() -> list[int]:
    import psutil

    found = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):  # it may end while it is looked at
            if "ray::_Actor" in " ".join(process.cmdline() or [process.name()]):
                found.append(process.pid)
    return found


def test_workers_that_are_killed_change_nothing(
    cluster: Cluster, tiny_llama: Path, text: Path
) -> None:
    model = _loads(tiny_llama)()
    calibration = dp.calibrate(f"text:{text},windows=16,length=24", model)
    expected = dp.search("greedy", dp.Evaluator(model, calibration, racing=None), k=3)
    stop = threading.Event()
    killed: list[int] = []

    def kill() -> None:
        rng = np.random.default_rng(0)
        while not stop.is_set() and len(killed) < 3:
            time.sleep(float(rng.uniform(0.2, 1.0)))
            for pid in _actors()[:1]:
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)

    with RayLosses(cluster, _loads(tiny_llama), model) as workers:
        spread = dp.Evaluator(model, calibration, workers=workers, racing=None)
        thread = threading.Thread(target=kill)
        thread.start()
        try:
            found = dp.search("greedy", spread, k=3)
            for _ in range(40):
                if len(killed) >= 3 and workers.deaths:
                    break
                further = dp.Evaluator(model, calibration, workers=workers, racing=None)
                assert dp.search("greedy", further, k=3).score == expected.score
        finally:
            stop.set()
            thread.join()
        assert workers.deaths >= 1
    assert (found.removed, found.score) == (expected.removed, expected.score)


def test_workers_with_other_weights_or_another_dtype_are_refused(
    cluster: Cluster, tiny_llama: Path, tmp_path: Path
) -> None:
    model = _loads(tiny_llama)()
    save_tiny(tmp_path / "other", seed=7)
    with pytest.raises(UsageError, match="has other weights"):
        RayLosses(cluster, _loads(tmp_path / "other"), model)
    with pytest.raises(UsageError, match=r"has other dtype \(bfloat16\) than this process"):
        RayLosses(cluster, _loads(tiny_llama, "bfloat16"), model)
