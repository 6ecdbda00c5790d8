"""Models larger than memory: a block's weights are read when it is about to run, then let go.

Everything but the blocks is held. A block is filled for as long as someone holds it (`holding`),
so whoever walks many states through a block reads it once for all of them; a forward pass that
nobody prepared (the model's own, masked or generating) reads each block for its own call. The
bytes go straight from the file into one buffer that all blocks share: a mapping of the file would
take no copy, but its pages may be dropped and read again while the block is in use, and no one
could say how many bytes were read. Meanwhile the next block is read in the background into a second
buffer, where memory holds one (see `ahead`); the bytes are the same, and so is what is counted.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from depthprune.errors import ModelError
from depthprune.models.free_memory import available_memory
from depthprune.models.streaming.ahead import ReadAhead
from depthprune.models.streaming.reader import TensorReader
from depthprune.models.streaming.slots import ALIGNMENT, Slot, read_for


@dataclass(frozen=True)
class _Read:
    """A block that was read: the buffer, inside it a tensor for each slot, and the bytes read."""

    buffer: torch.Tensor
    tensors: Sequence[torch.Tensor]
    nbytes: int


class Stream:
    """The blocks of one model, each there only while it is held.

    Attributes:
        path: Dotted name of the list that holds them.
        slots: For each block, what fills its tensors.
        bytes_read: Bytes of the weight files that were used so far: of each block as often as it
            was held, and of what stands outside the blocks.
        bytes_unused: Bytes of blocks that were read ahead, and then not held next.
    """

    def __init__(
        self,
        path: str,
        blocks: Sequence[nn.Module],
        slots: Sequence[Sequence[Slot]],
        reader: TensorReader,
        device: torch.device,
        bytes_read: int = 0,
    ) -> None:
        self.path = path
        self.slots = slots
        self.bytes_read = bytes_read
        self.bytes_unused = 0
        self._reader = reader
        self._device = device
        self._spare: list[torch.Tensor] = []
        self._ahead: ReadAhead[_Read] | None = ReadAhead(len(slots), self._drop)
        self._present: set[int] = set()
        self._replaced: dict[tuple[nn.Module, str], torch.Tensor] = {}
        for slot in (slot for each in slots for slot in each):
            slot.fill(slot.content.detach().to("meta"))
        for index, block in enumerate(blocks):
            self._load_around(index, block)

    @property
    def bytes_a_pass(self) -> int:
        """Bytes of all blocks in the files: what one pass over them reads."""
        return sum(stored.nbytes for each in self.slots for _, stored in read_for(each))

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
        slots = self.slots[block]
        empty = [slot.content for slot in slots]
        read = self._take(block)
        # Whether gradients are recorded, and how, is the business of the pass, not of the weights.
        with torch.inference_mode(False), torch.no_grad():
            for slot, tensor in zip(slots, read.tensors, strict=True):
                replaced = self._replaced.get((slot.owner, slot.attribute))
                if replaced is not None:
                    tensor.copy_(replaced)
                slot.fill(tensor)
        self._present.add(block)
        self._read_after(block)
        try:
            yield
        finally:
            self._present.discard(block)
            for slot, before in zip(slots, empty, strict=True):
                slot.fill(before)
            self._keep(read.buffer)

    def use_one_buffer(self) -> None:
        """Read no more ahead, and give back the memory that it took."""
        if self._ahead is not None:
            self._ahead.abandon()
            self._ahead = None
        self._spare.clear()

    def _take(self, block: int) -> _Read:
        """A block's weights, read ahead or now."""
        read = None if self._ahead is None else self._ahead.take(block)
        if read is None:
            read = self._reading(block, self._buffer_for(block))()
        self.bytes_read += read.nbytes
        return read

    def _read_after(self, block: int) -> None:
        """Begin to read what is likely to be held next, if there is memory for it."""
        following = None if self._ahead is None else self._ahead.next_after(block)
        if self._ahead is None or following is None or following in self._present:
            return
        needed = self._room_of(following)
        if not self._spare and available_memory(self._device) < needed:
            return
        self._ahead.begin(following, self._reading(following, self._buffer_for(following)))

    def _reading(self, block: int, buffer: torch.Tensor) -> Callable[[], _Read]:
        """What reads a block into a buffer, in whatever thread."""
        slots = self.slots[block]
        on_gpu = self._device.type == "cuda"
        # Behind what the device was given so far, whichever thread reads.
        queue = torch.cuda.current_stream(self._device) if on_gpu else None

        def read() -> _Read:
            # Even without a queue torch's own context asks for the current device, which MPS lacks.
            behind = nullcontext() if queue is None else torch.cuda.stream(queue)
            with behind, torch.inference_mode(False), torch.no_grad():
                tensors = self._laid_out(slots, buffer)
                return _Read(buffer, tensors, self._reader.read(slots, tensors))

        return read

    def _drop(self, read: _Read) -> None:
        self.bytes_unused += read.nbytes
        self._keep(read.buffer)

    def _keep(self, buffer: torch.Tensor) -> None:
        """Keep a buffer for the next block: one, or two where blocks are read ahead."""
        if len(self._spare) < (1 if self._ahead is None else 2):
            self._spare.append(buffer)

    @contextmanager
    def replacing(self, module: nn.Module, weights: Mapping[str, torch.Tensor]) -> Iterator[None]:
        """Inside the context, some parameters of the blocks are filled with other values.

        Entered and left while no block is held; contexts of different parameters may be nested.

        Args:
            module: The model whose blocks these are.
            weights: New values by dotted name in it, of the same shapes; they are kept as they
                are given and converted whenever their block is read.

        Raises:
            ValueError: If a block is held, or a name is of no stored parameter of a block.
        """
        if self._present:
            raise ValueError("weights are replaced before their block is held")
        known = {(slot.owner, slot.attribute) for each in self.slots for slot in each}
        new = {}
        for name, value in weights.items():
            parent, _, attribute = name.rpartition(".")
            key = (module.get_submodule(parent), attribute)
            if key not in known:
                raise ValueError(f"{name} is not among the streamed blocks' parameters")
            new[key] = value
        before = self._replaced
        self._replaced = {**before, **new}
        try:
            yield
        finally:
            self._replaced = before

    def _room_of(self, block: int) -> int:
        return sum(slot.nbytes + 2 * ALIGNMENT for slot in self.slots[block])

    def _buffer_for(self, block: int) -> torch.Tensor:
        """Memory on the device for a block."""
        needed = self._room_of(block)
        while self._spare:
            buffer = self._spare.pop()
            if len(buffer) >= needed:
                return buffer
            del buffer  # let go before the larger one is taken
        with torch.inference_mode(False):
            return torch.empty(needed, dtype=torch.uint8, device=self._device)

    def _laid_out(self, slots: Sequence[Slot], buffer: torch.Tensor) -> list[torch.Tensor]:
        """A tensor for each slot, inside a buffer."""
        tensors, free = [], 0
        for slot in slots:
            begin = free + slot.shift(self._device)
            tensors.append(slot.view_of(buffer[begin : begin + slot.nbytes]))
            free = -(-(begin + slot.nbytes) // ALIGNMENT) * ALIGNMENT
        return tensors

    def _load_around(self, index: int, block: nn.Module) -> None:
        """Make the block's own `forward` hold it.

        A hook would not do: hooks run around a replaced `forward` too, and a block that is
        skipped or recorded needs no weights.
        """
        original = block.forward

        @functools.wraps(original)
        def forward(_: nn.Module, *args: Any, **kwargs: Any) -> Any:
            if torch.is_grad_enabled():
                raise ModelError(
                    "a streamed model keeps no weights to compute gradients with; run it inside "
                    "torch.inference_mode()"
                )
            with self.holding(index):
                return original(*args, **kwargs)

        forward.holding = functools.partial(self.holding, index)  # type: ignore[attr-defined]
        block.forward = types.MethodType(forward, block)
