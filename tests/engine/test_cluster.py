"""An engine is read from its flags, and what cannot be joined is said at once."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from depthprune import extras
from depthprune.engine import Engine, cluster, join, parse_engine
from depthprune.engine.cluster import _sized
from depthprune.errors import UsageError


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("ray", None),
        ("ray://10.0.0.1:6379", "10.0.0.1:6379"),
        ("ray://[fe80::1]:6379", "[fe80::1]:6379"),
        ("ray://head.cluster:1", "head.cluster:1"),
    ],
)
def test_an_engine_is_ray_here_or_at_an_address(text: str, address: str | None) -> None:
    assert parse_engine(text, 3, 0.5, 2) == Engine(address, 3, 0.5, 2)


@pytest.mark.parametrize(
    "text",
    ["dask", "ray:", "ray://", "ray://host", "ray://host:0", "ray://host:70000", "ray://a b:1"],
)
def test_another_engine_or_address_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"--engine: expected ray or ray://HOST:PORT, got"):
        parse_engine(text)


@pytest.mark.parametrize(
    ("workers", "gpus", "cpus", "message"),
    [
        (0, None, None, "--workers: expected 1 to 4,096, got 0"),
        (None, -1, None, "--gpus-per-worker: expected a number from 0, got -1"),
        (None, 1.5, None, "--gpus-per-worker: expected a whole number or a part of one, got 1.5"),
        (None, None, 0, "--cpus-per-worker: expected more than 0, got 0"),
        (None, None, float("nan"), "--cpus-per-worker: expected a number from 0, got nan"),
    ],
)
def test_numbers_out_of_range_are_refused(
    workers: int | None, gpus: float | None, cpus: float | None, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        parse_engine("ray", workers, gpus, cpus)


def test_a_cluster_here_is_sized_where_the_system_binds_no_process_to_processors(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)  # macOS, Windows
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    monkeypatch.setattr(cluster, "_running_here", lambda: False)
    assert cluster._fit(Engine(), {}) == {"num_cpus": 3}


def test_an_address_that_nobody_answers_is_said_within_seconds() -> None:
    pytest.importorskip("ray")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    began = time.monotonic()
    with (
        pytest.raises(UsageError, match=f"ray://127.0.0.1:{port}: nobody answers"),
        join(parse_engine(f"ray://127.0.0.1:{port}")),
    ):
        pass
    assert time.monotonic() - began < 30


def test_without_ray_its_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def without(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr(extras, "import_module", without)
    with (
        pytest.raises(UsageError, match=r"run: pip install 'depthprune\[ray\]'"),
        join(parse_engine("ray")),
    ):
        pass


@pytest.mark.parametrize(
    ("nodes", "engine", "expected"),
    [
        ([{"CPU": 8}, {"CPU": 8}], Engine(), (4, 4)),
        ([{"CPU": 6}, {"CPU": 10}], Engine(), (4, 3)),
        ([{"CPU": 4}, {"CPU": 16}], Engine(), (4, 4)),
        ([{"CPU": 1}, {"CPU": 2}], Engine(), (4, 0.375)),
        ([{"CPU": 32, "GPU": 8}, {"CPU": 16, "GPU": 1}], Engine(), (9, 4)),
        ([{"CPU": 8, "GPU": 1}] * 4, Engine(gpus=0.75), (4, 8)),
    ],
)
def test_without_flags_workers_fit_on_machines_of_any_sizes(
    nodes: list[dict[str, float]], engine: Engine, expected: tuple[int, float]
) -> None:
    ray = SimpleNamespace(nodes=lambda: [{"Alive": True, "Resources": each} for each in nodes])
    cluster = _sized(ray, engine, Path())
    assert (cluster.workers, cluster.cpus) == expected
    assert cluster.fitting() >= cluster.workers


def test_what_does_not_fit_is_said_with_what_the_cluster_has() -> None:
    ray = SimpleNamespace(nodes=lambda: [{"Alive": True, "Resources": {"CPU": 4.0}}])
    with pytest.raises(UsageError, match=r"--workers: 1 of 1 GPUs and 4 processors do not fit"):
        _sized(ray, Engine(workers=1, gpus=1), Path())
