"""What an output takes on disk at least, by the original's headers before any work is done.

A search takes hours, and a disk that is too small is known before it. The figure is what the output
cannot be below, so that nothing is refused that would have fit: the largest blocks are taken to go.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from depthprune.checkpoints.checkpoint import Checkpoint, split_name
from depthprune.checkpoints.gguf.file import GgufFile
from depthprune.checkpoints.gguf.reader import read_gguf
from depthprune.models.source import ModelSource
from depthprune.outputs import OutputTarget, check_space

_BESIDE = 1 << 20
"""Manifest, page, tokenizer and headers."""
_NARROWEST = 2
"""Bytes a parameter of a GGUF that is written as a folder."""


def require_space(
    source: ModelSource, out: OutputTarget, left: int | None, *, link: bool = False
) -> None:
    """Refuse an output for which the disk has no room.

    Args:
        source: The original.
        out: What `-o` names.
        left: How many blocks will be left; None where a search decides it.
        link: Whether files are shared with the original: what is shared takes no room, and how
            much that is the file system decides as it is written.

    Raises:
        OutputError: Saying how much it takes and how much there is.
    """
    check_space(out.path, _BESIDE if link else least_bytes(source, out, left))


def least_bytes(source: ModelSource, out: OutputTarget, left: int | None) -> int:
    """What an output takes at least; arguments as of `require_space`."""
    kept = 1 if left is None else left
    if source.checkpoint is not None:
        return _BESIDE + _of_checkpoint(source.checkpoint, kept)
    if source.gguf is None:
        return _BESIDE  # pickled, whose headers say nothing
    file = read_gguf(source.gguf)
    if out.is_file:
        return _BESIDE + _of_gguf(file, kept)
    whole = sum(math.prod(tensor.shape) for tensor in file.tensors) * _NARROWEST
    # The dense weights stand beside the cut while it is written.
    return _BESIDE + whole + whole * _of_gguf(file, kept) // max(1, _of_gguf(file, None))


def _of_checkpoint(checkpoint: Checkpoint, kept: int) -> int:
    prefix = checkpoint.block_prefix
    found = []
    for name, tensor in checkpoint.tensors.items():
        parts = split_name(name)
        inside = parts is not None and parts[0] == prefix
        found.append((parts[1] if parts is not None and inside else None, tensor.nbytes))
    return _least(found, kept)


def _of_gguf(file: GgufFile, kept: int | None) -> int:
    found = []
    for tensor in file.tensors:
        parts = split_name(tensor.name)
        inside = parts is not None and parts[0] == "blk."
        number = parts[1] if parts is not None and inside else None
        found.append((number, tensor.end - tensor.begin))
    return _least(found, kept)


def _least(tensors: Iterable[tuple[int | None, int]], kept: int | None) -> int:
    """All that stands outside the blocks, and the smallest of them."""
    outside, blocks = 0, dict[int, int]()
    for number, size in tensors:
        if number is None:
            outside += size
        else:
            blocks[number] = blocks.get(number, 0) + size
    return outside + sum(sorted(blocks.values())[:kept])
