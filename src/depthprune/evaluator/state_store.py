"""Where hidden states wait for their next block: on the device, then in memory, then in a file.

A walk that must read each block once holds every state of every batch, which may be more than fits.
Each block visits all states in turn, so which of them lie in the file makes no difference to how
much is read and written; those that came first stay where they are. What a GPU does not hold waits
in the host's memory, which is faster than any disk, and in the file only what that does not hold.
The file has no name, so nothing is left of it however the process ends.
"""

from __future__ import annotations

import os
import tempfile
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, cast

import torch
from torch import Tensor

from depthprune.errors import EvaluationError
from depthprune.models.blocks.carried import (
    Carried,
    State,
    changed,
)


class StoredState:
    """One state; `get` gives it as it was put."""

    def get(self) -> State:
        """The state."""
        raise NotImplementedError


class _InMemory(StoredState):
    def __init__(self, state: State) -> None:
        self._state = state

    def get(self) -> State:
        return self._state


class _OnHost(StoredState):
    """A state of a GPU's, in the host's memory, from where it is copied without waiting."""

    def __init__(self, tensor: Tensor) -> None:
        self._device = tensor.device
        pinned = tensor.device.type == "cuda"
        self._copy = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=pinned)
        self._copy.copy_(tensor)

    def get(self) -> State:
        return self._copy.to(self._device, non_blocking=True)


class _Several(StoredState):
    """A state of several tensors, each held by itself."""

    def __init__(self, state: Carried, put: Callable[[Tensor], StoredState]) -> None:
        self._parts = changed(state, put)

    def get(self) -> State:
        state: State = changed(self._parts, lambda held: held.get(), kind=StoredState)
        return state


class _InFile(StoredState):
    def __init__(self, tensor: Tensor, store: StateStore) -> None:
        self._shape, self._dtype, self._device = tensor.shape, tensor.dtype, tensor.device
        self._store = store
        self.bytes = tensor.numel() * tensor.element_size()
        self.place = store.write(tensor)

    def get(self) -> State:
        raw = self._store.read(self.place, self.bytes)
        return raw.view(self._dtype).view(self._shape).to(self._device)


class StateStore:
    """Holds states.

    States that are gone are told by weak references, whose callback is `list.append`, and counted
    out when room is needed, each once. A finaliser or a callback in Python would swallow an
    interrupt that arrives while it runs, and they run right behind every block.

    Args:
        budget: Bytes that may be held where the states are made; None for no limit.
        host: Bytes that may be held in the host's memory besides, of states made elsewhere.

    Attributes:
        written: Bytes written to the file so far.
    """

    def __init__(self, budget: int | None = None, host: int = 0) -> None:
        self.written = 0
        self._budget = budget
        self._host = host
        self._held: dict[weakref.ref[StoredState], tuple[int, int | None, bool]] = {}
        self._gone: list[weakref.ref[StoredState]] = []
        self._in_memory = 0
        self._on_host = 0
        self._file: BinaryIO | None = None
        self._end = 0
        self._gaps: dict[int, list[int]] = {}

    @property
    def in_memory(self) -> int:
        """Bytes held now where they were made; counted where there is a limit."""
        self._sweep()
        return self._in_memory

    @property
    def on_host(self) -> int:
        """Bytes of states of a GPU's that the host holds now."""
        self._sweep()
        return self._on_host

    def put(self, state: State) -> StoredState:
        """Hold a state until the answer is dropped.

        Raises:
            EvaluationError: If the disk is full.
        """
        if self._budget is None:
            return _InMemory(state)
        if isinstance(state, Carried):
            return _Several(state, self._put)
        return self._put(state)

    def _put(self, tensor: Tensor) -> StoredState:
        assert self._budget is not None
        size = tensor.numel() * tensor.element_size()
        held: StoredState
        place, moved = None, False
        if self.in_memory + size <= self._budget:
            held = _InMemory(tensor)
            self._in_memory += size
        elif tensor.device.type != "cpu" and self.on_host + size <= self._host:
            held, moved = _OnHost(tensor), True
            self._on_host += size
        else:
            held = _InFile(tensor, self)
            place = held.place
        self._held[weakref.ref(held, self._gone.append)] = size, place, moved
        return held

    def _sweep(self) -> None:
        """Count out what is gone, and let its places in the file be used again."""
        while self._gone:
            size, place, moved = self._held.pop(self._gone.pop())
            if place is not None:
                self._gaps.setdefault(size, []).append(place)
            elif moved:
                self._on_host -= size
            else:
                self._in_memory -= size

    def write(self, tensor: Tensor) -> int:
        """Write a state to the file; the answer is its place."""
        flat = tensor.detach().cpu().contiguous().view(-1).view(torch.uint8)
        gaps = self._gaps.get(len(flat))
        place = gaps.pop() if gaps else self._end
        self._end = max(self._end, place + len(flat))
        try:
            file = self._opened()
            file.seek(place)
            file.write(flat.numpy().data)
        except OSError as error:
            raise EvaluationError(
                f"hidden states past --memory go to a file in {_folder()}, which cannot be written "
                f"({error.strerror}); free space there, set TMPDIR, or raise --memory"
            ) from error
        self.written += len(flat)
        return place

    def read(self, place: int, size: int) -> Tensor:
        """Read what was written at a place, shape (size,), uint8."""
        file = self._opened()
        file.seek(place)
        data = file.read(size)
        if len(data) != size:
            raise EvaluationError("the file of hidden states was cut short; run again")
        return torch.frombuffer(bytearray(data), dtype=torch.uint8)

    def close(self) -> None:
        """Give the file up; what it held is gone."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _opened(self) -> BinaryIO:
        if self._file is None:
            file = tempfile.TemporaryFile(prefix="depthprune-", dir=_folder())  # noqa: SIM115
            self._file = cast(BinaryIO, file)
        return self._file


def _folder() -> str:
    """TMPDIR, or else a folder on disk: the usual /tmp is memory on many systems."""
    on_disk = Path("/var/tmp")
    if "TMPDIR" not in os.environ and on_disk.is_dir() and os.access(on_disk, os.W_OK):
        return str(on_disk)
    try:
        return tempfile.gettempdir()
    except FileNotFoundError as error:
        raise EvaluationError(
            "hidden states past --memory go to a file, and no folder for temporary files can be "
            "written; set TMPDIR to one that can, or raise --memory"
        ) from error
