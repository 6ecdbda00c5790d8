"""Telling checkpoints apart in milliseconds: a hash of what they say and of samples of their bytes.

Losses are remembered by the model they were measured on, so two models must never share a
fingerprint by accident, and a copied or touched model must keep its own. Hashing every byte of a
large model takes minutes; the config, the headers, the sizes, and samples from every file and
every tensor take milliseconds and differ between any two models that were trained apart. Times
and paths do not enter.

Whether a pruned checkpoint still holds the bytes of its original, read off both in chunks.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import BinaryIO

from depthprune.checkpoints.byte_copy import read_parts
from depthprune.checkpoints.checkpoint import Checkpoint
from depthprune.checkpoints.gguf.file import GgufTensor
from depthprune.checkpoints.safetensors import Piece, Tensor
from depthprune.checkpoints.shards import plan_shards
from depthprune.errors import CheckpointError
from depthprune.untrusted import open_file

_HEAD = 64 << 10
_SAMPLE = 4 << 10
_SAMPLES = 16
_TENSOR_SAMPLE = 64


def fingerprint(checkpoint: Checkpoint) -> str:
    """Fingerprint a checkpoint: config, headers, sizes and samples of the weights.

    Args:
        checkpoint: An open checkpoint with safetensors weights.

    Returns:
        SHA-256 in hex.

    Raises:
        CheckpointError: If the weights are pickled, or a file cannot be read.
    """
    if not checkpoint.shards:
        raise CheckpointError(f"{checkpoint.folder}: pickled weights have no fingerprint")
    digest = hashlib.sha256(b"depthprune-checkpoint-1\n")
    digest.update(json.dumps(checkpoint.config, sort_keys=True).encode())
    for shard in checkpoint.shards:
        _add_file(digest, shard.path, _tensor_samples(shard.tensors))
    return digest.hexdigest()


def fingerprint_file(path: Path, tensors: Sequence[Tensor | GgufTensor] = ()) -> str:
    """Fingerprint a model that is one file, such as a GGUF: its size and samples of its bytes.

    Args:
        path: The file.
        tensors: Where its tensors lie: each is sampled, and what precedes them is read whole.

    Returns:
        SHA-256 in hex.

    Raises:
        CheckpointError: If the file cannot be read.
    """
    digest = hashlib.sha256(b"depthprune-file-1\n")
    header = min((tensor.begin for tensor in tensors), default=0)
    _add_file(digest, path, [(0, header), *_tensor_samples(tensors)])
    return digest.hexdigest()


def _tensor_samples(tensors: Iterable[Tensor | GgufTensor]) -> Iterable[tuple[int, int]]:
    """One range from each tensor: by its middle, where a trained tensor is least likely blank."""
    for tensor in tensors:
        middle = (tensor.begin + tensor.end) // 2
        yield middle, min(_TENSOR_SAMPLE, tensor.end - middle)


def _add_file(digest: hashlib._Hash, path: Path, ranges: Iterable[tuple[int, int]]) -> None:
    try:
        with open_file(path) as file:
            size = file.seek(0, 2)
            digest.update(f"file {size}\n".encode())
            # Seeded by the size, so that the same bytes are always read at the same places.
            places = random.Random(size)
            spread = [(places.randrange(max(1, size)), _SAMPLE) for _ in range(_SAMPLES)]
            for begin, length in [(0, _HEAD), *spread, *ranges]:
                digest.update(_read(file, begin, length))
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from error


def _read(file: BinaryIO, begin: int, length: int) -> bytes:
    file.seek(begin)
    return file.read(length)


_CHUNK = 16 << 20


def first_difference(
    pruned: Checkpoint, original: Checkpoint, removed: Sequence[int], prefix: str
) -> str | None:
    """The first tensor, by the pruned checkpoint's name, that is not what surgery would write.

    Args:
        pruned: A checkpoint without some blocks.
        original: The one that it was cut from.
        removed: The blocks that it lacks, original numbers.
        prefix: What the names of the blocks' tensors begin with.

    Raises:
        CheckpointError: If a file cannot be read.
    """
    kept = tuple(block for block in range(original.blocks) if block not in set(removed))
    meant = {piece.name: piece for piece in plan_shards(original, prefix, kept).pieces}
    ours = {t.name: (shard.path, t) for shard in pruned.shards for t in shard.tensors}
    for name, piece in meant.items():
        if name not in ours or not _same(piece, *ours[name]):
            return name
    return min(ours.keys() - meant.keys(), default=None)


def _same(piece: Piece, path: Path, tensor: Tensor) -> bool:
    if (tensor.dtype, tensor.shape) != (piece.tensor.dtype, piece.tensor.shape):
        return False
    try:
        with open_file(piece.source) as one, open_file(path) as two:
            two.seek(tensor.begin)
            if piece.parts is not None:
                wanted = read_parts(one, piece.tensor.begin, piece.parts)
                return all(part == two.read(len(part)) for part in wanted)
            one.seek(piece.tensor.begin)
            left = tensor.nbytes
            while left:
                size = min(left, _CHUNK)
                if one.read(size) != two.read(size):
                    return False
                left -= size
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from error
    return True
