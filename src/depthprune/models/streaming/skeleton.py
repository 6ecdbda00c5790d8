"""A model without its weights, and filling it: all but the blocks at once, the blocks by a stream.

Every parameter is on the meta device and takes no memory; buffers that no checkpoint holds (rotary
frequencies) are computed as the model's own code computes them. Dtype, attention and the modules
that stay in float32 are what `from_pretrained` would choose, so that a filled skeleton computes
the same bits as the model loaded whole. What differs between releases of transformers is here.

The tensors of the files must make those of the model, by name and shape, as transformers itself
renames and joins them (see `conversion`). Whether the result is what `from_pretrained` gives is
proved when a model is loaded (see `proof`).
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from depthprune.checkpoints.checkpoint import Checkpoint
from depthprune.checkpoints.safetensors import Tensor as Stored
from depthprune.errors import ModelError, first_line
from depthprune.models.auto_class import automatic_class, read_config
from depthprune.models.source import ModelSource
from depthprune.models.streaming.conversion import converts, sources_of
from depthprune.models.streaming.proof import initialise
from depthprune.models.streaming.reader import TensorReader
from depthprune.models.streaming.slots import STORED_DTYPES, Slot
from depthprune.models.streaming.stream import Stream


def build_skeleton(source: ModelSource, dtype: torch.dtype) -> nn.Module:
    """The transformers model of a source, in evaluation mode, its parameters on the meta device.

    Args:
        source: A checkpoint.
        dtype: What it is to compute in.
    """
    from transformers import GenerationConfig

    folder = str(source.folder)
    trust: dict[str, Any] = {"trust_remote_code": source.trust_remote_code}
    config = read_config(source.folder, **trust)
    with _parameters_on_meta():
        module: Any = automatic_class(config).from_config(config, dtype=dtype, **trust)
    _keep_in_float32(module, dtype)
    if module.can_generate() and (source.folder / "generation_config.json").is_file():
        module.generation_config = GenerationConfig.from_pretrained(folder, local_files_only=True)
    return module.eval()  # type: ignore[no-any-return]


@contextmanager
def _parameters_on_meta() -> Iterator[None]:
    """Inside the context, a parameter that a module registers is emptied at once.

    The device context of torch would empty the buffers too, and no file holds those.
    """
    register = nn.Module.register_parameter

    def register_empty(self: nn.Module, name: str, param: nn.Parameter | None) -> None:
        register(self, name, param)
        if param is not None and not param.is_meta:
            self._parameters[name] = nn.Parameter(param.detach().to("meta"), param.requires_grad)

    nn.Module.register_parameter = register_empty  # type: ignore[method-assign]
    try:
        yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]


def _keep_in_float32(module: Any, dtype: torch.dtype) -> None:
    """Widen the tensors that the model's type keeps in float32, as `from_pretrained` does."""
    kept: list[str] = []
    if dtype == torch.float16:
        kept += module._keep_in_fp32_modules or ()
    if dtype in (torch.float16, torch.bfloat16):
        kept += module._keep_in_fp32_modules_strict or ()
    if not kept:
        return
    wide = re.compile("|".join(rf"(?:^|\.){re.escape(name)}(?:$|\.)" for name in kept))
    for name, tensor in module.state_dict().items():
        if wide.search(name) and tensor.is_floating_point():
            parent, _, attribute = name.rpartition(".")
            owner = module.get_submodule(parent)
            if attribute in owner._parameters:
                owner._parameters[attribute] = nn.Parameter(tensor.detach().float())
            else:
                owner._buffers[attribute] = tensor.float()


@dataclass(frozen=True)
class Streamed:
    """A filled skeleton.

    Attributes:
        stream: Its blocks.
        outside: What filled the tensors outside of them.
        missing: Names of the model that no file has a tensor for.
        unexpected: Tensors of the files that the model has no name for.
    """

    stream: Stream
    outside: tuple[Slot, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]


def check_streamable(source: ModelSource) -> Checkpoint:
    """The checkpoint of a source whose blocks may be read one by one.

    Raises:
        ModelError: If it is a GGUF, pickled or quantised.
    """
    if source.gguf is not None:
        raise _refusal(source.name, "a GGUF file's weights are packed")
    if source.checkpoint is None:
        raise _refusal(source.name, "its weights are pickled")
    sections = (source.checkpoint.config, source.checkpoint.text_config)
    if any(section.get("quantization_config") for section in sections):
        raise _refusal(source.name, "its weights are quantised")
    return source.checkpoint


def stream_into(
    name: str, module: nn.Module, checkpoint: Checkpoint, device: torch.device
) -> Streamed:
    """Fill a skeleton's tensors outside the blocks, and have the blocks fill themselves.

    Args:
        name: The model, for messages.
        module: As `build_skeleton` gave it.
        checkpoint: Its weights.
        device: Where it computes.

    Raises:
        ModelError: If the files' tensors are not those of the model.
    """
    slots, absent, unexpected = _match(name, module, checkpoint)
    path = _path_of(module, checkpoint, slots.values())
    inside: list[list[Slot]] = [[] for _ in _list_of(name, module, path)]
    outside: list[Slot] = []
    for target, slot in slots.items():
        number = target.removeprefix(f"{path}.").partition(".")[0]
        (inside[int(number)] if target.startswith(f"{path}.") else outside).append(slot)
    reader = TensorReader()
    held = [slot.room(device) for slot in outside]
    read = reader.read(outside, held)
    for slot, tensor in zip(outside, held, strict=True):
        slot.fill(tensor)
    if converts():
        initialise(module, {slot.owner for slot in outside})
    _tie(module, absent)
    stream = Stream(path, list(_list_of(name, module, path)), inside, reader, device, read)
    for owner in module.modules():
        for key, buffer in owner._buffers.items():
            if buffer is not None and not buffer.is_meta:
                owner._buffers[key] = buffer.to(device)
    known = module.state_dict()
    missing = sorted(n for n in absent if known[n].is_meta or _is_own_buffer(module, n))
    if missing and unexpected:
        raise _refusal(name, f"its files call {unexpected[0]} what the model may call {missing[0]}")
    return Streamed(stream, tuple(outside), tuple(missing), tuple(unexpected))


def _refusal(name: str, why: str) -> ModelError:
    return ModelError(f"{name}: {why}, so it cannot be streamed; load it whole without --stream")


def _list_of(name: str, module: nn.Module, path: str) -> nn.ModuleList:
    found: nn.Module | None
    try:
        found = module.get_submodule(path)
    except AttributeError:
        found = None
    if not isinstance(found, nn.ModuleList):
        raise _refusal(name, f"its files hold the blocks as {path}.*, which the model has no")
    return found


def _path_of(module: nn.Module, checkpoint: Checkpoint, slots: Iterable[Slot]) -> str:
    """The dotted name of the model's list of blocks, which the files may call otherwise."""
    prefix = checkpoint.block_prefix
    inside = [slot.name for slot in slots if slot.stored[0].name.startswith(prefix)]
    lists: list[str] = [
        path
        for path, child in module.named_modules()
        if isinstance(child, nn.ModuleList) and len(child) == checkpoint.blocks
    ]
    found = [path for path in lists if any(each.startswith(f"{path}.") for each in inside)]
    if not found:
        return prefix.rstrip(".")
    return max(found, key=lambda path: sum(each.startswith(f"{path}.") for each in inside))


def _match(
    name: str, module: nn.Module, checkpoint: Checkpoint
) -> tuple[dict[str, Slot], set[str], list[str]]:
    """The module's stored tensors by name, those that are not stored, and those only stored."""
    files = {tensor.name: shard.path for shard in checkpoint.shards for tensor in shard.tensors}
    known = module.state_dict()
    found = sources_of(module, checkpoint.tensors)
    slots: dict[str, Slot] = {}

    def add(target: str, stored: tuple[Stored, ...], shape: Sequence[int], join: Any) -> None:
        empty = known[target]
        if tuple(shape) != tuple(empty.shape):
            raise _refusal(
                name,
                f"{target} has the shape {tuple(shape)} in the files and {tuple(empty.shape)} "
                "in the model",
            )
        parent, _, attribute = target.rpartition(".")
        owner = module.get_submodule(parent)
        paths = tuple(files[each.name] for each in stored)
        slots[target] = Slot(owner, attribute, target, paths, stored, join)

    for each in checkpoint.tensors.values():
        if each.dtype not in STORED_DTYPES and each.name not in found.unused:
            raise _refusal(name, f"{each.name} is stored as {each.dtype}")
    for target, stored in found.single.items():
        add(target, (stored,), stored.shape, None)
    for join in found.joins:
        try:
            shapes = join.shapes(known[join.first].dtype)
            for target, shape in shapes.items():
                add(target, join.sources, shape, join)
        except (RuntimeError, ValueError, TypeError, LookupError, AttributeError) as error:
            raise _refusal(
                name,
                f"transformers cannot convert {join.sources[0].name} ({first_line(error)})",
            ) from error
    return slots, known.keys() - slots.keys(), sorted(found.unused)


def _is_own_buffer(module: nn.Module, name: str) -> bool:
    """Whether a name is a buffer that should have been stored."""
    parent, _, attribute = name.rpartition(".")
    return attribute in module.get_submodule(parent)._buffers and not _may_be_absent(module, name)


def _tie(module: Any, absent: set[str]) -> None:
    """Let tied parameters share one tensor, as loading does.

    Args:
        module: A module whose stored tensors are filled, the blocks' aside.
        absent: Names of the module that the checkpoint has no tensor for.
    """
    if "missing_keys" in inspect.signature(module.tie_weights).parameters:
        module.tie_weights(missing_keys=set(absent), recompute_mapping=False)
    else:
        module.tie_weights()


def _may_be_absent(module: Any, name: str) -> bool:
    """Whether the model's type says that a checkpoint need not hold this tensor."""
    patterns = getattr(module, "_keys_to_ignore_on_load_missing", None) or ()
    return any(re.search(pattern, name) for pattern in patterns)
