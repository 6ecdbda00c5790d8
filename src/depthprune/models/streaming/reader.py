"""Reads stored tensors from files into memory that is there, on whatever device.

The bytes of a tensor that needs no conversion go straight to where they are used; those of others
pass through memory of the host.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from depthprune.checkpoints.safetensors import Tensor as Stored
from depthprune.errors import CheckpointError
from depthprune.models.streaming.slots import STORED_DTYPES, Slot, read_for


class _Stage:
    """Memory of the host through which bytes of a file go to a device.

    A GPU copies out of pinned memory while the next tensor is read into the other stage; a stage is
    waited for before it is written again.
    """

    def __init__(self) -> None:
        self._memory = torch.empty(0, dtype=torch.uint8)
        self._sent: torch.cuda.Event | None = None

    def free(self, size: int, device: torch.device) -> torch.Tensor:
        """So many bytes to write into."""
        if self._sent is not None:
            self._sent.synchronize()
            self._sent = None
        if len(self._memory) < size:
            pinned = device.type == "cuda"
            self._memory = torch.empty(size, dtype=torch.uint8, pin_memory=pinned)
        return self._memory[:size]

    def send(self, stored: torch.Tensor, tensor: torch.Tensor) -> None:
        """Copy what was written to a tensor, converted to its dtype."""
        if tensor.device.type != "cuda":
            tensor.copy_(stored)
            return
        if stored.dtype != tensor.dtype:
            # Converted by the device: a copy between dtypes would wait for the processor.
            stored = stored.to(tensor.device, non_blocking=True)
        tensor.copy_(stored, non_blocking=True)
        self._sent = torch.cuda.Event()  # type: ignore[no-untyped-call]
        self._sent.record(torch.cuda.current_stream(tensor.device))


class TensorReader:
    """Reads stored tensors into given ones. One thread uses it at a time."""

    def __init__(self) -> None:
        self._stages = [_Stage(), _Stage()]

    def read(self, slots: Sequence[Slot], tensors: Sequence[torch.Tensor]) -> int:
        """Fill each tensor with a slot's bytes, converted to its dtype and moved to its device.

        Returns:
            How many bytes were read.

        Raises:
            CheckpointError: If a file cannot be read, or has become shorter.
        """
        joins: dict[int, list[tuple[Slot, torch.Tensor]]] = {}
        whole: list[tuple[Path, Stored, torch.Tensor]] = []
        for slot, tensor in zip(slots, tensors, strict=True):
            if slot.join is None:
                whole.append((slot.files[0], slot.stored[0], tensor))
            else:
                joins.setdefault(id(slot.join), []).append((slot, tensor))
        self._read_all(whole)
        for made in joins.values():
            self._make(made)
        return sum(stored.nbytes for _, stored in read_for(slots))

    def _make(self, targets: Sequence[tuple[Slot, torch.Tensor]]) -> None:
        """Fill what one join makes."""
        slot, like = targets[0]
        assert slot.join is not None
        parts = [
            torch.empty(each.shape, dtype=like.dtype, device=like.device) for each in slot.stored
        ]
        self._read_all(list(zip(slot.files, slot.stored, parts, strict=True)))
        made = slot.join.made(parts)
        for each, tensor in targets:
            tensor.copy_(made[each.name])

    def _read_all(self, wanted: Sequence[tuple[Path, Stored, torch.Tensor]]) -> None:
        order = sorted(wanted, key=lambda each: (each[0], each[1].begin))
        place = 0
        while place < len(order):
            path = order[place][0]
            try:
                with open(path, "rb", buffering=0) as file:
                    while place < len(order) and order[place][0] == path:
                        self._read(file, *order[place])
                        place += 1
            except OSError as error:
                raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from error

    def _read(self, file: Any, path: Path, stored: Stored, tensor: torch.Tensor) -> None:
        dtype = STORED_DTYPES[stored.dtype]
        direct = tensor.dtype == dtype and tensor.device.type == "cpu"
        stage = self._stages[0]
        if direct:
            raw = tensor.flatten().view(torch.uint8)
        else:
            self._stages.reverse()  # the device may still copy from this one meanwhile
            raw = stage.free(stored.nbytes, tensor.device)
        view = memoryview(raw.numpy())  # type: ignore[arg-type]
        file.seek(stored.begin)
        while view:
            count = file.readinto(view)
            if not count:
                raise CheckpointError(
                    f"{path}: ended within {stored.name}; it changed since it was opened"
                )
            view = view[count:]
        if not direct:
            stage.send(raw.view(dtype).view(stored.shape), tensor)
