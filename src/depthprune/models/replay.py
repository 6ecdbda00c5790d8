"""Recording what a model passes to its blocks, and calling a block with it again.

A recording pass runs the model with every block replaced by one that notes its arguments and hands
its input on, and stops at the last: it costs the embedding and the masks, no block and no head.
Arguments may differ between blocks (layer types) and between batches (per-token inputs), so they
are recorded for each batch of windows and each block. To run several states of one batch in one
call, the tensors that have a batch axis are repeated; which those are is learned from two probes
of different batch sizes, not guessed from shapes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from depthprune.errors import ModelError

Forward = Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], Any]


@dataclass(frozen=True)
class Call:
    """One block's arguments, the hidden states left out (`slot` says where they belong)."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    slot: int | str


@dataclass(frozen=True)
class Inputs:
    """What one batch of windows gives the blocks.

    Attributes:
        states: Hidden states before block 0, shape (batch, length, width).
        calls: One a block.
    """

    states: Tensor
    calls: tuple[Call, ...]
    _copies: dict[tuple[int, torch.device], Tensor] = field(
        default_factory=dict, repr=False, compare=False
    )

    def call_on(self, block: int, device: torch.device) -> Call:
        """A block's call with its tensors on a device; each is copied there once.

        The calls share their masks and position embeddings, so copies are kept by tensor and not
        by block.
        """
        call = self.calls[block]
        if all(tensor.device == device for _, tensor in leaves((call.args, call.kwargs))):
            return call
        args, kwargs = _mapped((call.args, call.kwargs), lambda _, t: self._copy(t, device))
        return Call(args, kwargs, call.slot)

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

        calls = []
        for call in self.calls:
            args, kwargs = _mapped((call.args, call.kwargs), one_of)
            calls.append(Call(args, kwargs, call.slot))
        # Only the number of rows is read of the states.
        return Inputs(self.states.new_empty((len(self.states), 0, 0)), tuple(calls))

    def _copy(self, tensor: Tensor, device: torch.device) -> Tensor:
        if tensor.device == device:
            return tensor
        key = (id(tensor), device)
        if key not in self._copies:
            self._copies[key] = tensor.to(device)
        return self._copies[key]


@dataclass(frozen=True)
class Blocks:
    """A model's blocks, in order, and the form in which each answers.

    Attributes:
        path: Dotted name of the list that holds them.
        modules: The blocks.
        lengths: For each block the length of the tuple it returns, 0 where it returns a tensor.
    """

    path: str
    modules: tuple[nn.Module, ...]
    lengths: Mapping[nn.Module, int]

    def __len__(self) -> int:
        return len(self.modules)

    def answer(self, block: nn.Module, states: Tensor) -> Any:
        """`states` in the form in which `block` returns its own."""
        length = self.lengths[block]
        return (states, *(None for _ in range(length - 1))) if length else states

    def pass_on(self, block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A `forward` that hands on what it is given."""
        return self.answer(block, states_of(args, kwargs)[1])


class _Reached(Exception):
    """The recording has seen the last block."""


@contextmanager
def patched(forwards: Mapping[nn.Module, Forward]) -> Iterator[None]:
    """Replace `forward` of some modules, on the instances only, for the length of the context.

    Each replacement is called with the module, the arguments and the keywords.
    """

    def bind(module: nn.Module, forward: Forward) -> Callable[..., Any]:
        return lambda *args, **kwargs: forward(module, args, kwargs)

    before = {module: module.__dict__.get("forward") for module in forwards}
    try:
        for module, forward in forwards.items():
            module.__dict__["forward"] = bind(module, forward)
        yield
    finally:
        for module, original in before.items():
            if original is None:
                module.__dict__.pop("forward", None)
            else:
                module.__dict__["forward"] = original


class Recorder:
    """Notes the calls of `blocks` during one pass of their model."""

    def __init__(self, blocks: Blocks) -> None:
        self._blocks = blocks
        self._states: Tensor | None = None
        self._calls: list[Call] = []

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Inside the context, run the model once."""
        try:
            with patched(dict.fromkeys(self._blocks.modules, self._note)):
                yield
        except _Reached:
            pass

    def _note(self, block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        slot, states = states_of(args, kwargs)
        if self._states is None:
            self._states = states
        rest = {name: value for name, value in kwargs.items() if name != slot}
        self._calls.append(Call(tuple(args[1:]), rest, slot))
        if len(self._calls) == len(self._blocks):
            raise _Reached
        return self._blocks.answer(block, states)

    def inputs(self) -> Inputs:
        """What was recorded."""
        if self._states is None or len(self._calls) != len(self._blocks):
            raise ModelError(
                f"the model ran {len(self._calls)} of its {len(self._blocks)} blocks when their "
                "inputs were recorded; it cannot be called block by block"
            )
        return Inputs(self._states, tuple(self._calls))


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


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Tensor]]:
    """The tensors inside nested tuples, lists and mappings, each with its path."""
    if isinstance(value, Tensor):
        yield path, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from leaves(item, f"{path}.{key}")
    elif isinstance(value, (tuple, list)):
        for index, item in enumerate(value):
            yield from leaves(item, f"{path}.{index}")


def batch_axes(call: Call, wider: Call) -> dict[str, int]:
    """For each tensor of a call, by path, the axis whose size follows the batch size.

    Args:
        call: As recorded with one batch size.
        wider: The same block's call, recorded with another batch size.

    Raises:
        ModelError: If the calls differ in more than one axis of a tensor.
    """
    axes: dict[str, int] = {}
    others = dict(leaves((wider.args, wider.kwargs)))
    for path, tensor in leaves((call.args, call.kwargs)):
        other = others.get(path)
        if other is None or other.dim() != tensor.dim():
            raise ModelError(f"the block's argument {path} changes its form with the batch size")
        differing = [a for a in range(tensor.dim()) if tensor.shape[a] != other.shape[a]]
        if len(differing) > 1:
            raise ModelError(f"the block's argument {path} has more than one batch axis")
        if differing:
            axes[path] = differing[0]
    return axes


def stack_call(
    inputs: Inputs, block: int, states: Tensor, axes: Mapping[str, int]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments that run `states` (several of the batch, one after the other) in one call.

    They are on the device of `states`.
    """
    call = inputs.call_on(block, states.device)
    copies, rest = divmod(len(states), len(inputs.states))
    if rest or not copies:
        raise ValueError(f"{len(states)} rows are no multiple of the batch {len(inputs.states)}")
    args, kwargs = call.args, call.kwargs
    if copies > 1 and axes:
        args, kwargs = _mapped((args, kwargs), lambda p, t: _repeat(t, copies, axes.get(p)))
    if call.slot == 0:
        return (states, *args), kwargs
    return args, {str(call.slot): states, **kwargs}


def _repeat(tensor: Tensor, copies: int, axis: int | None) -> Tensor:
    if axis is None:
        return tensor
    repeats = [1] * tensor.dim()
    repeats[axis] = copies
    return tensor.repeat(repeats)


def _mapped(value: Any, change: Callable[[str, Tensor], Tensor], path: str = "") -> Any:
    """Nested tuples, lists and dicts with every tensor changed, given its path as in `leaves`."""
    if isinstance(value, Tensor):
        return change(path, value)
    if isinstance(value, dict):
        return {k: _mapped(v, change, f"{path}.{k}") for k, v in value.items()}
    if isinstance(value, (tuple, list)):
        items = [_mapped(v, change, f"{path}.{i}") for i, v in enumerate(value)]
        return tuple(items) if isinstance(value, tuple) else items
    return value


def outside_inference(inputs: Inputs) -> Inputs:
    """What was recorded, as tensors that a backward pass may keep."""
    copies: dict[int, Tensor] = {}

    def copied(path: str, tensor: Tensor) -> Tensor:
        # Blocks share their masks and position embeddings.
        if id(tensor) not in copies:
            copies[id(tensor)] = tensor.clone()
        return copies[id(tensor)]

    calls = []
    for call in inputs.calls:
        args, kwargs = _mapped((call.args, call.kwargs), copied)
        calls.append(Call(args, kwargs, call.slot))
    return Inputs(inputs.states.clone(), tuple(calls))


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
