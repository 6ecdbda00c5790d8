"""transformers' GGUF loader, with what takes it minutes done in seconds and to the same bits.

transformers reads a GGUF through the package `gguf`, three times a load. That package's reader
makes a view of the mapped file of every string and number of a vocabulary, by several calls of
Python each, and its dequantisation takes sixteen rows at a time, however short they are. Inside
`quick_gguf` the same views are made in bulk, and rows are taken by the hundred thousand weights.
Everything else (which tensor goes where, what is permuted,
what the config becomes) stays transformers' own, so every architecture that it reads is read as
before; where a later version of either package goes another way, what is replaced here is not
called.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache, partial
from typing import Any
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray

_STRING, _ARRAY = 8, 9
_WEIGHTS = 1 << 17
"""Weights in one call at which unpacking is fastest: they and their parts stay in the cache."""


@contextmanager
def quick_gguf() -> Iterator[None]:
    """Inside the context transformers reads and unpacks GGUF files faster, and draws no bar."""
    import gguf
    from transformers import modeling_gguf_pytorch_utils as loader

    replaced: dict[str, Any] = {"_gguf_parse_value": _parsed}
    # The bar of transformers' GGUF reader listens to no setting, so it is replaced.
    if hasattr(loader, "tqdm"):
        replaced["tqdm"] = partial(loader.tqdm, disable=True)
    known = {name: made for name, made in replaced.items() if hasattr(loader, name)}
    # Every submodule of a model asks anew for the same table of names.
    names = lru_cache(maxsize=8)(gguf.get_tensor_name_map)
    with (
        patch.multiple(loader, **known),
        patch.multiple(
            gguf,
            GGUFReader=_quick_reader(gguf.GGUFReader),
            dequantize=partial(dequantize, gguf.dequantize),
            get_tensor_name_map=names,
        ),
    ):
        yield


def dequantize(
    plainly: Callable[[NDArray[Any], Any], NDArray[Any]], data: NDArray[Any], kind: Any
) -> NDArray[Any]:
    """Unpack quantised rows, short ones taken together as longer ones.

    A packed block lies within a row, so rows that are joined unpack to the same weights.

    Args:
        plainly: The package `gguf`'s own function.
        data: Rows as the file has them.
        kind: The quantisation.
    """
    if data.dtype != np.uint8 or data.ndim < 2:
        return plainly(data, kind)
    rows = np.asarray(data).reshape(-1, data.shape[-1])
    first = plainly(rows[:1], kind)
    if first.ndim != 2 or first.dtype != np.float32:
        return plainly(data, kind)
    width = first.shape[1]
    together = max(1, _WEIGHTS // width)
    unpacked = np.empty((len(rows), width), np.float32)
    for begin in range(0, len(rows), together):
        joined = rows[begin : begin + together].reshape(1, -1)
        unpacked[begin : begin + together] = plainly(joined, kind).reshape(-1, width)
    return unpacked.reshape(*data.shape[:-1], width)


def _parsed(value: NDArray[Any], kinds: Any) -> Any:
    """One number or string out of its bytes, as transformers has it."""
    kind = kinds[-1] if isinstance(kinds, list) else kinds
    return bytes(value).decode() if int(kind) == _STRING else value[0].item()


def _quick_reader(plain: Any) -> Any:
    """The package `gguf`'s reader, making the views of an array's items in bulk."""

    class QuickReader(plain):  # type: ignore[misc]
        def _get_field_parts(self, begin: int, kind: int) -> Any:
            if int(kind) != _ARRAY or self.byte_order != "I" or sys.byteorder != "little":
                return super()._get_field_parts(begin, kind)
            view = np.asarray(self.data)
            item, length = view[begin : begin + 4].view("<u4"), view[begin + 4 : begin + 12]
            length = length.view("<u8")
            count, at = int(length[0]), begin + 12
            kinds = type(self)._kinds(int(kind), int(item[0]) if count else None)
            if not count:
                return 12, [item, length], [], kinds
            if int(item[0]) == _STRING:
                parts, end = _strings(view, at, count)
                data = list(range(3, 2 + len(parts), 2))
            elif (width := self.gguf_scalar_to_np.get(kinds[1])) is not None:
                numbers = view[at : at + count * np.dtype(width).itemsize].view(width)
                parts, end = list(numbers.reshape(-1, 1)), at + numbers.nbytes
                data = list(range(2, 2 + count))
            else:
                return super()._get_field_parts(begin, kind)
            return end - begin, [item, length, *parts], data, kinds

        @staticmethod
        def _kinds(*numbers: int | None) -> list[Any]:
            from gguf import GGUFValueType

            return [GGUFValueType(number) for number in numbers if number is not None]

    return QuickReader


def _strings(view: NDArray[Any], at: int, count: int) -> tuple[list[NDArray[Any]], int]:
    """The lengths and the bytes of an array's strings, in turns, and where the last one ends."""
    parts = []
    for _ in range(count):
        length = view[at : at + 8].view("<u8")
        end = at + 8 + int(length[0])
        parts += [length, view[at + 8 : end]]
        at = end
    return parts, at
