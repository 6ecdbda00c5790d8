"""What a block is called with, and calling it with that again.

Arguments may differ between blocks (layer types) and between batches (per-token inputs), so they
are recorded for each batch of windows and each block (`recording`). To run several states of one
batch in one call, the tensors that have a batch axis are repeated; which those are is learned from
two probes of different batch sizes, not guessed from shapes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from depthprune.errors import ModelError
from depthprune.models.blocks.carried import State, changed, hidden
from depthprune.models.blocks.exchange import Tree
from depthprune.models.blocks.trees import leaves, mapped


@dataclass(frozen=True)
class Call:
    """One block's arguments, the hidden states left out (`slot` says where they belong)."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    slot: int | str

    @classmethod
    def of(cls, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Call, Tensor]:
        """A block's call taken apart: all but the hidden states, and those.

        Raises:
            ModelError: If there are none.
        """
        slot, states = states_of(args, kwargs)
        if slot == 0:
            return cls(tuple(args[1:]), kwargs, slot), states
        rest = {name: value for name, value in kwargs.items() if name != slot}
        return cls(args, rest, slot), states

    @property
    def tree(self) -> Tree:
        """Arguments and keywords, as one tree."""
        return self.args, self.kwargs

    def on(self, states: Tensor) -> Tree:
        """All arguments and keywords, the model's own hidden states in their place."""
        if self.slot == 0:
            return (states, *self.args), self.kwargs
        return self.args, {str(self.slot): states, **self.kwargs}

    def changed(self, change: Callable[[str, Tensor], Tensor]) -> Call:
        """The same with every tensor changed, given its path."""
        args, kwargs = mapped(self.tree, change)
        return Call(args, kwargs, self.slot)


@dataclass(frozen=True)
class Layout:
    """Where a model's hidden states have their batch and their length.

    Everywhere outside the model's own code they are the first two axes.
    """

    batch: int = 0
    length: int = 1

    @property
    def is_usual(self) -> bool:
        """Whether they are the first two in the model as well."""
        return (self.batch, self.length) == (0, 1)

    def usual(self, states: Tensor) -> Tensor:
        """The model's states with the batch and the length first."""
        return states if self.is_usual else states.movedim((self.batch, self.length), (0, 1))

    def native(self, states: Tensor) -> Tensor:
        """Such states as the model has them."""
        return states if self.is_usual else states.movedim((0, 1), (self.batch, self.length))


USUAL = Layout()


@dataclass(frozen=True)
class Inputs:
    """What one batch of windows gives the blocks.

    Attributes:
        states: The state before block 0, of shape (batch, length, width).
        calls: One a block.
        layout: Of the states inside the model.
    """

    states: State
    calls: tuple[Call, ...]
    layout: Layout = USUAL
    _copies: dict[tuple[int, torch.device], Tensor] = field(
        default_factory=dict, repr=False, compare=False
    )

    def call_on(self, block: int, device: torch.device) -> Call:
        """A block's call with its tensors on a device; each is copied there once.

        The calls share their masks and position embeddings, so copies are kept by tensor and not
        by block.
        """
        call = self.calls[block]
        if all(tensor.device == device for _, tensor in leaves(call.tree)):
            return call
        return call.changed(lambda _, t: self._copy(t, device))

    def lean(self, known: list[Tensor]) -> Inputs:
        """The same inputs for holding many of them: no states, and no tensor twice.

        Masks and positions are alike for all batches of one shape, and take more than their states
        where windows are long.

        Args:
            known: Tensors of other inputs; those of these that equal none are added.
        """
        chosen: dict[int, Tensor] = {}

        def one_of(_: str, tensor: Tensor) -> Tensor:
            if id(tensor) not in chosen:
                like = [k for k in known if k.dtype == tensor.dtype and k.device == tensor.device]
                same = next((k for k in like if torch.equal(k, tensor)), None)
                if same is None:
                    known.append(tensor)
                chosen[id(tensor)] = tensor if same is None else same
            return chosen[id(tensor)]

        calls = tuple(call.changed(one_of) for call in self.calls)
        # Only the number of rows is read of the states.
        none = hidden(self.states).new_empty((len(self.states), 0, 0))
        return Inputs(none, calls, self.layout)

    def _copy(self, tensor: Tensor, device: torch.device) -> Tensor:
        if tensor.device == device:
            return tensor
        key = (id(tensor), device)
        if key not in self._copies:
            self._copies[key] = tensor.to(device)
        return self._copies[key]


def states_of(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[int | str, Tensor]:
    """Where a block's hidden states stand among its arguments, and the states.

    Raises:
        ModelError: If neither the first argument nor any keyword holds them.
    """
    if args and isinstance(args[0], Tensor):
        return 0, args[0]
    for name, value in kwargs.items():
        if isinstance(value, Tensor) and value.is_floating_point() and value.dim() in (3, 4):
            return name, value
    raise ModelError("a block is called without hidden states; the model cannot be depth-pruned")


def hidden_of(output: Any) -> Tensor:
    """A block's hidden states: its output, or the first of its outputs."""
    return output if isinstance(output, Tensor) else output[0]


def batch_axes(call: Call, wider: Call) -> dict[str, int]:
    """For each tensor of a call, by path, the axis whose size follows the batch size.

    Args:
        call: As recorded with one batch size.
        wider: The same block's call, recorded with another batch size.

    Raises:
        ModelError: If the calls differ in more than one axis of a tensor.
    """
    axes: dict[str, int] = {}
    others = dict(leaves(wider.tree))
    for path, tensor in leaves(call.tree):
        other = others.get(path)
        if other is None or other.dim() != tensor.dim():
            raise ModelError(f"the block's argument {path} changes its form with the batch size")
        differing = [a for a in range(tensor.dim()) if tensor.shape[a] != other.shape[a]]
        if len(differing) > 1:
            raise ModelError(f"the block's argument {path} has more than one batch axis")
        if differing:
            axes[path] = differing[0]
    return axes


def stacked_call(inputs: Inputs, block: int, states: Tensor, axes: Mapping[str, int]) -> Call:
    """The call for `states`, several of the batch one after the other, on their device."""
    call = inputs.call_on(block, states.device)
    copies, rest = divmod(len(states), len(inputs.states))
    if rest or not copies:
        raise ValueError(f"{len(states)} rows are no multiple of the batch {len(inputs.states)}")
    if copies == 1 or not axes:
        return call
    return call.changed(lambda path, tensor: _repeat(tensor, copies, axes.get(path)))


def _repeat(tensor: Tensor, copies: int, axis: int | None) -> Tensor:
    if axis is None:
        return tensor
    repeats = [1] * tensor.dim()
    repeats[axis] = copies
    return tensor.repeat(repeats)


def outside_inference(inputs: Inputs) -> Inputs:
    """What was recorded, as tensors that a backward pass may keep."""
    copies: dict[int, Tensor] = {}

    def copied(path: str, tensor: Tensor) -> Tensor:
        # Blocks share their masks and position embeddings.
        if id(tensor) not in copies:
            copies[id(tensor)] = tensor.clone()
        return copies[id(tensor)]

    calls = tuple(call.changed(copied) for call in inputs.calls)
    states = changed(inputs.states, lambda tensor: copied("", tensor))
    return Inputs(states, calls, inputs.layout)


def relative_difference(ours: Tensor, theirs: Tensor) -> float:
    """Largest absolute difference, as a share of the largest finite magnitude of `theirs`.

    NaN where exactly one of the two is NaN, or they are infinite differently.
    """
    # Some devices have no float64.
    kind = torch.promote_types(torch.promote_types(ours.dtype, theirs.dtype), torch.float32)
    a, b = ours.to(kind), theirs.to(ours.device, kind)
    same = (a == b) | (a.isnan() & b.isnan())
    difference = torch.where(same, torch.zeros_like(a), (a - b).abs()).max().item()
    finite = b[b.isfinite()]
    scale = finite.abs().max().item() if finite.numel() else 0.0
    return difference / scale if scale else difference


def largest(differences: Iterable[float]) -> float:
    """The largest of some differences; NaN if any of them is."""
    found = list(differences)
    return next((each for each in found if math.isnan(each)), max(found, default=0.0))
