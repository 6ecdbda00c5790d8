"""Writing a map into weights, and swapping weights in place.

`T = I + change` maps what a block adds; a weight takes it along the axis of its outputs, a bias
alike, a stack of experts expert by expert. Sums are formed in float64 and rounded once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Weight:
    """A parameter and the axis along which its outputs lie.

    Attributes:
        name: Dotted, within the block.
        axis: Counted from the front.
    """

    name: str
    axis: int


def mapped(weight: Tensor, by: Tensor, axis: int) -> Tensor:
    """A weight whose outputs are mapped by a matrix.

    Args:
        weight: Any shape, with `width` elements along `axis`.
        by: Shape (width, width): new output i is the sum over j of `by[i, j]` × old output j.
        axis: Of the outputs.

    Returns:
        Same shape, in the dtype of `by`.
    """
    front = weight.movedim(axis, 0).to(by.dtype)
    turned: Tensor = torch.tensordot(by, front, dims=1)
    return turned.movedim(0, axis).contiguous()


def folded(weight: Tensor, change: Tensor, axis: int) -> Tensor:
    """A weight with `I + change` written into it.

    Args:
        weight: As for `mapped`; a third axis in front is that of experts, taken one by one.
        change: T − I, shape (width, width), float64.
        axis: Of the outputs.

    Returns:
        Same shape, dtype and device.
    """
    if weight.dim() == 3 and axis > 0:
        return torch.stack([folded(expert, change, axis - 1) for expert in weight])
    wide = weight.cpu() if weight.device.type == "mps" else weight
    by = change.to(wide.device)
    return (wide.double() + mapped(wide, by, axis)).to(weight.dtype).to(weight.device)


@contextmanager
def swapped(
    module: nn.Module, weights: Mapping[str, Tensor], *, park: bool = False
) -> Iterator[None]:
    """Inside the context, some parameters of a module have other values.

    Args:
        module: Whose parameters.
        weights: New values by dotted name, of the same shapes.
        park: Have the processor hold the old values meanwhile, where nearly all are replaced and a
            device would not have room for both.
    """
    parameters = {name: module.get_parameter(name) for name in weights}
    devices = {name: parameter.device for name, parameter in parameters.items()}
    before: dict[str, Tensor] = {}
    try:
        for name, value in weights.items():
            parameter = parameters[name]
            before[name] = parameter.data.cpu() if park else parameter.data
            parameter.data = value.to(device=devices[name], dtype=parameter.dtype)
        yield
    finally:
        for name, old in before.items():
            parameters[name].data = old.to(devices[name])
