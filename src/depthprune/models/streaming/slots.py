"""Where the bytes of a file belong: a tensor of a module, and how it lies in memory.

A streamed tensor is aligned as it would be in a model that is loaded whole, since a product may
round by that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from depthprune.checkpoints.safetensors import Tensor as Stored
from depthprune.models.streaming.conversion import JoinedTensor

STORED_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""Dtypes of the format that torch computes in."""

ALIGNMENT = 512
"""Bytes; the widest that torch aligns its own tensors to, on any device."""


@dataclass(frozen=True)
class Slot:
    """A tensor of a module, and the bytes of files that fill it.

    Attributes:
        owner: The module that holds the tensor itself.
        attribute: Its name there.
        name: Its dotted name in the model.
        files: The weight file of each stored tensor.
        stored: Their entries in the files' headers: one, unless it is made of several.
        join: Makes it of what is stored, where that is not the tensor itself.
    """

    owner: nn.Module
    attribute: str
    name: str
    files: tuple[Path, ...]
    stored: tuple[Stored, ...]
    join: JoinedTensor | None = None

    @property
    def content(self) -> torch.Tensor:
        """What is there now."""
        return self.of(self.owner)

    def of(self, owner: nn.Module) -> torch.Tensor:
        """What a module has in this place; the owner, or its like in another model."""
        return self._table(owner)[self.attribute]

    def put(self, owner: nn.Module, tensor: torch.Tensor) -> None:
        """Put a tensor in this place of a module."""
        self._table(owner)[self.attribute] = tensor

    def _table(self, owner: nn.Module) -> dict[str, torch.Tensor]:
        table: Any = owner._parameters if self.attribute in owner._parameters else owner._buffers
        return table  # type: ignore[no-any-return]

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor in memory, in the dtype of what is there now."""
        return self.content.numel() * self.content.element_size()

    def view_of(self, raw: torch.Tensor) -> torch.Tensor:
        """Bytes seen as a tensor of the shape and dtype of what is there now."""
        return raw.view(self.content.dtype).view(self.content.shape)

    def room(self, device: torch.device) -> torch.Tensor:
        """An uninitialised tensor of the shape and dtype of what is there now."""
        shift = self.shift(device)
        return self.view_of(
            torch.empty(shift + self.nbytes, dtype=torch.uint8, device=device)[shift:]
        )

    def shift(self, device: torch.device) -> int:
        """How far from an aligned address the tensor begins when its model is loaded whole.

        There a tensor that needs no conversion is a mapping of the file, aligned as it lies in
        it; and a product of one row rounds otherwise where its matrix is aligned otherwise.
        """
        if self.join is not None:
            return 0
        (stored,) = self.stored
        mapped = device.type == "cpu" and self.content.dtype == STORED_DTYPES[stored.dtype]
        fits = stored.begin % self.content.element_size() == 0
        return stored.begin % ALIGNMENT if mapped and fits else 0

    def fill(self, tensor: torch.Tensor) -> None:
        """Put a tensor in place of the one there, as a parameter where that is one."""
        before = self.content
        if isinstance(before, nn.Parameter) and not isinstance(tensor, nn.Parameter):
            # Products may round by whether gradients could be wanted, even where none are recorded.
            tensor = nn.Parameter(tensor, requires_grad=before.requires_grad)
        self.put(self.owner, tensor)


def read_for(slots: Sequence[Slot]) -> list[tuple[Path, Stored]]:
    """The stored tensors that fill some slots, each once, with their files."""
    found = (pair for slot in slots for pair in zip(slot.files, slot.stored, strict=True))
    return list({(path, stored.name): (path, stored) for path, stored in found}.values())
