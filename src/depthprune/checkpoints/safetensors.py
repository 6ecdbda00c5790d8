"""Safetensors files as headers and byte ranges, without loading a tensor.

A cut changes which tensors a checkpoint holds and what they are called, never their bytes. So a
file is read as its header alone, checked completely (a damaged file must be refused before half
an output is written), and a new file is composed by copying ranges of old ones inside the kernel
where the system can. Memory stays flat whatever the size.
"""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from depthprune.errors import CheckpointError
from depthprune.untrusted import open_file, shown

DTYPE_BITS: Mapping[str, int] = {
    "BOOL": 8,
    "U8": 8,
    "I8": 8,
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "F8_E5M2": 8,
    "F8_E4M3": 8,
    "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8,
    "I16": 16,
    "U16": 16,
    "F16": 16,
    "BF16": 16,
    "I32": 32,
    "U32": 32,
    "F32": 32,
    "C64": 64,
    "F64": 64,
    "I64": 64,
    "U64": 64,
}
"""Bits an element takes, for every dtype of the format."""

_LARGEST_HEADER = 100_000_000

_MOST_DIMENSIONS = 64
"""Axes of a tensor; torch stops there."""

_LARGEST_NUMBER = (1 << 63) - 1
"""Bytes; the limit that the safetensors library itself enforces."""


@dataclass(frozen=True)
class Tensor:
    """One tensor of a file: its header entry, with offsets counted from the file's start.

    Attributes:
        name: As in the header.
        dtype: The format's name, such as `"BF16"`.
        shape: Elements along each dimension; empty for a scalar.
        begin: First byte, from the start of the file.
        end: One past the last byte.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def nbytes(self) -> int:
        """Bytes of data."""
        return self.end - self.begin

    @property
    def elements(self) -> int:
        """Elements as stored (several quantised weights may be packed into one)."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class SafetensorsFile:
    """A checked header.

    Attributes:
        path: The file.
        tensors: In the order of their bytes.
        metadata: The header's `__metadata__`, empty where there is none.
        size: Bytes of the whole file.
    """

    path: Path
    tensors: tuple[Tensor, ...]
    metadata: Mapping[str, str]
    size: int


def read_header(path: Path, *, within: Path | None = None) -> SafetensorsFile:
    """Read and check a file's header against the file's size.

    Args:
        path: A safetensors file.
        within: The folder that it must lie in once links are followed, if any.

    Returns:
        The header, with every tensor known to lie inside the file, end to end.

    Raises:
        CheckpointError: If the file is truncated, its header is oversized, is not JSON or is not
            of the format, or its offsets overlap, leave a gap, leave the file, or disagree with
            a tensor's shape and dtype.
    """
    try:
        with open_file(path, within=within) as file:
            size = os.fstat(file.fileno()).st_size
            length = _header_length(path, file.read(8), size)
            raw = file.read(length)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from error
    entries = _parse(path, raw)
    metadata = _metadata(path, entries.pop("__metadata__", {}))
    data = 8 + length
    tensors = sorted(
        (_tensor(path, name, entry, data) for name, entry in entries.items()),
        key=lambda tensor: (tensor.begin, tensor.end),
    )
    _check_offsets(path, tensors, data, size)
    return SafetensorsFile(path, tuple(tensors), metadata, size)


def _bad(path: Path, what: str) -> CheckpointError:
    return CheckpointError(f"{path}: {what}; download or save the file again")


def _header_length(path: Path, first: bytes, size: int) -> int:
    if len(first) < 8:
        raise _bad(path, f"truncated: expected at least 8 bytes, found {size}")
    length = int.from_bytes(first, "little")
    if length > _LARGEST_HEADER:
        raise _bad(path, f"corrupt header: its length reads {length} bytes, over {_LARGEST_HEADER}")
    if 8 + length > size:
        raise _bad(path, f"truncated: the header alone takes {8 + length} bytes, found {size}")
    return length


def _parse(path: Path, raw: bytes) -> dict[str, Any]:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise _bad(path, "corrupt header: it names a tensor twice")
        return found

    try:
        entries = json.loads(raw.decode("utf-8"), object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        raise _bad(path, f"corrupt header: not JSON ({error})") from error
    if not isinstance(entries, dict):
        raise _bad(path, "corrupt header: expected a JSON object")
    try:
        json.dumps(entries, ensure_ascii=False).encode("utf-8")
    except (UnicodeEncodeError, RecursionError) as error:
        # The format's own readers take neither.
        raise _bad(path, "corrupt header: half a surrogate pair, or nesting, in it") from error
    return entries


def _metadata(path: Path, found: object) -> dict[str, str]:
    if not isinstance(found, dict) or not all(isinstance(v, str) for v in found.values()):
        raise _bad(path, "corrupt header: __metadata__ must map strings to strings")
    return found


def _tensor(path: Path, name: str, entry: object, data: int) -> Tensor:
    try:
        dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]  # type: ignore[index]
        begin, end = offsets
    except (TypeError, KeyError, ValueError) as error:
        raise _bad(
            path, f"corrupt header: {name} needs dtype, shape and two data_offsets"
        ) from error
    if not isinstance(dtype, str) or dtype not in DTYPE_BITS:
        raise CheckpointError(
            f"{path}: {name} has the unknown dtype {shown(dtype)}; convert it first"
        )
    if not isinstance(shape, list) or len(shape) > _MOST_DIMENSIONS:
        raise _bad(
            path, f"corrupt header: {name} needs a shape, of at most {_MOST_DIMENSIONS} axes"
        )
    numbers = [begin, end, *shape]
    if not all(type(n) is int and 0 <= n <= _LARGEST_NUMBER for n in numbers):
        raise _bad(
            path, f"corrupt header: {name} has a shape or offset that is no whole number of 64 bits"
        )
    bits = math.prod(shape) * DTYPE_BITS[dtype]
    if (end - begin) * 8 != bits:
        raise _bad(
            path,
            f"corrupt header: {name} of shape {shape} in {dtype} takes {_bytes(bits)} bytes, "
            f"and its offsets span {end - begin}",
        )
    return Tensor(name, dtype, tuple(shape), data + begin, data + end)


def _bytes(bits: int) -> str:
    return f"{bits / 8:g}" if bits < 1 << 64 else shown(bits // 8)


def _check_offsets(path: Path, tensors: list[Tensor], data: int, size: int) -> None:
    reached = data
    for tensor in tensors:
        if tensor.end > size:
            raise _bad(
                path,
                f"truncated, or offsets out of bounds: {tensor.name} ends at byte {tensor.end}, "
                f"found {size} bytes",
            )
        if tensor.begin < reached:
            raise _bad(path, f"corrupt header: {tensor.name} overlaps the tensor before it")
        if tensor.begin > reached:
            raise _bad(
                path,
                f"corrupt header: a gap of {tensor.begin - reached} bytes before {tensor.name}",
            )
        reached = tensor.end
    if reached != size:
        raise _bad(path, f"corrupt header: {size - reached} bytes belong to no tensor")


@dataclass(frozen=True)
class Parts:
    """Which bytes of a tensor are wanted, where that is not all of them.

    Attributes:
        rows: How many rows it has in its source, one after the other from `begin`.
        stride: Bytes of a row there.
        ranges: The bytes wanted of each row, first and one past the last, from the row's start.
    """

    rows: int
    stride: int
    ranges: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Piece:
    """A tensor to be written: where its bytes are, and what it will be called.

    Attributes:
        name: In the new file.
        source: The file that holds the bytes now.
        tensor: Its entry there; with `parts`, of the size that it will have.
        parts: The bytes to take, where not all are wanted.
        data: New bytes in place of those, if it has any.
    """

    name: str
    source: Path
    tensor: Tensor
    parts: Parts | None = None
    data: bytes | None = None


def layout(
    pieces: Iterable[Piece], metadata: Mapping[str, str], block: int = 8
) -> tuple[list[Piece], bytes]:
    """The order in which a file holds its tensors, and the bytes before them.

    The widest dtypes come first, as every writer of the format has it, so that each tensor stays
    aligned to its own width; otherwise the given order stands, so that neighbours in a source
    remain neighbours.

    Args:
        pieces: Tensors of one file.
        metadata: Written as `__metadata__` where not empty.
        block: Bytes of a file system's block. The header is padded such that as many bytes as
            can be stand at the same place of a block as in their source.

    Returns:
        The pieces in order, and the length field and header, padded to 8 bytes.
    """
    ordered = sorted(pieces, key=lambda piece: -DTYPE_BITS[piece.tensor.dtype])
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    at = 0
    places: Counter[int] = Counter()
    for piece in ordered:
        tensor = piece.tensor
        places[(tensor.begin - at) % block] += tensor.nbytes if piece.data is None else 0
        header[piece.name] = {
            "dtype": tensor.dtype,
            "shape": list(tensor.shape),
            "data_offsets": [at, at + tensor.nbytes],
        }
        at += tensor.nbytes
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False)
    raw = text.encode("utf-8", "backslashreplace")
    raw += b" " * (-len(raw) % 8)
    # Tensors must stay aligned whatever their source did.
    place = next((place for place, _ in places.most_common() if place % 8 == 0), 0)
    raw += b" " * ((place - 8 - len(raw)) % block)
    return ordered, len(raw).to_bytes(8, "little") + raw
