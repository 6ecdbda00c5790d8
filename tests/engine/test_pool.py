"""Workers do every piece of work once, whoever dies on the way."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from depthprune.engine import Cluster, join, parse_engine
from depthprune.engine.pool import MOST_DEATHS, Lost, Pool
from depthprune.errors import CalibrationError, EvaluationError, UsageError

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _by_value() -> None:
    """A worker cannot import this file."""
    from ray import cloudpickle

    cloudpickle.register_pickle_by_value(sys.modules[__name__])


class Adder:
    """Adds, and dies when it is told to."""

    def facts(self) -> int:
        return os.getpid()

    def add(self, number: int, folder: str) -> int:
        Path(folder, f"{number}-{os.getpid()}-{time.monotonic_ns()}").touch()
        mark = Path(folder, f"dies-{number}")
        if mark.exists():
            left = int(mark.read_text()) - 1
            mark.unlink() if not left else mark.write_text(str(left))
            os.kill(os.getpid(), signal.SIGKILL)
        return number + 1

    def refuse(self) -> None:
        raise CalibrationError("nothing is drawn: that is refused")

    def break_down(self) -> None:
        raise RuntimeError("the machine is on fire")


@dataclass(frozen=True)
class Makes:
    def __call__(self) -> Adder:
        return Adder()


def _times(folder: Path, number: int) -> int:
    return len(list(folder.glob(f"{number}-*")))


def test_every_piece_is_done_once(cluster: Cluster, tmp_path: Path) -> None:
    with Pool(cluster, Makes()) as pool:
        answers = dict(pool.run([("add", n, str(tmp_path)) for n in range(12)]))
    assert answers == {n: n + 1 for n in range(12)}
    assert all(_times(tmp_path, n) == 1 for n in range(12))


def test_the_work_of_a_worker_that_dies_is_done_by_another(
    cluster: Cluster, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for number in (2, 5):
        (tmp_path / f"dies-{number}").write_text("1")
    with Pool(cluster, Makes()) as pool:
        answers = dict(pool.run([("add", n, str(tmp_path)) for n in range(8)]))
        assert pool.deaths == 2
    assert answers == {n: n + 1 for n in range(8)}
    assert [_times(tmp_path, n) for n in range(8)] == [1, 1, 2, 1, 1, 2, 1, 1]
    told = [r.message for r in caplog.records if "a worker died" in r.message]
    assert len(told) == 2
    assert "is replaced; its log is in" in told[0]
    assert told[0].endswith(f"; 1 of 2 workers alive on {socket.gethostname()} (1)")


@dataclass(frozen=True)
class DiesOnStart:
    """From the third start on, as often as told."""

    folder: Path
    times: int

    def __call__(self) -> Adder:
        before = len(list(self.folder.glob("start-*")))
        (self.folder / f"start-{before}-{os.getpid()}").touch()
        if 2 <= before < 2 + self.times:
            os.kill(os.getpid(), signal.SIGKILL)
        return Adder()


def test_workers_that_are_killed_while_they_start_are_replaced_where_others_have_started(
    cluster: Cluster, tmp_path: Path
) -> None:
    (tmp_path / "dies-0").write_text("1")
    with Pool(cluster, DiesOnStart(tmp_path, MOST_DEATHS + 1)) as pool:
        # Only a worker that is waited for is known to have died on its start.
        (tmp_path / "dies-1").write_text("1")
        answers = dict(pool.run([("add", n, str(tmp_path)) for n in range(3)]))
        assert pool.deaths == 2 + MOST_DEATHS + 1
    assert answers == {0: 1, 1: 2, 2: 3}


def test_workers_of_which_none_has_started_are_given_up(cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "start-0").touch()
    (tmp_path / "start-1").touch()
    with pytest.raises(EvaluationError, match="a worker could not start"):
        Pool(cluster, DiesOnStart(tmp_path, 99))


def test_work_that_is_added_on_the_way_is_done_before_what_waits(
    cluster: Cluster, tmp_path: Path
) -> None:
    work: list[tuple[Any, ...]] = [("add", n, str(tmp_path)) for n in range(8)]
    order = []
    with Pool(cluster, Makes()) as pool:
        for piece, answer in pool.run(work):
            if not order:
                work += [("add", answer + 100, str(tmp_path)), ("add", 200, str(tmp_path))]
            order.append(piece)
    assert sorted(order) == list(range(10))
    assert order.index(8) < order.index(7)
    assert all(_times(tmp_path, n) == 1 for n in (*range(8), 200))


def test_what_kills_three_workers_is_given_up_and_the_rest_goes_on(
    cluster: Cluster, tmp_path: Path
) -> None:
    (tmp_path / "dies-1").write_text("9")
    with Pool(cluster, Makes()) as pool:
        answers = dict(pool.run([("add", n, str(tmp_path)) for n in range(4)]))
    assert isinstance(answers.pop(1), Lost)
    assert answers == {0: 1, 2: 3, 3: 4}
    assert _times(tmp_path, 1) == MOST_DEATHS


def test_what_a_worker_refuses_is_refused_as_by_this_process(cluster: Cluster) -> None:
    with Pool(cluster, Makes()) as pool:
        with pytest.raises(CalibrationError, match=r"^nothing is drawn: that is refused$"):
            list(pool.run([("refuse",)]))
        with pytest.raises(EvaluationError, match=r"on fire\); its log is in"):
            list(pool.run([("break_down",)]))


def test_a_worker_that_does_not_fit_the_others_is_refused(cluster: Cluster) -> None:
    def refuse(_: int) -> None:
        raise UsageError("another library")

    with pytest.raises(UsageError, match="another library"):
        Pool(cluster, Makes(), refuse)


def test_more_than_the_cluster_has_is_refused_with_what_it_has() -> None:
    pytest.importorskip("ray")
    import ray

    if ray.is_initialized():
        ray.shutdown()
    with (
        pytest.raises(UsageError, match=r"2 of 4 GPUs and .* do not fit; the cluster has 1 node"),
        join(parse_engine("ray", 2, 4, 1)),
    ):
        pass
