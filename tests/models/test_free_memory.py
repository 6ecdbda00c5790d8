"""How much memory is free, and a device that has none for a model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from depthprune import control_groups
from depthprune.errors import ModelError
from depthprune.models import free_memory
from depthprune.models.free_memory import available_memory
from depthprune.models.loading import load

_GIB = 1 << 30


NEWER = ("memory.max", "memory.current", "")
OLDER = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_")


def limited(group: Path, most: str, names: tuple[str, str, str] = NEWER) -> None:
    """A control group that holds 31 GiB, 28 of them of files that were read."""
    limit, used, total = names
    group.mkdir(parents=True, exist_ok=True)
    (group / limit).write_text(f"{most}\n", encoding="ascii")
    (group / used).write_text(f"{31 * _GIB}\n", encoding="ascii")
    stat = {"anon": 3 * _GIB, "active_file": 8 * _GIB, "inactive_file": 20 * _GIB, "slab": 7}
    lines = [f"{total}{name} {size}\n" for name, size in stat.items()]
    (group / "memory.stat").write_text("".join(lines), encoding="ascii")


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where control groups are; this process is in none that is known by name."""
    monkeypatch.setattr(control_groups, "_ROOT", tmp_path)
    monkeypatch.setattr(free_memory, "_system_memory", lambda: 64 * _GIB)
    _in("0::/\n", tmp_path, monkeypatch)
    return tmp_path


def _in(own: str, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "own").write_text(own, encoding="utf-8")
    monkeypatch.setattr(control_groups, "_OWN", root / "own")


@pytest.fixture
def group(root: Path) -> Path:
    limited(root, str(32 * _GIB))
    return root


@pytest.mark.parametrize(
    ("own", "folder", "names"),
    [
        ("0::/jobs/one/step\n", "jobs/one", NEWER),
        ("0::/jobs/one\n", "jobs/one", NEWER),
        ("5:memory:/docker/one\n4:cpu,cpuacct:/a\n0::/\n", "memory/docker/one", OLDER),
        # Within a container of the first version its group is the root of what is mounted.
        ("5:memory:/docker/one\n", "memory", OLDER),
    ],
)
def test_the_limit_of_every_group_that_the_process_is_in_counts(
    own: str, folder: str, names: tuple[str, str, str], root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _in(own, root, monkeypatch)
    limited(root / "jobs", "max")
    limited(root / folder, str(32 * _GIB), names)
    assert available_memory(torch.device("cpu")) == 29 * _GIB


@pytest.mark.usefixtures("group")
def test_files_that_were_read_leave_their_memory_to_who_wants_it() -> None:
    assert available_memory(torch.device("cpu")) == 29 * _GIB


def test_a_group_without_a_limit_leaves_what_the_system_has(group: Path) -> None:
    (group / "memory.max").write_text("max\n", encoding="ascii")
    assert available_memory(torch.device("cpu")) == 64 * _GIB


def test_no_group_leaves_what_the_system_has(group: Path) -> None:
    (group / "memory.max").unlink()
    assert available_memory(torch.device("cpu")) == 64 * _GIB


def test_a_model_that_a_device_has_no_room_for_is_one_clear_error(
    tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: object, device: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore.")

    monkeypatch.setattr(PreTrainedModel, "to", full)
    with pytest.raises(ModelError, match=r"memory ran out on cpu .* take --stream") as caught:
        load(tiny_llama, dtype="float32", device="cpu")
    assert "\n" not in str(caught.value)
