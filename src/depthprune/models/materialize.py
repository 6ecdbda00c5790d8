"""A checkpoint of the dense model, for surgery to cut: its own files, or a copy written once.

Surgery copies byte ranges of safetensors files. A GGUF or pickled weights have none, so the loaded
model is saved beside the output, in the dtype it was measured in, and removed after the cut.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from depthprune.claims import DENSE
from depthprune.models.checkpoint import Checkpoint, open_checkpoint
from depthprune.models.completed import completed
from depthprune.models.loading import Model, quiet_transformers
from depthprune.outputs import check_space
from depthprune.progress import SILENT, Progress
from depthprune.staging import hidden_folder


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
        OutputError: If there is no room for a copy.
    """
    module: Any = model.module
    if model.source.checkpoint is not None:
        yield completed(model.source.checkpoint, module.config)
        return
    check_space(beside, sum(p.numel() * p.element_size() for p in module.parameters()))
    parent = beside.absolute().parent
    parent.mkdir(parents=True, exist_ok=True)
    with hidden_folder(parent, beside.name, DENSE) as folder:
        with progress.step("writing the dense weights", None, ""), quiet_transformers():
            module.save_pretrained(folder)
            model.tokenizer.save_pretrained(folder)
        yield open_checkpoint(folder)
