"""Where a model's blocks are, and how to call one exactly as the model itself would.

No architecture is named here. One real forward pass on a few tokens shows which `ModuleList` is
run member by member, each reading what the last one wrote: those are the blocks. What the model
passes to each of them (masks, position embeddings, arguments of its layer type) is recorded and
replayed, so a rule that transformers knows and this package does not is followed all the same.
Before an anatomy is handed out, the replay is compared with the model's own forward on those
tokens, dense and with a block skipped; a model whose blocks exchange more than hidden states is
refused here, and never measured wrongly later.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from depthprune.errors import ModelError, first_line
from depthprune.models.head import Head, find_head
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

_PROBE_LENGTH = 16
_TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-9}
_LOW_PRECISION_TOLERANCE = 2e-2


@dataclass(frozen=True)
class Anatomy:
    """The blocks and the head of one loaded model.

    Attributes:
        module: The whole causal language model, in evaluation mode.
        blocks: The blocks, in order, and the dotted name of their list.
        head: What turns the last block's output into logits.
    """

    module: nn.Module
    blocks: Blocks
    head: Head
    _axes: tuple[dict[str, int], ...] = field(repr=False)

    @property
    def device(self) -> torch.device:
        """Where token ids are put: the device of the input embeddings."""
        embeddings = self.module.get_input_embeddings()  # type: ignore[operator]
        return next(embeddings.parameters()).device  # type: ignore[no-any-return]

    @torch.inference_mode()
    def record(self, tokens: Tensor) -> Inputs:
        """What the model passes to each block for these tokens; no block is computed.

        Args:
            tokens: Token ids, shape (batch, length), int64, without padding.

        Returns:
            The hidden states before block 0 and every block's call.
        """
        return _record(self.module, self.blocks, tokens.to(self.device))

    @torch.inference_mode()
    def call(self, block: int, states: Tensor, inputs: Inputs) -> Tensor:
        """Run one block.

        Args:
            block: Original block number.
            states: Hidden states, shape (n × batch, length, width): n states of the recorded
                batch, one after the other.
            inputs: What `record` gave for that batch.

        Returns:
            The block's output, of the same shape.
        """
        args, kwargs = stack_call(inputs, block, states, self._axes[block])
        return hidden_of(self.blocks.modules[block](*args, **kwargs))

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
def find_anatomy(module: nn.Module) -> Anatomy:
    """Find a causal language model's blocks and head, and prove that replaying them is exact.

    Args:
        module: A model from transformers, in evaluation mode.

    Raises:
        ModelError: If there is no list of blocks, or calling them one by one does not give what
            the model gives.
    """
    try:
        return _find(module)
    except (RuntimeError, TypeError, ValueError, KeyError, IndexError) as error:
        raise ModelError(
            f"{type(module).__name__}: cannot be called block by block ({first_line(error)}); it "
            "cannot be searched with this version of transformers"
        ) from error


def _find(module: nn.Module) -> Anatomy:
    tokens = _probe(module, batch=2)
    reference, blocks = _find_blocks(module, tokens)
    inputs = _record(module, blocks, tokens)
    wider = _record(module, blocks, _probe(module, batch=3))
    axes = tuple(batch_axes(a, b) for a, b in zip(inputs.calls, wider.calls, strict=True))
    head = find_head(module, blocks, tokens, reference)
    anatomy = Anatomy(module, blocks, head, axes)
    _prove(anatomy, tokens, inputs, reference)
    return anatomy


def _probe(module: nn.Module, batch: int) -> Tensor:
    vocabulary = module.get_input_embeddings().weight.shape[0]  # type: ignore[operator]
    device = next(module.get_input_embeddings().parameters()).device  # type: ignore[operator]
    generator = torch.Generator().manual_seed(batch)
    ids = torch.randint(3, max(4, vocabulary), (batch, _PROBE_LENGTH), generator=generator)
    return ids.to(device)


def _candidates(module: nn.Module) -> list[tuple[str, nn.ModuleList]]:
    return [
        (name, child)
        for name, child in module.named_modules()
        if isinstance(child, nn.ModuleList) and len(child) >= 2
    ]


def _find_blocks(module: nn.Module, tokens: Tensor) -> tuple[Tensor, Blocks]:
    order: dict[nn.Module, list[int]] = {}
    lengths: dict[nn.Module, int] = {}
    clock = iter(range(1 << 30))

    def note(member: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        order.setdefault(member, []).append(next(clock))
        states = [v for v in (*args, *kwargs.values()) if _is_states(v, tokens)]
        with suppress(TypeError, IndexError, KeyError):
            if states and hidden_of(output).shape == states[0].shape:
                lengths[member] = 0 if isinstance(output, Tensor) else len(output)

    lists = _candidates(module)
    members = {member for _, group in lists for member in group}
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
    return reference, Blocks(path, tuple(group), {member: lengths[member] for member in group})


def _is_states(value: Any, tokens: Tensor) -> bool:
    return (
        isinstance(value, Tensor)
        and value.is_floating_point()
        and value.dim() in (3, 4)
        and value.shape[:2] == tokens.shape
    )


def _record(module: nn.Module, blocks: Blocks, tokens: Tensor) -> Inputs:
    recorder = Recorder(blocks)
    with recorder.recording():
        module(input_ids=tokens, use_cache=False)
    return recorder.inputs()


def _prove(anatomy: Anatomy, tokens: Tensor, inputs: Inputs, reference: Tensor) -> None:
    """Compare the replay with the model's own forward, dense, skipped, and stacked."""
    count = len(anatomy.blocks)
    skip = count // 2
    states, skipped = inputs.states, inputs.states
    for index in range(count):
        if index == skip:
            states = anatomy.call(index, states, inputs)
        else:
            both = anatomy.call(index, torch.cat([states, skipped]), inputs)
            states, skipped = both.chunk(2)
    with anatomy.masked((skip,)):
        masked = anatomy.module(input_ids=tokens, use_cache=False).logits
    limit = _TOLERANCE.get(reference.dtype, _LOW_PRECISION_TOLERANCE)
    for what, ours, theirs in (
        ("the dense model", states, reference),
        (f"the model without block {skip}", skipped, masked),
    ):
        difference = relative_difference(anatomy.head(ours), theirs)
        if not difference <= limit:
            raise ModelError(
                f"{type(anatomy.module).__name__}: replaying {anatomy.blocks.path} block by block "
                f"differs from {what} by {difference:.1e} of the logits' scale (limit "
                f"{limit:.0e}); its blocks exchange more than hidden states, so it cannot "
                "be searched"
            )
