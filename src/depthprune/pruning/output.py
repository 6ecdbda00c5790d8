"""Cutting a loaded model into what `-o` names: a checkpoint folder, or a GGUF.

Both are staged, so that the caller can reload the result, judge it and put its report beside it
before anything is published. A GGUF is cut from a GGUF alone: nothing here quantises.

Surgery copies byte ranges of safetensors files. A GGUF or pickled weights have none, so the loaded
model is saved beside the output and removed after the cut.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, TypeAlias

from depthprune.checkpoints.checkpoint import Checkpoint, open_checkpoint
from depthprune.checkpoints.gguf.reader import read_gguf
from depthprune.checkpoints.gguf.rules import check_searchable
from depthprune.checkpoints.gguf.surgery import cut_gguf, write_gguf
from depthprune.checkpoints.surgery import Surgery, write_pruned
from depthprune.claims import DENSE, Claim
from depthprune.errors import UsageError
from depthprune.models.completed import completed
from depthprune.models.devices import DTYPES
from depthprune.models.gguf.written_dtype import as_written
from depthprune.models.loading import Model
from depthprune.models.pretrained import quiet_transformers
from depthprune.models.source import ModelSource
from depthprune.outputs import OutputTarget, check_space, disk_errors
from depthprune.progress import SILENT, Progress
from depthprune.staging import hidden_folder

Replace: TypeAlias = Callable[[Checkpoint, str | None], Mapping[str, bytes]]


def check_pruned_output(
    source: ModelSource, out: OutputTarget, left: int | None, *, link: bool = False
) -> None:
    """Refuse, before a search, an output that this model cannot be written to.

    Args:
        source: The original.
        out: What `-o` names.
        left: How many blocks will be left, where that is known.
        link: Whether files are to be shared with the original.

    Raises:
        ModelError: If llama.cpp would misread what a search removes.
        UsageError: If the output is a GGUF and the model none, or is the model itself, or the
            model has no files to share.
    """
    if link and (out.is_file or source.checkpoint is None):
        raise UsageError(
            f"--link: shares the safetensors of a folder with another folder, and {source.name} "
            f"is written to {out} anew; leave it out"
        )
    if not out.is_file:
        return
    if source.gguf is None:
        raise UsageError(
            f"-o {out}: a GGUF is written from a GGUF, and {source.name} is none; give a folder, "
            "or convert the whole model with llama.cpp first"
        )
    if out.is_same(source.gguf):
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
    link: bool = False,
    progress: Progress = SILENT,
) -> Iterator[tuple[Path, Surgery]]:
    """Cut a loaded model, published when the block ends without an exception.

    Args:
        model: The loaded original.
        removed: Original block numbers.
        claim: The output, taken for this process.
        dense: The original's checkpoint, where it is at hand; made and dropped otherwise.
        replace: Given the dense checkpoint and what the names of its blocks' tensors begin with
            (None where the checkpoint says it itself), returns new bytes of some tensors; of a
            folder only.
        link: Share what does not change with the original's folder.
        progress: Where the work shows itself.

    Yields:
        The staged folder or GGUF, and what was cut.

    Raises:
        DepthpruneError: If the model cannot be cut or the output not written.
    """
    if claim.target.is_file and model.source.gguf is not None:
        cut = cut_gguf(read_gguf(model.source.gguf), removed)
        yield claim.place, write_gguf(cut, claim.place, progress)
    else:
        made = dense_checkpoint(model, claim.target.path, progress=progress)
        with nullcontext(dense) if dense else made as whole:
            prefix = block_prefix(model)
            data = replace(whole, prefix) if replace is not None else None
            surgery = write_pruned(
                whole,
                removed,
                claim.place,
                block_prefix=prefix,
                link=link,
                replace=data,
                progress=progress,
            )
            yield claim.place, surgery
    claim.publish()


def block_prefix(model: Model) -> str | None:
    """What the names of the blocks' tensors begin with; None where the checkpoint says it itself.

    Args:
        model: The loaded original, which names them in a copy of its weights.
    """
    return None if model.source.checkpoint else f"{model.anatomy.blocks.path}."


@contextmanager
def dense_checkpoint(
    model: Model, beside: Path, *, progress: Progress = SILENT
) -> Iterator[Checkpoint]:
    """The dense model's safetensors checkpoint.

    Args:
        model: The loaded original.
        beside: The output folder: a copy, if one is needed, is made on its disk.
        progress: Where the work shows itself.

    Yields:
        A checkpoint; a copy is gone after the context.

    Raises:
        OutputError: If there is no room for a copy, or the disk fills while it is written.
    """
    module: Any = model.module
    if model.source.checkpoint is not None:
        yield completed(model.source.checkpoint, module.config)
        return
    computed, written = DTYPES[model.dtype], DTYPES[model.written_dtype]
    check_space(beside, model.parameters * written.itemsize)
    parent = beside.absolute().parent
    parent.mkdir(parents=True, exist_ok=True)
    with hidden_folder(parent, beside.name, DENSE) as folder:
        step = progress.step("writing the dense weights", None, "")
        with disk_errors(beside), step, quiet_transformers():
            with as_written(module, computed, written):
                module.save_pretrained(folder)
            model.tokenizer.save_pretrained(folder)
        yield open_checkpoint(folder)
