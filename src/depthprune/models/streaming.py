"""Models larger than memory: a block's weights are read when it is about to run, then let go.

Everything but the blocks is held. A block is filled for as long as someone holds it (`holding`),
so whoever walks many states through a block reads it once for all of them; a forward pass that
nobody prepared (the model's own, masked or generating) reads each block for its own call. The
bytes go straight from the file into one buffer that all blocks share: a mapping of the file would
take no copy, but its pages may be dropped and read again while the block is in use, and no one
could say how many bytes were read. Meanwhile the system is asked to fetch the next block, which
costs no memory of this process.

The tensors of the files must be those of the model, by name and shape. What transformers would
convert while loading is refused, never guessed.
"""

from __future__ import annotations

import functools
import os
import types
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from depthprune.errors import CheckpointError, ModelError
from depthprune.models.checkpoint import Checkpoint
from depthprune.models.safetensors_file import Tensor as Stored
from depthprune.models.skeleton import first_converted, may_be_absent, tie
from depthprune.models.source import ModelSource

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_ALIGNMENT = 64
"""Bytes; what torch aligns its own tensors to, so that products run the same code on these."""


@dataclass(frozen=True)
class Slot:
    """A tensor of a module, and the bytes of a file that fill it.

    Attributes:
        owner: The module that holds the tensor itself.
        attribute: Its name there.
        file: The weight file.
        stored: Its entry in the file's header.
    """

    owner: nn.Module
    attribute: str
    file: Path
    stored: Stored

    @property
    def content(self) -> torch.Tensor:
        """What is there now."""
        return self._table[self.attribute]  # type: ignore[no-any-return]

    @property
    def _table(self) -> dict[str, Any]:
        is_parameter = self.attribute in self.owner._parameters
        return self.owner._parameters if is_parameter else self.owner._buffers

    def fill(self, tensor: torch.Tensor) -> None:
        """Put a tensor in place of the one there, as a parameter where that is one."""
        wrap = self._table is self.owner._parameters and not isinstance(tensor, nn.Parameter)
        content = nn.Parameter(tensor, requires_grad=False) if wrap else tensor
        self._table[self.attribute] = content


class Reader:
    """Reads stored tensors into given ones, and counts the bytes."""

    def __init__(self) -> None:
        self.bytes_read = 0
        self._scratch = torch.empty(0, dtype=torch.uint8)

    def read(self, slots: Sequence[Slot], tensors: Sequence[torch.Tensor]) -> None:
        """Fill each tensor with a slot's bytes, converted to its dtype and moved to its device.

        Raises:
            CheckpointError: If a file cannot be read, or has become shorter.
        """
        order = sorted(
            zip(slots, tensors, strict=True), key=lambda pair: (pair[0].file, pair[0].stored.begin)
        )
        place = 0
        while place < len(order):
            path = order[place][0].file
            try:
                with open(path, "rb", buffering=0) as file:
                    while place < len(order) and order[place][0].file == path:
                        self._read(file, *order[place])
                        place += 1
            except OSError as error:
                raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from error

    def _read(self, file: Any, slot: Slot, tensor: torch.Tensor) -> None:
        stored, dtype = slot.stored, _DTYPES[slot.stored.dtype]
        direct = tensor.dtype == dtype and tensor.device.type == "cpu"
        if direct:
            raw = tensor.flatten().view(torch.uint8)
        else:
            if len(self._scratch) < stored.nbytes:
                pinned = tensor.device.type == "cuda"
                self._scratch = torch.empty(stored.nbytes, dtype=torch.uint8, pin_memory=pinned)
            raw = self._scratch[: stored.nbytes]
        view = memoryview(raw.numpy())  # type: ignore[arg-type]
        file.seek(stored.begin)
        while view:
            count = file.readinto(view)
            if not count:
                raise CheckpointError(
                    f"{slot.file}: ended within {stored.name}; it changed since it was opened"
                )
            view = view[count:]
        if not direct:
            tensor.copy_(raw.view(dtype).view(stored.shape))
        self.bytes_read += stored.nbytes


class Stream:
    """The blocks of one model, each there only while it is held.

    Attributes:
        path: Dotted name of the list that holds them.
    """

    def __init__(
        self,
        path: str,
        blocks: Sequence[nn.Module],
        slots: Sequence[Sequence[Slot]],
        reader: Reader,
        device: torch.device,
    ) -> None:
        self.path = path
        self._slots = slots
        self._reader = reader
        self._device = device
        self._spare: torch.Tensor | None = None
        self._present: set[int] = set()
        for slot in (slot for each in slots for slot in each):
            slot.fill(slot.content.detach().to("meta"))
        for index, block in enumerate(blocks):
            self._load_around(index, block)

    @property
    def bytes_read(self) -> int:
        """Bytes read from the weight files so far, those outside the blocks included."""
        return self._reader.bytes_read

    @property
    def bytes_a_pass(self) -> int:
        """Bytes of all blocks in the files: what one pass over them reads."""
        return sum(slot.stored.nbytes for each in self._slots for slot in each)

    @contextmanager
    def holding(self, block: int) -> Iterator[None]:
        """Inside the context the block's weights are present; they are read on entering.

        Contexts of one block may be nested; the outermost reads and releases.

        Args:
            block: Original block number.

        Raises:
            CheckpointError: If the file cannot be read, or has become shorter.
        """
        if block in self._present:
            yield
            return
        slots = self._slots[block]
        empty = [slot.content for slot in slots]
        # Whether gradients are recorded, and how, is the business of the pass, not of the weights.
        with torch.inference_mode(False), torch.no_grad():
            buffer, tensors = self._lay_out(empty)
            self._reader.read(slots, tensors)
            for slot, tensor in zip(slots, tensors, strict=True):
                slot.fill(tensor)
        self._present.add(block)
        if block + 1 < len(self._slots):
            _ask_for(self._slots[block + 1])
        try:
            yield
        finally:
            self._present.discard(block)
            for slot, before in zip(slots, empty, strict=True):
                slot.fill(before)
            self._spare = buffer

    def _lay_out(self, like: Sequence[torch.Tensor]) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """A buffer on the device, and tensors inside it of the shapes and dtypes of `like`."""
        sizes = [tensor.numel() * tensor.element_size() for tensor in like]
        padded = [-(-size // _ALIGNMENT) * _ALIGNMENT for size in sizes]
        buffer, self._spare = self._spare, None
        if buffer is None or len(buffer) < sum(padded):
            buffer = None  # let go before the larger one is taken
            buffer = torch.empty(sum(padded), dtype=torch.uint8, device=self._device)
        tensors, begin = [], 0
        for tensor, size, step in zip(like, sizes, padded, strict=True):
            part = buffer[begin : begin + size]
            tensors.append(part.view(tensor.dtype).view(tensor.shape))
            begin += step
        return buffer, tensors

    def _load_around(self, index: int, block: nn.Module) -> None:
        """Make the block's own `forward` hold it.

        A hook would not do: hooks run around a replaced `forward` too, and a block that is
        skipped or recorded needs no weights.
        """
        original = block.forward

        @functools.wraps(original)
        def forward(_: nn.Module, *args: Any, **kwargs: Any) -> Any:
            with self.holding(index):
                return original(*args, **kwargs)

        block.forward = types.MethodType(forward, block)


def _ask_for(slots: Sequence[Slot]) -> None:
    """Have the system read these bytes ahead, where it takes such advice."""
    if not hasattr(os, "posix_fadvise"):
        return
    for path in {slot.file for slot in slots}:
        ranges = [slot.stored for slot in slots if slot.file == path]
        try:
            handle = os.open(path, os.O_RDONLY)
        except OSError:
            return  # the read itself will say so
        try:
            for stored in ranges:
                os.posix_fadvise(handle, stored.begin, stored.nbytes, os.POSIX_FADV_WILLNEED)
        finally:
            os.close(handle)


@dataclass(frozen=True)
class Streamed:
    """A filled skeleton.

    Attributes:
        stream: Its blocks.
        missing: Names of the model that no file has a tensor for.
        unexpected: Tensors of the files that the model has no name for.
    """

    stream: Stream
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
    slots, absent = _match(name, module, checkpoint)
    path = checkpoint.block_prefix.rstrip(".")
    inside: list[list[Slot]] = [[] for _ in _list_of(name, module, path)]
    outside: list[Slot] = []
    for target, slot in slots.items():
        number = target.removeprefix(f"{path}.").partition(".")[0]
        (inside[int(number)] if target.startswith(f"{path}.") else outside).append(slot)
    reader = Reader()
    held = [torch.empty(s.content.shape, dtype=s.content.dtype, device=device) for s in outside]
    reader.read(outside, held)
    for slot, tensor in zip(outside, held, strict=True):
        slot.fill(tensor)
    tie(module, absent)
    stream = Stream(path, list(_list_of(name, module, path)), inside, reader, device)
    for owner in module.modules():
        for key, buffer in owner._buffers.items():
            if buffer is not None and not buffer.is_meta:
                owner._buffers[key] = buffer.to(device)
    known = module.state_dict()
    missing = sorted(n for n in absent if known[n].is_meta or _is_own_buffer(module, n))
    unexpected = sorted(checkpoint.tensors.keys() - slots.keys())
    if missing and unexpected:
        raise _refusal(name, f"its files call {unexpected[0]} what the model may call {missing[0]}")
    return Streamed(stream, tuple(missing), tuple(unexpected))


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


def _match(
    name: str, module: nn.Module, checkpoint: Checkpoint
) -> tuple[dict[str, Slot], set[str]]:
    """The module's stored tensors by name, and the names for which there is none."""
    converted = first_converted(module, checkpoint)
    if converted is not None:
        raise _refusal(name, f"transformers converts {converted} as it loads it")
    files = {tensor.name: shard.path for shard in checkpoint.shards for tensor in shard.tensors}
    slots: dict[str, Slot] = {}
    absent: set[str] = set()
    for target, empty in module.state_dict().items():
        stored = checkpoint.tensors.get(target)
        if stored is None:
            absent.add(target)
            continue
        if stored.shape != tuple(empty.shape):
            raise _refusal(
                name,
                f"{target} has the shape {stored.shape} in the files and {tuple(empty.shape)} "
                "in the model",
            )
        if stored.dtype not in _DTYPES:
            raise _refusal(name, f"{target} is stored as {stored.dtype}")
        parent, _, attribute = target.rpartition(".")
        slots[target] = Slot(module.get_submodule(parent), attribute, files[target], stored)
    return slots, absent


def _is_own_buffer(module: nn.Module, name: str) -> bool:
    """Whether a name is a buffer that should have been stored."""
    parent, _, attribute = name.rpartition(".")
    return attribute in module.get_submodule(parent)._buffers and not may_be_absent(module, name)
