"""The dtype that an unpacked GGUF becomes a checkpoint in.

A folder has its dtype on disk, whatever it is computed in. A GGUF of packed weights has none, and
float32 would make a checkpoint of twice the usual size wherever a processor computes in it. So its
weights are rounded to bfloat16, the usual one, when they are unpacked into float32: what is written
then holds what was measured to the bit, and is the same on a machine that computes in bfloat16.
Weights stored as float16 or float32 keep that.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from depthprune.checkpoints.gguf.file import GgufFile, commonest_dtype
from depthprune.checkpoints.gguf.reader import read_gguf

_KEPT = {"F16": torch.float16, "F32": torch.float32, "F64": torch.float32}


def written_dtype(file: GgufFile, computed: torch.dtype) -> torch.dtype:
    """What the checkpoint's weights are written in.

    Args:
        file: The GGUF's header.
        computed: What the model computes in.
    """
    if computed != torch.float32:
        return computed
    return _KEPT.get(commonest_dtype(file.tensors), torch.bfloat16)


def round_weights(module: nn.Module, path: Path, computed: torch.dtype) -> None:
    """Round weights to what they will be written in; they stay in what the model computes in.

    Args:
        module: As it was unpacked.
        path: The GGUF.
        computed: What the model computes in.
    """
    dtype = written_dtype(read_gguf(path), computed)
    if dtype != computed:
        for parameter in module.parameters():
            parameter.data.copy_(parameter.data.to(dtype))


@contextmanager
def as_written(module: nn.Module, computed: torch.dtype, dtype: torch.dtype) -> Iterator[None]:
    """Inside the context the weights are held in the dtype that they are written in.

    Args:
        module: Whose weights.
        computed: What it computes in; where that is what is written, all stay as they are.
        dtype: What they are written in.
    """
    own = [(each, each.data) for each in module.parameters() if computed != dtype]
    try:
        for parameter, data in own:
            parameter.data = data.to(dtype)
        yield
    finally:
        for parameter, data in own:
            parameter.data = data
