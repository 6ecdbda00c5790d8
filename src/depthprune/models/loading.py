"""Loading a model to be searched: `dp.load`.

A model larger than memory is streamed (see `streaming`), one larger than a device is laid on
several by accelerate.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from depthprune.checkpoints.gguf.reader import read_gguf
from depthprune.checkpoints.purpose import require_language_model
from depthprune.checkpoints.refusals import Refusal, checkpoint_refusal, config_refusal
from depthprune.models.blocks.anatomy import Anatomy
from depthprune.models.blocks.find import find_anatomy
from depthprune.models.devices import (
    DTYPES,
    DeviceMap,
    check_placement,
    choose_device,
    first_device,
)
from depthprune.models.dtype_choice import choose_dtype
from depthprune.models.gguf.written_dtype import written_dtype
from depthprune.models.positions import learns_positions
from depthprune.models.pretrained import load_module, load_streamed, numberless, unexpected_keys
from depthprune.models.source import ModelSource, find_model
from depthprune.models.streaming.skeleton import check_streamable
from depthprune.models.streaming.stream import Stream


@dataclass(frozen=True)
class Model:
    """A loaded causal language model whose blocks can be called one by one.

    It is watched and changed in place while it is measured, so it is one thread's at a time.

    Attributes:
        source: Where it came from.
        module: The model from transformers, in evaluation mode.
        tokenizer: Its tokenizer.
        anatomy: Its blocks and head.
        dtype: Name of the dtype it computes in.
        device: Where it computes.
        unexpected: Keys in its files that it has no place for, as `numberless` writes them.
        dtype_reason: What was measured to choose the dtype, if the user did not.
        fingerprint: Of the weights, as they were when they were loaded, whatever its files hold
            since; None for pickled weights, or where it was not loaded from files.
        mended: Weights that it has for now in the place of its own, inside `dp.recovered`.
    """

    source: ModelSource
    module: nn.Module
    tokenizer: Any
    anatomy: Anatomy
    dtype: str
    device: str
    unexpected: frozenset[str] = frozenset()
    dtype_reason: str | None = None
    fingerprint: str | None = None
    mended: list[Mapping[str, Tensor]] = field(default_factory=list, repr=False, compare=False)

    def __repr__(self) -> str:
        return f"Model({self.source.name!r}, {self.blocks} blocks, {self.dtype} on {self.device})"

    def __getstate__(self) -> dict[str, Any]:
        # A function that was made here cannot be sent to another process; it is made there anew.
        return {name: value for name, value in vars(self).items() if name != "refusal"}

    @property
    def streamed(self) -> bool:
        """Whether its blocks are read from disk whenever they run."""
        return self.anatomy.stream is not None

    @property
    def blocks(self) -> int:
        """Number of blocks."""
        return len(self.anatomy.blocks)

    @property
    def stream(self) -> Stream | None:
        """Where the blocks' weights come from, if they are not held."""
        return self.anatomy.stream

    @cached_property
    def refusal(self) -> Refusal:
        """Says of a sorted removed set why a checkpoint without it cannot be written, or None."""
        if self.source.checkpoint is not None:
            return checkpoint_refusal(self.source.checkpoint)
        module: Any = self.module
        return config_refusal(module.config.to_dict())

    @cached_property
    def learns_positions(self) -> bool:
        """Whether it has a table of positions, past whose end it reads nothing at all."""
        return learns_positions(self.module)

    @cached_property
    def written_dtype(self) -> str:
        """Name of the dtype of a checkpoint made of it, where its files are none to be cut."""
        if self.source.gguf is None:
            return self.dtype
        written = written_dtype(read_gguf(self.source.gguf), DTYPES[self.dtype])
        return str(written).removeprefix("torch.")

    @property
    def parameters(self) -> int:
        """Number of parameters, tied ones counted once."""
        return sum(p.numel() for p in self.module.parameters())


def load(
    name: str | Path | ModelSource,
    *,
    dtype: str = "auto",
    device: str = "auto",
    revision: str | None = None,
    trust_remote_code: bool = False,
    allow_pickle: bool = False,
    tokenizer: Any = None,
    stream: bool = False,
    device_map: DeviceMap | None = None,
) -> Model:
    """Load a model.

    Args:
        name: A folder, a hub id, a `.gguf` file, `demo`, or what `find_model` found.
        dtype: `auto`, `float32`, `bfloat16` or `float16`.
        device: `auto` (CUDA, else MPS, else the processor) or a torch device.
        revision: Branch, tag or commit, for a hub id.
        trust_remote_code: Let the model's own Python code run.
        allow_pickle: Accept pickled weights where there are no safetensors.
        tokenizer: A tokenizer already read, to save reading it again.
        stream: Do not hold the blocks; read each from the files when it is about to run.
        device_map: Lay the blocks on several devices, as transformers takes it: `auto`,
            `balanced`, or modules by name; needs accelerate.

    Raises:
        ModelError: If the model cannot be loaded whole, or its blocks cannot be found.
        UsageError: If `dtype`, `device` or `device_map` is unknown, or they exclude each other.
    """
    check_placement(device_map, device, stream)
    source = (
        name
        if isinstance(name, ModelSource)
        else find_model(
            name,
            revision=revision,
            trust_remote_code=trust_remote_code,
            allow_pickle=allow_pickle,
        )
    )
    require_language_model(source.name, source.checkpoint)
    place = choose_device(first_device(device_map) or device)
    choice = choose_dtype(dtype, source, place, held=not stream and device_map is None)
    kind = choice.name
    weights = source.fingerprint()
    if stream:
        check_streamable(source)
    tokenizer = tokenizer if tokenizer is not None else source.tokenizer()
    if stream:
        module, filled = load_streamed(source, DTYPES[kind], place)
        anatomy = find_anatomy(module, filled.stream)
        unexpected = frozenset(map(numberless, filled.unexpected))
    else:
        module = load_module(source, DTYPES[kind], place, device_map)
        anatomy = find_anatomy(module)
        unexpected = unexpected_keys(module)
    return Model(
        source, module, tokenizer, anatomy, kind, str(anatomy.device), unexpected, choice.why,
        weights,
    )  # fmt: skip
