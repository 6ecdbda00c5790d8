"""States come back as they were put, from memory or from the file, and leave nothing behind."""

from __future__ import annotations

import errno
import sys
import tempfile
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch

from depthprune.errors import EvaluationError
from depthprune.evaluator import state_store as states_module
from depthprune.evaluator.state_store import StateStore, StoredState


def _state(seed: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_past_the_budget_states_go_to_a_file_and_come_back_bit_for_bit(dtype: torch.dtype) -> None:
    size = _state(0, dtype).numel() * _state(0, dtype).element_size()
    store = StateStore(2 * size)
    held: list[StoredState] = [store.put(_state(seed, dtype)) for seed in range(5)]
    assert store.in_memory == 2 * size
    assert store.written == 3 * size
    for seed, each in enumerate(held):
        assert torch.equal(each.get(), _state(seed, dtype))
    store.close()


class Elsewhere(torch.Tensor):
    """A tensor that says it is on an accelerator."""

    device = property(lambda self: torch.device("xpu"))  # type: ignore[assignment]


def test_what_a_gpu_does_not_hold_waits_in_the_hosts_memory_before_the_file(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(states_module._OnHost, "get", lambda self: self._copy)
    size = _state(0).numel() * _state(0).element_size()
    store = StateStore(size, host=2 * size)
    held = [store.put(_state(seed).as_subclass(Elsewhere)) for seed in range(4)]
    assert (store.in_memory, store.on_host, store.written) == (size, 2 * size, size)
    for seed in (1, 2):
        assert torch.equal(held[seed].get(), _state(seed))
    del held[1]
    assert store.on_host == size
    held.append(store.put(_state(9).as_subclass(Elsewhere)))
    assert (store.on_host, store.written) == (2 * size, size)
    store.close()


def test_states_of_the_processor_are_held_by_the_budget_alone() -> None:
    size = _state(0).numel() * _state(0).element_size()
    store = StateStore(size, host=10 * size)
    held = [store.put(_state(seed)) for seed in range(3)]
    assert (store.in_memory, store.on_host, store.written) == (size, 0, 2 * size)
    assert len(held) == 3
    store.close()


def test_a_state_that_is_let_go_frees_its_place() -> None:
    store = StateStore(0)
    for seed in range(10):
        held = store.put(_state(seed))
        assert torch.equal(held.get(), _state(seed))
        del held
    assert store._end == 2 * 5 * 8 * 2
    store.close()
    roomy = StateStore(1 << 20)
    held = roomy.put(_state(0))
    assert roomy.in_memory == 2 * 5 * 8 * 2
    del held
    assert roomy.in_memory == 0


def test_what_is_read_may_be_changed_without_changing_what_is_held() -> None:
    store = StateStore(0)
    held = store.put(_state(0))
    held.get().zero_()
    assert torch.equal(held.get(), _state(0))
    store.close()


@pytest.mark.parametrize("budget", [1 << 30, 0])
def test_a_state_costs_the_same_however_many_are_held(budget: int) -> None:
    def steps(count: int) -> int:
        """Bytecode instructions of this package that it takes to hold so many states."""
        taken = 0

        def count_one(frame: FrameType, event: str, argument: object) -> Any:
            nonlocal taken
            frame.f_trace_opcodes = frame.f_globals["__name__"] == states_module.__name__
            taken += event == "opcode"
            return count_one

        store = StateStore(budget)
        tensor, before = torch.zeros(1), sys.gettrace()
        sys.settrace(count_one)
        try:
            held = [store.put(tensor) for _ in range(count)]
        finally:
            sys.settrace(before)
        store.close()
        assert len(held) == count
        return taken

    few, many = steps(25), steps(100)
    assert 0 < many < 4.2 * few


def test_no_folder_for_temporary_files_is_one_clear_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path / "gone"))
    monkeypatch.setattr(tempfile, "tempdir", None)
    # As in a container that can write nowhere.
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: [str(tmp_path / "gone")])
    with pytest.raises(EvaluationError, match=r"no folder for temporary files .* set TMPDIR"):
        StateStore(0).put(_state(0))


def test_the_file_has_no_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(states_module, "_folder", lambda: str(tmp_path))
    store = StateStore(0)
    held = store.put(_state(0))
    assert list(tmp_path.iterdir()) == []
    assert torch.equal(held.get(), _state(0))
    store.close()


def test_a_full_disk_is_an_error_that_names_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        def seek(self, place: int) -> Any:
            raise OSError(errno.ENOSPC, "No space left on device")

    store = StateStore(0)
    store._file = Full()  # type: ignore[assignment]
    with pytest.raises(EvaluationError, match=r"No space left on device.*raise --memory"):
        store.put(_state(0))


def test_no_finaliser_runs_when_states_are_let_go() -> None:
    """One would swallow an interrupt: Python ignores what is raised in it."""
    for kind in (type(StateStore().put(_state(0))), *StoredState.__subclasses__(), StateStore):
        assert not hasattr(kind, "__del__")
