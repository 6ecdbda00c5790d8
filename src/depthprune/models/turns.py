"""Two models and a GPU that holds one: the one that is not computing waits in host memory.

The masked original and the reloaded checkpoint are compared with each other, never run at the same
moment. Where both fit, nothing is moved.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from depthprune.models.free_memory import available_memory, give_back_memory

_ROOM = 1 << 30
"""Bytes that a pass takes beside the weights: activations and logits of a few windows."""


def put_on(module: nn.Module, device: str | torch.device) -> nn.Module:
    """Move a loaded model to a device, if there is room for it; else it stays where it is.

    Args:
        module: The model, in host memory.
        device: Where it is to compute.
    """
    place = torch.device(device)
    if place.type == "cuda" and _bytes(module) + _ROOM > available_memory(place):
        return module
    return module.to(place)


@contextmanager
def taking_turns(module: nn.Module, other: nn.Module) -> Iterator[None]:
    """Inside the context a model is on the device of another, which may be in host memory.

    Args:
        module: As `put_on` left it.
        other: The model that it shares the device with.
    """
    device = _device(other)
    # Weights that are streamed or on several devices were put where they are on purpose.
    if (
        module is other
        or device is None
        or device.type != "cuda"
        or _device(module) != torch.device("cpu")
    ):
        yield
        return
    _move(other, torch.device("cpu"))
    try:
        _move(module, device)
        yield
    finally:
        _move(module, torch.device("cpu"))
        _move(other, device)


def _move(module: nn.Module, device: torch.device) -> None:
    # A parameter takes no data that was made in inference mode.
    with torch.inference_mode(False):
        module.to(device)
    if device.type == "cpu":
        gc.collect()
        give_back_memory()


def _device(module: nn.Module) -> torch.device | None:
    """The one device of a model's weights."""
    devices = {parameter.device for parameter in module.parameters()}
    return devices.pop() if len(devices) == 1 else None


def _bytes(module: nn.Module) -> int:
    return sum(p.numel() * p.element_size() for p in module.parameters())
