"""Reading a GGUF's header, every length and place in it checked against the file's size.

A header may come from anywhere and be damaged anywhere, so nothing that it says is believed before
the file is known to be large enough for it. The package `gguf` gives what is data: how many bytes
each quantisation takes.
"""

from __future__ import annotations

import math
import mmap
import struct
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from depthprune.checkpoints.gguf.file import (
    ARRAY,
    SCALARS,
    STRING,
    Field,
    GgufFile,
    GgufTensor,
)
from depthprune.errors import CheckpointError, ModelError
from depthprune.extras import require_extra
from depthprune.untrusted import check_name_is_text, open_file

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_ALIGNMENT = 32
_MOST_DIMENSIONS = 8
"""ggml itself knows four."""

_LONGEST_NAME = 512
"""Characters of a tensor's name; ggml itself takes 63."""

_NO_MODELS: Mapping[str, str] = {
    "adapter": "an adapter; give the GGUF of its base, or cut the PEFT folder it was made from",
    "mmproj": "a projector of pictures or sound; give the GGUF of the language model beside it",
    "imatrix": "an importance matrix; give the GGUF of the model that it was measured on",
}
"""What `general.type` may be instead of a model, and what to give in its place."""

_LARGEST_ARRAY = 1 << 16
"""Numbers of an array that are read; longer ones (a vocabulary's scores) are left as bytes."""


def read_gguf(path: Path) -> GgufFile:
    """Read and check a GGUF's header against the file's size.

    Args:
        path: A GGUF file.

    Returns:
        The header, with every tensor known to lie inside the file.

    Raises:
        CheckpointError: If the file is no GGUF, truncated, big-endian, of a version that is not
            known, split into parts, or damaged.
        ModelError: If it holds no model, or the package `gguf` is not installed, or does not know a
            tensor's type.
    """
    check_name_is_text(path)
    try:
        with open_file(path) as file:
            size = file.seek(0, 2)
            if size == 0:
                raise _bad(path, "the file is empty")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
                return _Reader(path, view, size).read()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from error


def read_strings(file: GgufFile, key: str) -> list[str]:
    """The strings of an array, which a header passes over; none where there is no such array.

    Args:
        file: A checked header.
        key: The array's key.

    Raises:
        CheckpointError: If the file cannot be read.
    """
    entry = next((entry for entry in file.fields if entry.name == key), None)
    if entry is None or (entry.kind, entry.item) != (ARRAY, STRING):
        return []
    with open_file(file.path) as source:
        source.seek(entry.begin)
        raw = source.read(entry.end - entry.begin)
    at = 8 + len(key.encode()) + 4 + 4 + 8
    found = []
    while at < len(raw):
        end = at + 8 + int.from_bytes(raw[at : at + 8], "little")
        found.append(raw[at + 8 : end].decode("utf-8", "replace"))
        at = end
    return found


def _bad(path: Path, what: str) -> CheckpointError:
    return CheckpointError(
        f"{path}: not a GGUF language model, or damaged: {what}; download it again"
    )


class _Reader:
    """A cursor over a header; every read is checked against the file's end."""

    def __init__(self, path: Path, view: mmap.mmap, size: int) -> None:
        self.path = path
        self.view = view
        self.size = size
        self.at = 0

    def read(self) -> GgufFile:
        version = self._version()
        tensors, entries = self._numbers("QQ")
        fields = tuple(self._field() for _ in range(self._count(entries, 12)))
        self._refuse_twice("key", [entry.name for entry in fields])
        known = {entry.name: entry.value for entry in fields}
        self._refuse_parts(known)
        self._refuse_kinds(known)
        alignment = known.get("general.alignment", _ALIGNMENT)
        if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
            raise _bad(self.path, f"general.alignment is {alignment}, expected a power of two")
        infos = [self._info() for _ in range(self._count(tensors, 24))]
        self._refuse_twice("tensor", [info[0] for info in infos])
        data = self.at + -self.at % alignment
        placed = sorted(_place(self.path, infos, data), key=lambda t: (t.begin, t.end))
        self._check_places(placed, alignment)
        return GgufFile(self.path, version, fields, tuple(placed), alignment, self.size)

    def _version(self) -> int:
        if self._bytes(4) != _MAGIC:
            raise _bad(self.path, "it does not begin with GGUF")
        (version,) = self._numbers("I")
        if version in _VERSIONS:
            return int(version)
        swapped = int.from_bytes(int(version).to_bytes(4, "little"), "big")
        if 0 < swapped <= max(_VERSIONS):
            raise CheckpointError(
                f"{self.path}: a big-endian GGUF; convert it with gguf-convert-endian first"
            )
        if version == 0:
            raise _bad(self.path, "its version is 0")
        newer = "newer" if version > max(_VERSIONS) else "older"
        raise CheckpointError(
            f"{self.path}: GGUF version {version}, {newer} than this reader's "
            f"{' and '.join(map(str, _VERSIONS))}; convert the model again"
        )

    def _refuse_parts(self, known: Mapping[str, Any]) -> None:
        parts = known.get("split.count")
        if isinstance(parts, int) and parts > 1:
            number = known.get("split.no")
            which = f"part {number + 1} of {parts}" if isinstance(number, int) else "a part"
            raise CheckpointError(
                f"{self.path}: {which}, and surgery needs the whole model in one file; join the "
                "parts with llama-gguf-split --merge first"
            )

    def _refuse_kinds(self, known: Mapping[str, Any]) -> None:
        what = _NO_MODELS.get(str(known.get("general.type")))
        if what is not None:
            raise ModelError(f"{self.path}: expected a language model, found {what}")

    def _refuse_twice(self, what: str, names: list[str]) -> None:
        twice = [name for name, count in Counter(names).items() if count > 1]
        if twice:
            raise _bad(self.path, f"it names the {what} {twice[0]} twice")

    def _count(self, number: int, least: int) -> int:
        """A number of entries, believed only as far as the file could hold them."""
        if number * least > self.size:
            raise _bad(self.path, f"truncated, or its header counts {number} entries")
        return number

    def _bytes(self, length: int) -> bytes:
        end = self.at + length
        if end > self.size:
            raise _bad(
                self.path, f"truncated: the header goes on past the last of {self.size} bytes"
            )
        found = self.view[self.at : end]
        self.at = end
        return found

    def _numbers(self, layout: str) -> tuple[Any, ...]:
        return struct.unpack(f"<{layout}", self._bytes(struct.calcsize(f"<{layout}")))

    def _skip(self, length: int) -> None:
        if self.at + length > self.size:
            self._bytes(length)
        self.at += length

    def _text(self) -> str:
        (length,) = self._numbers("Q")
        return self._bytes(length).decode("utf-8", "replace")

    def _field(self) -> Field:
        begin = self.at
        name = self._text()
        (kind,) = self._numbers("I")
        if kind == ARRAY:
            item, value = self._array(name)
        else:
            item, value = -1, self._value(name, kind)
        return Field(name, kind, value, item, begin, self.at)

    def _value(self, name: str, kind: int) -> Any:
        if kind == STRING:
            return self._text()
        if kind not in SCALARS:
            raise _bad(self.path, f"{name} has the unknown type {kind}")
        return self._numbers(SCALARS[kind])[0]

    def _array(self, name: str) -> tuple[int, list[Any] | None]:
        item, count = self._numbers("IQ")
        if item in SCALARS:
            width = struct.calcsize(f"<{SCALARS[item]}")
            if count > _LARGEST_ARRAY:
                self._skip(count * width)
                return item, None
            self._count(count, width)
            return item, list(self._numbers(f"{count}{SCALARS[item]}"))
        for _ in range(self._count(count, 8)):
            if item == STRING:
                self._skip(self._numbers("Q")[0])
            else:
                # Arrays of arrays are in no file that llama.cpp reads.
                raise _bad(self.path, f"{name} is an array of the unknown type {item}")
        return item, None

    def _info(self) -> tuple[str, tuple[int, ...], int, int]:
        name = self._text()
        if len(name) > _LONGEST_NAME:
            raise _bad(self.path, f"a tensor's name has {len(name)} characters")
        (dimensions,) = self._numbers("I")
        if dimensions > _MOST_DIMENSIONS:
            raise _bad(self.path, f"{name} has {dimensions} dimensions, expected at most 8")
        shape = self._numbers(f"{self._count(dimensions, 8)}Q")
        kind, offset = self._numbers("IQ")
        return name, shape, kind, offset

    def _check_places(self, tensors: list[GgufTensor], alignment: int) -> None:
        reached = 0
        for tensor in tensors:
            if tensor.begin % alignment:
                raise _bad(self.path, f"{tensor.name} does not begin at a multiple of {alignment}")
            if tensor.begin < reached:
                raise _bad(self.path, f"{tensor.name} overlaps the tensor before it")
            reached = tensor.end
        if reached > self.size:
            raise _bad(
                self.path,
                f"truncated: {tensors[-1].name} ends at byte {reached}, found {self.size}",
            )


def _place(
    path: Path, infos: list[tuple[str, tuple[int, ...], int, int]], data: int
) -> Iterator[GgufTensor]:
    """Tensors with their ranges of bytes, from what the header says of each."""
    (constants,) = require_extra(str(path), "gguf", "gguf.constants", error=ModelError)
    for name, shape, kind, offset in infos:
        try:
            known = constants.GGMLQuantizationType(kind)
            block, width = constants.GGML_QUANT_SIZES[known]
        except (ValueError, KeyError) as error:
            raise ModelError(
                f"{path}: {name} has the type {kind}, which the installed gguf package does not "
                "know; run: pip install --upgrade gguf"
            ) from error
        elements = math.prod(shape)
        row = shape[0] if shape else 1
        if row % block:
            raise _bad(path, f"{name} has rows of {row} weights, {known.name} packs {block}")
        begin = data + offset
        yield GgufTensor(name, shape, kind, known.name, begin, begin + elements // block * width)
