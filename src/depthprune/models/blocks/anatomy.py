"""A model's blocks, and how to call one exactly as the model itself would.

What the model passes to each block (masks, position embeddings, arguments of its layer type) is
recorded and replayed, so a rule that transformers knows and this package does not is followed all
the same. `find` makes an anatomy of a model, and `anatomy_proof` shows that its replay is exact.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from depthprune.errors import ModelError, first_line
from depthprune.models.blocks.carried import (
    Carried,
    State,
    changed,
    hidden,
)
from depthprune.models.blocks.exchange import (
    Tree,
)
from depthprune.models.blocks.head import Head
from depthprune.models.blocks.recording import Blocks, Recorder, patched
from depthprune.models.blocks.replay import Call, Inputs, hidden_of, stacked_call
from depthprune.models.blocks.stacking import (
    Stacking,
)
from depthprune.models.free_memory import out_of_memory
from depthprune.models.streaming.stream import Stream
from depthprune.models.widening import cannot_run, is_narrow


@dataclass(frozen=True)
class Proof:
    """How the replay of a model was proven, each figure relative to the scale of its values.

    Attributes:
        replay: How far the replayed logits are from the model's own, in shapes that are the same;
            0 is equal to the bit.
        widened: The same in float32 or float64, where that was not 0 and one had to decide.
        rounding: How far a block's output for states that share a call is from what it is for
            each alone, at most: what the device rounds by the number of rows.
    """

    replay: float
    widened: float | None
    rounding: float


@dataclass(frozen=True)
class Anatomy:
    """The blocks and the head of one loaded model.

    Attributes:
        module: The whole causal language model, in evaluation mode.
        blocks: The blocks, in order, and the dotted name of their list.
        head: What turns the last block's output into logits.
        stream: Where the blocks' weights come from, if they are not held.
        proof: How it was shown that calling the blocks is what the model does.
    """

    module: nn.Module
    blocks: Blocks
    head: Head
    _axes: tuple[dict[str, int], ...] = field(repr=False)
    _stacking: Stacking = field(repr=False)
    stream: Stream | None = field(default=None, repr=False)
    proof: Proof | None = None

    @property
    def device(self) -> torch.device:
        """Where token ids are put: the device of the input embeddings."""
        embeddings = self.module.get_input_embeddings()  # type: ignore[operator]
        return next(embeddings.parameters()).device  # type: ignore[no-any-return]

    def state_bytes(self, length: int) -> int:
        """Bytes of one token's state in windows of a length, where it is largest."""
        return self._stacking.state_bytes(length)

    @property
    def largest_block_bytes(self) -> int:
        """Bytes of the weights of the largest block."""
        return max(
            sum(p.numel() * p.element_size() for p in block.parameters())
            for block in self.blocks.modules
        )

    @torch.inference_mode()
    def record(self, tokens: Tensor, arguments: Mapping[str, Tensor] | None = None) -> Inputs:
        """What the model passes to each block for these tokens; no block is computed.

        Args:
            tokens: Token ids, shape (batch, length), int64, without padding.
            arguments: Further arguments of the model: an attention mask, positions.

        Returns:
            The hidden states before block 0 and every block's call.
        """
        more = {name: value.to(self.device) for name, value in (arguments or {}).items()}
        return record_inputs(self.module, self.blocks, tokens.to(self.device), more)

    def holding(self, block: int) -> AbstractContextManager[None]:
        """Inside the context the block's weights are in memory, however often it is called.

        A streamed model reads them on entering and lets them go afterwards; a call outside such
        a context reads them for itself. For a model that is loaded whole there is nothing to do.

        Args:
            block: Original block number.
        """
        return nullcontext() if self.stream is None else self.stream.holding(block)

    @torch.inference_mode()
    def call(self, block: int, state: State, inputs: Inputs) -> State:
        """Run one block.

        Args:
            block: Original block number.
            state: A state of the recorded batch, or several of them stacked: hidden states of
                shape (n × batch, length, width), one after the other, and what is carried with
                them.
            inputs: What `record` gave for that batch.

        Returns:
            The state behind the block, of the same shape, on the block's device.

        Raises:
            MissingError: If the block reads what a block that was passed over would have written.
            ModelError: If it cannot be run in its dtype of few bits.
        """
        try:
            return self.with_gradient(block, state, inputs)
        except RuntimeError as error:
            dtype = hidden(state).dtype
            if out_of_memory(error) or not is_narrow(dtype):
                raise
            # Some types run short texts in a dtype of few bits, and no longer ones.
            raise ModelError(cannot_run(self.module, dtype, error)) from error

    @torch.inference_mode()
    def call_each(self, block: int, states: Sequence[State], inputs: Inputs) -> list[State]:
        """`call` for several states at once, if they can share one; see `call`."""
        stacked = self._stacking.stack(states) if len(states) > 1 else None
        if stacked is None:
            return [self.call(block, state, inputs) for state in states]
        return self._stacking.split(self.call(block, stacked, inputs), len(states))

    def with_gradient(self, block: int, state: State, inputs: Inputs) -> State:
        """`call` where gradients are taken: outside of inference mode, as its `inputs` must be."""
        module = self.blocks.modules[block]
        call, (args, kwargs) = self.arguments(block, state, inputs)
        if not isinstance(state, Carried):
            return self.blocks.layout.usual(hidden_of(module(*args, **kwargs)))
        try:
            output = module(*args, **kwargs)
        except (KeyError, IndexError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            lacking = self._stacking.lacking(block, state)
            if not lacking or isinstance(error, torch.OutOfMemoryError):
                raise
            raise MissingError(
                f"block {block} reads what a block before it writes, and that one is removed "
                f"({first_line(error)}); remove both or neither"
            ) from error
        exchange = self.blocks.exchange
        assert exchange is not None
        rest = exchange.take(module, call.tree, output, state.rest)
        return Carried(self.blocks.layout.usual(hidden_of(output)), rest)

    def arguments(self, block: int, state: State, inputs: Inputs) -> tuple[Call, Tree]:
        """What a block is called with for a state: the call, and all of its arguments.

        Args:
            block: Original block number.
            state: As `call` takes it.
            inputs: What `record` gave for that batch.
        """
        device = self._device_of(block)
        states = hidden(state).to(device)
        call = stacked_call(inputs, block, states, self._axes[block])
        native = self.blocks.layout.native(states)
        exchange = self.blocks.exchange
        if exchange is not None:
            if isinstance(state, Carried):
                rest = changed(state, lambda tensor: tensor.to(device)).rest
                args, kwargs = exchange.give(self.blocks.modules[block], call.tree, rest)
                call = Call(args, kwargs, call.slot)
            native = native.clone() if exchange.overwrites else native
        return call, call.on(native)

    def _device_of(self, block: int) -> torch.device:
        first = next(self.blocks.modules[block].parameters(), None)
        return self.device if first is None or first.is_meta else first.device

    @contextmanager
    def masked(self, removed: Sequence[int]) -> Iterator[nn.Module]:
        """The masked model: inside the context, removed blocks pass on what they are given.

        Only the instances' `forward` is replaced, so attributes that a model reads off its blocks
        (layer types, indices) stay what they were.
        """
        skipped = [self.blocks.modules[index] for index in removed]
        with patched(dict.fromkeys(skipped, self.blocks.pass_on)):
            yield self.module


class MissingError(ModelError):
    """A block cannot run, since one that is removed would have written what it reads."""


def record_inputs(
    module: nn.Module, blocks: Blocks, tokens: Tensor, more: Mapping[str, Tensor] | None = None
) -> Inputs:
    """What a model passes to its blocks for some tokens.

    Args:
        module: The model.
        blocks: Its blocks.
        tokens: Token ids, shape (batch, length).
        more: Further arguments of the model.
    """
    recorder = Recorder(blocks)
    with recorder.recording():
        module(input_ids=tokens, use_cache=False, **(more or {}))
    return recorder.inputs()
