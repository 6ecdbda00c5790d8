"""A block to experiment on: a copy in float32, with a call it can be run with."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from depthprune.models.blocks.anatomy import Anatomy
from depthprune.models.blocks.carried import Carried, hidden
from depthprune.models.blocks.replay import hidden_of, relative_difference
from depthprune.models.probe_tokens import probe_tokens
from depthprune.recovery.linear.fold import mapped

BATCH, LENGTH = 2, 24
"""Shape of the token ids that it is run on."""

LIMIT = 1e-3
"""Relative differences in float32 that rounding explains, of changes that it makes larger."""


class Probe:
    """A copy of one block in float32, with a call that it can be run with."""

    def __init__(self, anatomy: Anatomy, block: int) -> None:
        self.number = block
        tokens = probe_tokens(anatomy.module, (BATCH, LENGTH), seed=block)
        self.module = copy.deepcopy(anatomy.blocks.modules[block])
        # A streamed or dispatched module carries a `forward` of its own, which runs the original.
        for module in self.module.modules():
            module.__dict__.pop("forward", None)
        self.module.float().eval()
        inputs = anatomy.record(tokens)
        # Embeddings are as good an input as any for what holds on every input; what is carried
        # beside them is there only behind the blocks that write it.
        state = inputs.states
        if isinstance(state, Carried):
            for before in range(block):
                state = anatomy.call(before, state, inputs)
        _, (args, kwargs) = anatomy.arguments(block, state, inputs)
        self.width = hidden(state).shape[-1]
        self.device = next(self.module.parameters()).device
        self.args, self.kwargs = _widened(args), _widened(kwargs)
        self.generator = torch.Generator().manual_seed(0)

    def run(self) -> Tensor:
        """The copy's output, shape (batch, length, width)."""
        return hidden_of(self.module(*self.args, **self.kwargs)).detach()

    def response(self, module: nn.Module, value: Tensor, base: Tensor) -> float | None:
        """The factor by which a change of a module's output shows in the block's, if it does.

        Args:
            module: In the copy.
            value: What it puts out, or the first of that.
            base: What the block puts out without the change.
        """
        size = value.float().pow(2).mean().sqrt().item() or 1.0
        change = self.random(*value.shape) * size

        def add(module: nn.Module, args: Any, output: Any) -> Any:
            moved = hidden_of(output) + change
            return moved if isinstance(output, Tensor) else (moved, *output[1:])

        handle = module.register_forward_hook(add)
        try:
            response = (self.run() - base).flatten()
        finally:
            handle.remove()
        change = change.flatten()
        scale = (response @ change / (change @ change)).item()
        apart = relative_difference(response, scale * change)
        return None if not scale or apart > LIMIT else scale

    def random(self, *shape: int) -> Tensor:
        """Normal numbers, the next of a fixed sequence."""
        return torch.randn(shape, generator=self.generator).to(self.device)


def groups(module: nn.Module) -> list[list[str]]:
    """Parameter names, those of experts kept in a list together: some may be idle on the probe."""
    groups: dict[tuple[str, torch.Size], list[str]] = {}
    for name, parameter in module.named_parameters():
        pattern = ".".join("#" if part.isdigit() else part for part in name.split("."))
        if parameter.is_floating_point():
            groups.setdefault((pattern, parameter.shape), []).append(name)
    return list(groups.values())


@contextmanager
def changed(module: nn.Module, axes: Mapping[str, int | None], turn: Tensor) -> Iterator[None]:
    """Inside the context parameters are mapped along their axes; zero where the axis is None."""
    parameters = {name: module.get_parameter(name) for name in axes}
    before = {name: parameter.data for name, parameter in parameters.items()}
    try:
        for name, axis in axes.items():
            value = before[name]
            parameters[name].data = (
                torch.zeros_like(value) if axis is None else mapped(value, turn, axis)
            )
        yield
    finally:
        for name, parameter in parameters.items():
            parameter.data = before[name]


def copied(output: Any) -> Any:
    """An output whose first tensor stays what it is, if the block goes on to add to it in place."""
    if isinstance(output, Tensor):
        return output.clone()
    if isinstance(output, tuple) and output and isinstance(output[0], Tensor):
        return (output[0].clone(), *output[1:])
    return output


def _widened(value: Any) -> Any:
    """The same arguments with every floating tensor in float32."""
    if isinstance(value, Tensor):
        return value.float() if value.is_floating_point() else value
    if isinstance(value, dict):
        return {key: _widened(item) for key, item in value.items()}
    if type(value) in (tuple, list):
        return type(value)(_widened(item) for item in value)
    return value
