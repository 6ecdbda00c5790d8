"""GGUF files as metadata and byte ranges, without loading a tensor.

The package `gguf` reads whole files into arrays and writes them by rebuilding every field, which
takes seconds for a vocabulary and loses what it does not know. A cut changes a few numbers and the
names of tensors, so here a header is read field by field, each with the range of its bytes, and
what is not changed is copied as it is. The layout is that of the GGUF specification.
"""

from __future__ import annotations

import math
import struct
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from depthprune.errors import CheckpointError

BOOL, STRING, ARRAY, UINT32, INT32, FLOAT32 = 7, 8, 9, 4, 5, 6
SCALARS: Mapping[int, str] = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    UINT32: "I",
    INT32: "i",
    FLOAT32: "f",
    BOOL: "?",
    10: "Q",
    11: "q",
    12: "d",
}
"""Types of values by number, as `struct` writes them."""


@dataclass(frozen=True)
class Field:
    """One entry of the metadata.

    Attributes:
        name: Its key.
        kind: The number of its value's type.
        value: A number, a bool, a string or a list of numbers; None where it was not read (an
            array of strings, or a very long one).
        item: The number of the items' type, of an array.
        begin: First byte of the entry, its key included; -1 of an entry that is new.
        end: One past its last byte.
    """

    name: str
    kind: int
    value: Any
    item: int = -1
    begin: int = -1
    end: int = -1

    def changed(self, value: Any) -> Field:
        """The same entry with another value of the same type."""
        return Field(self.name, self.kind, value, self.item)

    def encode(self) -> bytes:
        """The bytes of an entry that is new."""
        head = encode_string(self.name) + struct.pack("<I", self.kind)
        if self.kind == STRING:
            return head + encode_string(self.value)
        if self.kind == ARRAY:
            items = struct.pack(f"<{len(self.value)}{SCALARS[self.item]}", *self.value)
            return head + struct.pack("<IQ", self.item, len(self.value)) + items
        return head + struct.pack(f"<{SCALARS[self.kind]}", self.value)


@dataclass(frozen=True)
class GgufTensor:
    """One tensor.

    Attributes:
        name: As in the header.
        shape: Elements along each dimension, the fastest one first, as the file has them.
        kind: The number of its type.
        dtype: The name of its type, such as `"Q4_K"`.
        begin: First byte, from the start of the file.
        end: One past the last byte.
    """

    name: str
    shape: tuple[int, ...]
    kind: int
    dtype: str
    begin: int
    end: int

    @property
    def elements(self) -> int:
        """Weights, however they are packed."""
        return math.prod(self.shape)


def commonest_dtype(tensors: Iterable[GgufTensor]) -> str:
    """The type that most weights are stored in; empty where there are no tensors."""
    elements: Counter[str] = Counter()
    for tensor in tensors:
        elements[tensor.dtype] += tensor.elements
    return elements.most_common(1)[0][0] if elements else ""


@dataclass(frozen=True)
class GgufFile:
    """A checked header.

    Attributes:
        path: The file.
        version: Of the format.
        fields: In the order of the file.
        tensors: In the order of their bytes.
        alignment: Bytes that every tensor's beginning is a multiple of.
        size: Bytes of the whole file.
    """

    path: Path
    version: int
    fields: tuple[Field, ...]
    tensors: tuple[GgufTensor, ...]
    alignment: int
    size: int
    _by_name: dict[str, Field] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_by_name", {entry.name: entry for entry in self.fields})

    def get(self, name: str) -> Any:
        """The value of a key; None where the file has none."""
        entry = self._by_name.get(name)
        return None if entry is None else entry.value

    @cached_property
    def architecture(self) -> str:
        """In llama.cpp's words, such as `"llama"`.

        Raises:
            CheckpointError: If the file states none.
        """
        found = self.get("general.architecture")
        if not isinstance(found, str) or not found:
            raise CheckpointError(
                f"{self.path}: not a GGUF language model, or damaged: general.architecture is "
                "missing"
            )
        return found

    @cached_property
    def prediction_layers(self) -> int:
        """How many multi-token-prediction layers follow the blocks; the file counts them in."""
        found = self.get(f"{self.architecture}.nextn_predict_layers")
        return found if isinstance(found, int) else 0

    @cached_property
    def blocks(self) -> int:
        """The number of blocks, without multi-token-prediction layers.

        Raises:
            CheckpointError: If the file states none, or more than it has tensors.
        """
        found = self.get(f"{self.architecture}.block_count")
        # A block has a tensor at least, so a number that is too large is not believed.
        most = len(self.tensors)
        if not isinstance(found, int) or not self.prediction_layers < found <= most:
            raise CheckpointError(
                f"{self.path}: not a GGUF language model, or damaged: {self.architecture}."
                f"block_count is {found}, expected a number of blocks, of {most} tensors"
            )
        return found - self.prediction_layers


def encode_string(text: str) -> bytes:
    """A string as the format has it: its length, then UTF-8."""
    raw = text.encode("utf-8")
    return struct.pack("<Q", len(raw)) + raw
