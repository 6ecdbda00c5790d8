"""The number of threads follows from what the process may use, never from how busy it is."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from depthprune import control_groups, threads

_NAMES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OMP_WAIT_POLICY",
    "GOMP_SPINCOUNT",
    "KMP_BLOCKTIME",
)


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment without any of the variables, and put back afterwards."""
    for name in _NAMES:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setattr(threads, "processors", lambda: 8)
    monkeypatch.setattr(threads, "quota", lambda: None)
    monkeypatch.delitem(sys.modules, "torch", raising=False)


def _set() -> dict[str, str]:
    return {name: os.environ[name] for name in _NAMES if name in os.environ}


def test_without_a_quota_the_libraries_choose_for_themselves() -> None:
    threads.settle()
    assert _set() == {"GOMP_SPINCOUNT": "10000", "KMP_BLOCKTIME": "1"}


@pytest.mark.parametrize(("quota", "number"), [(2.0, "2"), (2.9, "2"), (0.5, "1"), (8.0, None)])
def test_a_quota_below_the_processors_sets_the_number(
    quota: float, number: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads, "quota", lambda: quota)
    threads.settle()
    assert _set().get("OMP_NUM_THREADS") == number


def test_what_the_user_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    monkeypatch.setattr(threads, "quota", lambda: 2.0)
    threads.settle()
    assert _set() == {"OMP_NUM_THREADS": "5", "OMP_WAIT_POLICY": "active"}


def test_a_number_that_is_asked_for_is_taken_over_every_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    threads.settle(3)
    assert (_set()["OMP_NUM_THREADS"], _set()["MKL_NUM_THREADS"]) == ("3", "3")


def test_how_busy_the_machine_is_changes_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getloadavg", lambda: (0.0, 0.0, 0.0))
    threads.settle()
    idle = _set()
    monkeypatch.setattr(os, "getloadavg", lambda: (100.0, 100.0, 100.0))
    threads.settle()
    assert _set() == idle


def test_a_busy_machine_is_said_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getloadavg", lambda: (8.0, 0.0, 0.0))
    assert threads.busy_words() == ""
    monkeypatch.setattr(threads, "quota", lambda: 2.0)
    assert threads.busy_words() == "the machine is busy (a load of 8.0 on 2 processors)"


@pytest.mark.parametrize(
    ("own", "files", "expected"),
    [
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000", "a/cpu.max": "150000 100000"}, 1.5),
        ("0::/a/b\n", {"a/b/cpu.max": "400000 100000", "a/cpu.max": "max 100000"}, 4.0),
        ("0::/\n", {"cpu.max": "50000 100000"}, 0.5),
        ("0::/\n", {}, None),
        ("0::/\n", {"cpu.max": "nonsense"}, None),
        (
            "4:cpu,cpuacct:/a\n1:name=x:/\n",
            {"cpu/a/cpu.cfs_quota_us": "300000", "cpu/a/cpu.cfs_period_us": "100000"},
            3.0,
        ),
        (
            "4:cpu,cpuacct:/a\n",
            {"cpu/a/cpu.cfs_quota_us": "-1", "cpu/a/cpu.cfs_period_us": "100000"},
            None,
        ),
    ],
)
def test_the_least_quota_of_the_groups_above_counts(
    own: str,
    files: dict[str, str],
    expected: float | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.undo()
    (tmp_path / "own").write_text(own, encoding="utf-8")
    for name, text in files.items():
        path = tmp_path / "groups" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    monkeypatch.setattr(control_groups, "_OWN", tmp_path / "own")
    monkeypatch.setattr(control_groups, "_ROOT", tmp_path / "groups")
    assert threads.quota() == expected


def test_torch_computes_with_as_many_threads_as_were_asked_for() -> None:
    code = (
        "from depthprune.threads import settle; settle(1); import torch;"
        " print(torch.get_num_threads())"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "1\n"
