"""Cutting a loaded model into what `-o` names: a checkpoint folder, or a GGUF.

Both are staged, so that the caller can reload the result, judge it and put its report beside it
before anything is published. A GGUF is cut from a GGUF alone: nothing here quantises.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TypeAlias

from depthprune.claims import Claim
from depthprune.errors import UsageError
from depthprune.models.checkpoint import Checkpoint
from depthprune.models.gguf_reader import read_gguf
from depthprune.models.gguf_rules import check_searchable
from depthprune.models.gguf_surgery import cut_gguf, write_gguf
from depthprune.models.loading import Model
from depthprune.models.materialize import dense_checkpoint
from depthprune.models.source import ModelSource
from depthprune.models.surgery import Surgery, write_pruned
from depthprune.outputs import is_file_output
from depthprune.progress import SILENT, Progress

Replace: TypeAlias = Callable[[Checkpoint, str | None], Mapping[str, bytes]]


def check_pruned_output(source: ModelSource, out: Path, left: int | None) -> None:
    """Refuse, before a search, an output that this model cannot be written to.

    Args:
        source: The original.
        out: What `-o` names.
        left: How many blocks will be left, where that is known.

    Raises:
        ModelError: If llama.cpp would misread what a search removes.
        UsageError: If the output is a GGUF and the model none, or is the model itself.
    """
    if not is_file_output(out):
        return
    if source.gguf is None:
        raise UsageError(
            f"-o {out}: a GGUF is written from a GGUF, and {source.name} is none; give a folder, "
            "and convert the result with llama.cpp"
        )
    if out.exists() and out.samefile(source.gguf):
        raise UsageError(f"-o {out}: is the model itself; choose another name")
    check_searchable(read_gguf(source.gguf), left)


@contextmanager
def pruned_output(
    model: Model,
    removed: Sequence[int],
    claim: Claim,
    *,
    dense: Checkpoint | None = None,
    replace: Replace | None = None,
    progress: Progress = SILENT,
) -> Iterator[tuple[Path, Surgery]]:
    """Cut a loaded model, published when the block ends without an exception.

    Args:
        model: The loaded original.
        removed: Original block numbers.
        claim: The output, taken for this process.
        dense: The original's checkpoint, where it is at hand; made and dropped otherwise.
        replace: Told the dense checkpoint and what the names of its blocks' tensors begin with
            (None where the checkpoint says it itself), gives new bytes of some tensors; of a
            folder only.
        progress: Where the work shows itself.

    Yields:
        The staged folder or GGUF, and what was cut.

    Raises:
        DepthpruneError: If the model cannot be cut or the output not written.
    """
    if is_file_output(claim.out) and model.source.gguf is not None:
        cut = cut_gguf(read_gguf(model.source.gguf), removed)
        yield claim.place, write_gguf(cut, claim.place, progress)
    else:
        made = dense_checkpoint(model, claim.out, progress=progress)
        with nullcontext(dense) if dense else made as whole:
            prefix = block_prefix(model)
            data = replace(whole, prefix) if replace is not None else None
            surgery = write_pruned(
                whole, removed, claim.place, block_prefix=prefix, replace=data, progress=progress
            )
            yield claim.place, surgery
    claim.publish()


def block_prefix(model: Model) -> str | None:
    """What the names of the blocks' tensors begin with; None where the checkpoint says it itself.

    Args:
        model: The loaded original, which names them in a copy of its weights.
    """
    return None if model.source.checkpoint else f"{model.anatomy.blocks.path}."
