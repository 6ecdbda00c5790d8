"""A model that computes in float32 for a while: what decides where rounding leaves a doubt.

In a dtype of few bits two orders of the same sum differ by what the machine makes of them, and
blocks amplify it; no limit tells that from a fault. In float32 both agree to 1e-5 or are not the
same. So whatever compares two ways of computing a model asks first whether they agree to the bit,
and otherwise compares them again inside `widened`.

The weights themselves are widened, for no longer than needed: all of them where memory holds them
beside what is there, else each block while it runs. They are put back as they were, in the same
place of memory, since products may round by the alignment of a matrix.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from depthprune.errors import ModelError, first_line
from depthprune.models.blocks.replay import patched
from depthprune.models.devices import plain_products
from depthprune.models.free_memory import available_memory, out_of_memory

FLOAT32_LIMIT = 1e-5
"""Of the scale of what is compared: what rounding explains in float32, and no fault does."""

_NARROW = (torch.float16, torch.bfloat16)


def is_narrow(dtype: torch.dtype) -> bool:
    """Whether a dtype has too few bits to decide in."""
    return dtype in _NARROW


def wide(tensor: Tensor) -> Tensor:
    """A narrow tensor in float32; another one as it is."""
    return tensor.float() if is_narrow(tensor.dtype) else tensor


@contextmanager
def widened(module: nn.Module, blocks: Sequence[nn.Module]) -> Iterator[None]:
    """Inside the context a model computes in float32; afterwards every tensor is as it was.

    Args:
        module: The whole model; its blocks may be streamed, or on several devices.
        blocks: Its blocks, which are run by calling them.

    Raises:
        ModelError: If memory does not hold even one widened block beside the model.
    """
    inside, around = _divided(module, blocks)
    with ExitStack() as stack, _told(module, around, blocks):
        if not _any_elsewhere(inside) and _fits(_bytes([*around, *inside])):
            stack.enter_context(_widened_tensors([*around, *inside]))
        else:
            _require(module, around, blocks)
            stack.enter_context(_widened_tensors(around))
            stack.enter_context(_each_while_it_runs(blocks))
        stack.enter_context(plain_products())
        yield


def _divided(
    module: nn.Module, blocks: Sequence[nn.Module]
) -> tuple[list[nn.Module], list[nn.Module]]:
    """The modules inside the blocks, and the others."""
    inside = dict.fromkeys(child for block in blocks for child in block.modules())
    return list(inside), [child for child in module.modules() if child not in inside]


@contextmanager
def widened_around(module: nn.Module, blocks: Sequence[nn.Module]) -> Iterator[None]:
    """`widened` for what is run without the blocks: the embeddings and the head."""
    _, around = _divided(module, blocks)
    with _told(module, around, ()), _widened_tensors(around), plain_products():
        yield


@contextmanager
def widened_block(block: nn.Module) -> Iterator[None]:
    """Inside the context one block computes in float32; its weights are in memory already."""
    with _widened_tensors(block.modules()), plain_products():
        yield


@contextmanager
def _each_while_it_runs(blocks: Sequence[nn.Module]) -> Iterator[None]:
    own = {block: block.forward for block in blocks}

    def run(block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        # A streamed block is empty until its own forward fills it.
        holding = getattr(own[block], "holding", None)
        with ExitStack() as stack:
            if holding is not None:
                stack.enter_context(holding())
            stack.enter_context(_widened_tensors(block.modules()))
            return own[block](*args, **kwargs)

    with patched(dict.fromkeys(blocks, run)):
        yield


@contextmanager
def _widened_tensors(owners: Iterable[nn.Module]) -> Iterator[None]:
    """Inside the context the narrow tensors of modules are float32 ones."""
    narrow: dict[int, tuple[nn.Parameter, Tensor]] = {}
    buffers: list[tuple[nn.Module, str, Tensor]] = []
    try:
        # A parameter takes no data that was made in inference mode.
        with torch.inference_mode(False), torch.no_grad():
            for owner in owners:
                for parameter in owner._parameters.values():
                    if parameter is not None and _is_held(parameter):
                        narrow[id(parameter)] = (parameter, parameter.data)
                        parameter.data = parameter.data.float()
                for name, buffer in owner._buffers.items():
                    if buffer is not None and _is_held(buffer):
                        buffers.append((owner, name, buffer))
                        owner._buffers[name] = buffer.float()
        yield
    finally:
        with torch.inference_mode(False), torch.no_grad():
            for parameter, data in narrow.values():
                parameter.data = data
        for owner, name, buffer in buffers:
            owner._buffers[name] = buffer


def _is_held(tensor: Tensor) -> bool:
    return is_narrow(tensor.dtype) and not tensor.is_meta


def _any_elsewhere(owners: Iterable[nn.Module]) -> bool:
    """Whether some tensors are not there until their block runs."""
    return any(p.is_meta for owner in owners for p in owner._parameters.values() if p is not None)


def _bytes(owners: Iterable[nn.Module]) -> dict[torch.device, int]:
    """What the narrow tensors of modules take in float32, by device."""
    tensors = {
        id(tensor): tensor
        for owner in owners
        for tensor in (*owner._parameters.values(), *owner._buffers.values())
        if tensor is not None and is_narrow(tensor.dtype)
    }
    found: dict[torch.device, int] = {}
    for tensor in tensors.values():
        found[tensor.device] = found.get(tensor.device, 0) + 4 * tensor.numel()
    return found


def _fits(needed: Mapping[torch.device, int]) -> bool:
    return all(size <= available_memory(device) for device, size in needed.items())


def _needed(around: Iterable[nn.Module], blocks: Sequence[nn.Module]) -> dict[torch.device, int]:
    """What the model takes in addition when each block is widened while it runs."""
    needed = _bytes(around)
    first = next(iter(needed), torch.device("cpu"))
    largest: dict[torch.device, int] = {}
    for block in blocks:
        for place, size in _bytes(block.modules()).items():
            # A streamed block is read to where the rest of the model is.
            device = first if place.type == "meta" else place
            largest[device] = max(largest.get(device, 0), size)
    for device, size in largest.items():
        needed[device] = needed.get(device, 0) + size
    return needed


def _require(module: nn.Module, around: Iterable[nn.Module], blocks: Sequence[nn.Module]) -> None:
    needed = _needed(around, blocks)
    if not _fits(needed):
        raise ModelError(_lacking(module, needed))


@contextmanager
def _told(
    module: nn.Module, around: Sequence[nn.Module], blocks: Sequence[nn.Module]
) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        words = _lacking(module, _needed(around, blocks))
        raise ModelError(f"{words} ({first_line(error)})") from error


def _lacking(module: nn.Module, needed: Mapping[torch.device, int]) -> str:
    size = sum(needed.values()) / 2**30
    where = ", ".join(sorted(map(str, needed)))
    return (
        f"{type(module).__name__}: memory ran out while it was compared with itself in float32; "
        f"{size:.1f} GiB must be free on {where} beside the model, for its embeddings, its head "
        "and its largest block; close other programs, or take --stream or --device cpu"
    )
