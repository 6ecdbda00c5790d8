"""Whether a pruned checkpoint still holds the bytes of its original, read off both in chunks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from depthprune.errors import CheckpointError
from depthprune.models.checkpoint import Checkpoint, split_name
from depthprune.models.safetensors_file import Tensor

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
    kept = [block for block in range(original.blocks) if block not in set(removed)]
    number = {block: new for new, block in enumerate(kept)}
    theirs = _places(original)
    ours = _places(pruned)
    unknown = set(ours)
    for name, (path, tensor) in theirs.items():
        parts = split_name(name)
        new: str | None = name
        if parts is not None and parts[0] == prefix:
            new = f"{prefix}{number[parts[1]]}{parts[2]}" if parts[1] in number else None
        if new is None:
            continue
        if not (new in ours and _same(path, tensor, *ours[new])):
            return new
        unknown.discard(new)
    return min(unknown, default=None)


def _places(checkpoint: Checkpoint) -> dict[str, tuple[Path, Tensor]]:
    return {t.name: (shard.path, t) for shard in checkpoint.shards for t in shard.tensors}


def _same(path: Path, tensor: Tensor, other_path: Path, other: Tensor) -> bool:
    if (tensor.dtype, tensor.shape) != (other.dtype, other.shape):
        return False
    try:
        with open(path, "rb") as one, open(other_path, "rb") as two:
            one.seek(tensor.begin)
            two.seek(other.begin)
            left = tensor.nbytes
            while left:
                size = min(left, _CHUNK)
                if one.read(size) != two.read(size):
                    return False
                left -= size
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from error
    return True
