"""How much memory is free, and a device that has none for a model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from depthprune.errors import ModelError
from depthprune.models import free_memory
from depthprune.models.free_memory import available_memory
from depthprune.models.loading import load

_GIB = 1 << 30


@pytest.fixture
def group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(free_memory, "_GROUP", tmp_path)
    monkeypatch.setattr(free_memory, "_system_memory", lambda: 64 * _GIB)
    (tmp_path / "memory.max").write_text(f"{32 * _GIB}\n", encoding="ascii")
    (tmp_path / "memory.current").write_text(f"{31 * _GIB}\n", encoding="ascii")
    stat = f"anon {3 * _GIB}\nactive_file {8 * _GIB}\ninactive_file {20 * _GIB}\nslab 7\n"
    (tmp_path / "memory.stat").write_text(stat, encoding="ascii")
    return tmp_path


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
