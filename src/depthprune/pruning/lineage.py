"""Where a model that is cut was itself cut from another: whose blocks are gone in all.

A cut model is often cut again, a few blocks at a time. The numbers of the second cut mean nothing
to who has the first model, so what is gone is told in that model's numbers too.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from depthprune.errors import CheckpointError
from depthprune.manifest import FirstModel, Manifest
from depthprune.outputs import OutputTarget, is_gguf
from depthprune.progress import note


def cut_from(source: Path, blocks: int, removed: Sequence[int]) -> FirstModel | None:
    """The model that a source was cut from, and which of its blocks are gone after one more cut.

    Args:
        source: A checkpoint folder or GGUF file.
        blocks: How many blocks it has.
        removed: Which of them are cut now.

    Returns:
        None where no manifest beside it tells of a cut that left so many blocks.
    """
    place = OutputTarget(source, is_file=is_gguf(source)).manifest
    if not place.is_file():
        return None
    try:
        before = Manifest.read(place)
    except CheckpointError as error:
        note(f"what {source} was cut from is not told: {error}")
        return None
    model = before.model
    first = model.cut_from or FirstModel(
        name=model.name, kind=model.kind, blocks=model.blocks, revision=model.revision,
        fingerprint=model.fingerprint, removed=before.removed,
    )  # fmt: skip
    left = [block for block in range(first.blocks) if block not in set(first.removed)]
    if len(left) != blocks:
        return None
    gone = sorted({*first.removed, *(left[block] for block in removed)})
    return first.model_copy(update={"removed": gone})
