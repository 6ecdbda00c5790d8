"""An order of a file's tensors in which a file system with reflinks can share most of them.

It shares whole blocks, and so what stands at the same place of a block in both files. Tensors that
fill whole blocks keep their place from one to the next, until a smaller one moves all behind it; so
where blocks of a model are gone, what follows would stand elsewhere than before. The smaller ones
are taken as steps instead: between any two of them goes what has its place there.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby

from depthprune.checkpoints.safetensors import DTYPE_BITS, Piece

BLOCK = 4096
"""Bytes that file systems with reflinks share as a whole."""


def order_to_share(pieces: Iterable[Piece]) -> list[Piece]:
    """The tensors of one file in such an order, the widest dtypes first.

    Args:
        pieces: In the order of their source.
    """

    def width(piece: Piece) -> int:
        return -DTYPE_BITS[piece.tensor.dtype]

    by_width = sorted(pieces, key=width)
    return [piece for _, alike in groupby(by_width, width) for piece in _by_place(alike)]


def _by_place(pieces: Iterable[Piece]) -> list[Piece]:
    whole: dict[int, list[Piece]] = {}
    steps = []
    for piece in pieces:
        if piece.tensor.nbytes % BLOCK:
            steps.append(piece)
        else:
            whole.setdefault(piece.tensor.begin % BLOCK, []).append(piece)
    place = next(iter(whole), 0)
    ordered = whole.pop(place, [])
    for step in steps:
        ordered.append(step)
        place = (place + step.tensor.nbytes) % BLOCK
        ordered += whole.pop(place, [])
    return ordered + [piece for rest in whole.values() for piece in rest]
