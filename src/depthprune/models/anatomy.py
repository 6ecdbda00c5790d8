"""Where a model's blocks are, and how to call one exactly as the model itself would.

No architecture is named here. One real forward pass on a few tokens shows which `ModuleList` is
run member by member, each reading what the last one wrote: those are the blocks. What the model
passes to each of them (masks, position embeddings, arguments of its layer type) is recorded and
replayed, so a rule that transformers knows and this package does not is followed all the same.
Before an anatomy is handed out, the replay is compared with the model's own forward on those
tokens, dense and with a block skipped, and several states in one call with each alone; a model
whose blocks exchange more than hidden states is refused here, and never measured wrongly later.
What does not agree to the bit is decided in float32 (see `widening`), and the rounding is kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from depthprune.errors import ModelError, first_line
from depthprune.models.head import Head, find_head
from depthprune.models.probe_tokens import probe_tokens
from depthprune.models.replay import (
    Blocks,
    Inputs,
    Recorder,
    batch_axes,
    hidden_of,
    patched,
    relative_difference,
    stack_call,
)
from depthprune.models.stacking_proof import StackingProof
from depthprune.models.streaming import Stream
from depthprune.models.widening import FLOAT32_LIMIT, widened

_PROBE_LENGTH = 16


@dataclass(frozen=True)
class Proof:
    """How the replay of a model was proven, each figure relative to the scale of its values.

    Attributes:
        replay: How far the replayed logits are from the model's own, in shapes that are the same;
            0 is equal to the bit.
        widened: The same in float32, where that was not 0 and had to decide.
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
    stream: Stream | None = field(default=None, repr=False)
    proof: Proof | None = None

    @property
    def device(self) -> torch.device:
        """Where token ids are put: the device of the input embeddings."""
        embeddings = self.module.get_input_embeddings()  # type: ignore[operator]
        return next(embeddings.parameters()).device  # type: ignore[no-any-return]

    @property
    def state_bytes(self) -> int:
        """Bytes of one token's hidden state."""
        weight = next(self.module.get_input_embeddings().parameters())  # type: ignore[operator]
        return int(weight.shape[-1] * weight.element_size())

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
            arguments: What the model is told besides: an attention mask, positions.

        Returns:
            The hidden states before block 0 and every block's call.
        """
        more = {name: value.to(self.device) for name, value in (arguments or {}).items()}
        return _record(self.module, self.blocks, tokens.to(self.device), more)

    def holding(self, block: int) -> AbstractContextManager[None]:
        """Inside the context the block's weights are in memory, however often it is called.

        A streamed model reads them on entering and lets them go afterwards; a call outside such
        a context reads them for itself. For a model that is loaded whole there is nothing to do.

        Args:
            block: Original block number.
        """
        return nullcontext() if self.stream is None else self.stream.holding(block)

    @torch.inference_mode()
    def call(self, block: int, states: Tensor, inputs: Inputs) -> Tensor:
        """Run one block.

        Args:
            block: Original block number.
            states: Hidden states, shape (n × batch, length, width): n states of the recorded
                batch, one after the other.
            inputs: What `record` gave for that batch.

        Returns:
            The block's output, of the same shape, on the block's device.
        """
        return self.with_gradient(block, states, inputs)

    def with_gradient(self, block: int, states: Tensor, inputs: Inputs) -> Tensor:
        """`call` where gradients are taken: outside of inference mode, as its `inputs` must be."""
        states = states.to(self._device_of(block))
        args, kwargs = stack_call(inputs, block, states, self._axes[block])
        return hidden_of(self.blocks.modules[block](*args, **kwargs))

    def _device_of(self, block: int) -> torch.device:
        first = next(self.blocks.modules[block].parameters(), None)
        return self.device if first is None or first.is_meta else first.device

    @contextmanager
    def masked(self, removed: Sequence[int]) -> Iterator[nn.Module]:
        """The masked model: inside the context, removed blocks hand on what they are given.

        Only the instances' `forward` is replaced, so attributes that a model reads off its blocks
        (layer types, indices) stay what they were.
        """
        skipped = [self.blocks.modules[index] for index in removed]
        with patched(dict.fromkeys(skipped, self.blocks.pass_on)):
            yield self.module


@torch.inference_mode()
def find_anatomy(module: nn.Module, stream: Stream | None = None) -> Anatomy:
    """Find a causal language model's blocks and head, and prove that replaying them is exact.

    Every block is run in two passes over the model, whatever is proved in them.

    Args:
        module: A model from transformers, in evaluation mode.
        stream: Where its blocks' weights come from, if they are not held.

    Raises:
        ModelError: If there is no list of blocks, or calling them one by one does not give what
            the model gives.
    """
    try:
        return _find(module, stream)
    except (
        RuntimeError,
        TypeError,
        ValueError,
        KeyError,
        IndexError,
        AttributeError,
    ) as error:
        raise ModelError(
            f"{type(module).__name__}: cannot be called block by block ({first_line(error)}); it "
            "cannot be searched with this version of transformers"
        ) from error


def _find(module: nn.Module, stream: Stream | None) -> Anatomy:
    tokens = _probe(module, batch=2)
    reference, last, blocks = _find_blocks(module, tokens)
    if stream is not None and stream.path != blocks.path:
        raise ModelError(
            f"{type(module).__name__}: its files hold the blocks as {stream.path}, and it runs "
            f"{blocks.path}, so it cannot be streamed; load it whole without --stream"
        )
    inputs = _record(module, blocks, tokens)
    wider = _record(module, blocks, _probe(module, batch=3))
    axes = tuple(batch_axes(a, b) for a, b in zip(inputs.calls, wider.calls, strict=True))
    head = find_head(module, blocks, last, reference)
    anatomy = Anatomy(module, blocks, head, axes, stream)
    return replace(anatomy, proof=_prove(anatomy, tokens, inputs, reference))


def _probe(module: nn.Module, batch: int) -> Tensor:
    device = next(module.get_input_embeddings().parameters()).device  # type: ignore[operator]
    return probe_tokens(module, (batch, _PROBE_LENGTH), seed=batch, first=3).to(device)


def _candidates(module: nn.Module) -> list[tuple[str, nn.ModuleList]]:
    return [
        (name, child)
        for name, child in module.named_modules()
        if isinstance(child, nn.ModuleList) and len(child) >= 2
    ]


def _find_blocks(module: nn.Module, tokens: Tensor) -> tuple[Tensor, Tensor, Blocks]:
    """The model's logits, the output of its last block, and its blocks."""
    order: dict[nn.Module, list[int]] = {}
    lengths: dict[nn.Module, int] = {}
    outputs: dict[nn.Module, Tensor] = {}
    clock = iter(range(1 << 30))

    def note(member: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        order.setdefault(member, []).append(next(clock))
        states = [v for v in (*args, *kwargs.values()) if _is_states(v, tokens)]
        with suppress(TypeError, IndexError, KeyError):
            if states and hidden_of(output).shape == states[0].shape:
                lengths[member] = 0 if isinstance(output, Tensor) else len(output)
                if member in ends:
                    outputs[member] = hidden_of(output)

    lists = _candidates(module)
    members = {member for _, group in lists for member in group}
    ends = {group[-1] for _, group in lists}
    handles = [m.register_forward_hook(note, with_kwargs=True) for m in members]
    try:
        reference = module(input_ids=tokens, use_cache=False).logits
    finally:
        for handle in handles:
            handle.remove()

    def runs(group: nn.ModuleList) -> bool:
        times = [order.get(member, []) for member in group]
        once = all(len(t) == 1 and m in lengths for t, m in zip(times, group, strict=True))
        return once and times == sorted(times)

    found = [(name, group) for name, group in lists if runs(group)]
    outer = [
        (name, group)
        for name, group in found
        if not any(name.startswith(other + ".") for other, _ in found if other != name)
    ]
    if not outer:
        raise ModelError(
            f"{type(module).__name__}: found no list of blocks (a ModuleList run member by member "
            "on hidden states); this model cannot be depth-pruned"
        )
    path, group = max(outer, key=lambda item: sum(p.numel() for p in item[1].parameters()))
    blocks = Blocks(path, tuple(group), {member: lengths[member] for member in group})
    return reference, outputs[group[-1]], blocks


def _is_states(value: Any, tokens: Tensor) -> bool:
    return (
        isinstance(value, Tensor)
        and value.is_floating_point()
        and value.dim() in (3, 4)
        and value.shape[:2] == tokens.shape
    )


def _record(
    module: nn.Module, blocks: Blocks, tokens: Tensor, more: Mapping[str, Tensor] | None = None
) -> Inputs:
    recorder = Recorder(blocks)
    with recorder.recording():
        module(input_ids=tokens, use_cache=False, **(more or {}))
    return recorder.inputs()


def _prove(anatomy: Anatomy, tokens: Tensor, inputs: Inputs, reference: Tensor) -> Proof:
    """Compare the replay with the model's own forward, dense, skipped, and stacked."""
    stacking = StackingProof(anatomy)
    found = _apart(anatomy, tokens, inputs, reference, stacking)
    wide = None
    if any(found.values()):
        with widened(anatomy.module, anatomy.blocks.modules):
            own = anatomy.module(input_ids=tokens, use_cache=False).logits
            again = _record(anatomy.module, anatomy.blocks, tokens)
            wide = _apart(anatomy, tokens, again, own, stacking)
        for what, difference in wide.items():
            if not difference <= FLOAT32_LIMIT:
                raise ModelError(
                    f"{type(anatomy.module).__name__}: replaying {anatomy.blocks.path} block by "
                    f"block differs from {what} by {difference:.1e} of the logits' scale in "
                    f"float32 (limit {FLOAT32_LIMIT:.0e}); its blocks exchange more than hidden "
                    "states, so it cannot be searched"
                )
    return Proof(
        replay=max(found.values()),
        widened=None if wide is None else max(wide.values()),
        rounding=stacking.rounding,
    )


def _apart(
    anatomy: Anatomy, tokens: Tensor, inputs: Inputs, reference: Tensor, stacking: StackingProof
) -> dict[str, float]:
    """How far the replay is from the model itself, dense and skipped, in shapes that are equal."""
    skip = len(anatomy.blocks) // 2
    masked, states, skipped = _replay_beside(anatomy, tokens, inputs, skip, stacking)
    return {
        "the dense model": relative_difference(anatomy.head(states), reference),
        f"the model without block {skip}": relative_difference(anatomy.head(skipped), masked),
    }


def _replay_beside(
    anatomy: Anatomy, tokens: Tensor, inputs: Inputs, skip: int, stacking: StackingProof
) -> tuple[Tensor, Tensor, Tensor]:
    """Run the model without a block, and replay each block as the model comes to it.

    So a streamed model reads its blocks once for all that is proven of them.

    Returns:
        The model's own logits without the block, and the replayed states behind the last block,
        dense and without the block.
    """
    blocks = anatomy.blocks
    own = {block: block.forward for block in blocks.modules}
    numbers = {block: index for index, block in enumerate(blocks.modules)}
    reached: set[int] = set()
    states, skipped = inputs.states, inputs.states

    def run(block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        nonlocal states, skipped
        index = numbers[block]
        if index in reached:  # the replay below, calling the block in its turn
            return own[block](*args, **kwargs)
        reached.add(index)
        with anatomy.holding(index):
            behind = stacking.call_each(index, [states, skipped], inputs)
            if index == skip:
                states = behind[0]
                return blocks.pass_on(block, args, kwargs)
            states, skipped = behind
            return own[block](*args, **kwargs)

    with patched(dict.fromkeys(blocks.modules, run)):
        masked = anatomy.module(input_ids=tokens, use_cache=False).logits
    return masked, states, skipped
