"""A model that computes in float32 for a while: what decides where rounding leaves a doubt.

In a dtype of few bits two orders of the same sum differ by what the machine makes of them, and
blocks amplify it; no limit tells that from a fault. In float32 both agree to 1e-5 or are not the
same, but for a device that adds up in no fixed order, or a model that amplifies much. So whatever
compares two ways of computing a model asks first whether they agree to the bit, compares them again
inside `widened` otherwise, and where float32 leaves a doubt too, once more in float64 (`settled`).

The weights themselves are widened, for no longer than needed: all of them where memory holds them
beside what is there, else each block while it runs. They are put back as they were, in the same
place of memory, since products may round by the alignment of a matrix.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from depthprune.errors import ModelError, first_line
from depthprune.models.blocks.recording import patched
from depthprune.models.devices import plain_products, wide_place
from depthprune.models.free_memory import available_memory, out_of_memory

FLOAT32_LIMIT = 1e-5
"""Of the scale of what is compared: what rounding explains in float32, and no fault does."""

_NARROW = (torch.float16, torch.bfloat16)

WIDER = (torch.float32, torch.float64)
"""What decides, one after the other."""

CANNOT = (ModelError, RuntimeError, TypeError, ValueError, KeyError, IndexError, AttributeError)
"""How a model says that it does not compute in float64, or that there is no memory for it."""


def is_narrow(dtype: torch.dtype) -> bool:
    """Whether a dtype has too few bits to decide in."""
    return dtype in _NARROW


def _narrower(held: torch.dtype, dtype: torch.dtype) -> bool:
    """Whether numbers of one dtype are widened to another: those of float32 to float64 only."""
    return is_narrow(held) or (held == torch.float32 and dtype == torch.float64)


def wide(tensor: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """A tensor in a wider dtype; one that is as wide, or holds no such numbers, as it is."""
    return tensor.to(dtype) if _narrower(tensor.dtype, dtype) else tensor


def settled(
    module: nn.Module, blocks: Sequence[nn.Module], apart: Callable[[], float]
) -> tuple[float, str]:
    """How far apart two ways of computing a model are, in float32 or else in float64.

    Args:
        module: The whole model.
        blocks: Its blocks.
        apart: Computes it both ways, and says how far apart they are; it is called in a `widened`
            model, and asks anew where that is.

    Returns:
        How far, and the name of the dtype in which that was found: float64 where float32 did not
        settle it, and the model computes in float64 at all.
    """
    with widened(module, blocks):
        found = apart()
    if found <= FLOAT32_LIMIT:
        return found, "float32"
    try:
        with widened(module, blocks, torch.float64):
            return apart(), "float64"
    except CANNOT:
        return found, "float32"


def cannot_run(module: nn.Module, dtype: torch.dtype, error: BaseException) -> str:
    """That a model fails while it is run, in one line, and what may help."""
    name = type(module).__name__
    if is_narrow(dtype):
        word = str(dtype).removeprefix("torch.")
        return (
            f"{name}: cannot be run in {word} ({first_line(error)}); transformers may not compute "
            "this type in it; take --dtype float32"
        )
    return f"{name}: cannot be run with this version of transformers ({first_line(error)})"


@contextmanager
def widened(
    module: nn.Module, blocks: Sequence[nn.Module], dtype: torch.dtype = torch.float32
) -> Iterator[None]:
    """Inside the context a model computes in a wider dtype; afterwards every tensor is as it was.

    A device without float64 hands the model to the processor meanwhile.

    Args:
        module: The whole model; its blocks may be streamed, or on several devices.
        blocks: Its blocks, which are run by calling them.
        dtype: float32 or float64.

    Raises:
        ModelError: If memory does not hold even one widened block beside the model.
    """
    inside, around = _divided(module, blocks)
    with ExitStack() as stack, _told(module, around, blocks, dtype):
        if not _any_elsewhere(inside) and _fits(_bytes([*around, *inside], dtype)):
            stack.enter_context(_widened_tensors([*around, *inside], dtype))
        else:
            _require(module, around, blocks, dtype)
            stack.enter_context(_widened_tensors(around, dtype))
            stack.enter_context(_each_while_it_runs(blocks, dtype))
        stack.enter_context(plain_products())
        yield


def _divided(
    module: nn.Module, blocks: Sequence[nn.Module]
) -> tuple[list[nn.Module], list[nn.Module]]:
    """The modules inside the blocks, and the others."""
    inside = dict.fromkeys(child for block in blocks for child in block.modules())
    return list(inside), [child for child in module.modules() if child not in inside]


@contextmanager
def widened_around(
    module: nn.Module, blocks: Sequence[nn.Module], dtype: torch.dtype = torch.float32
) -> Iterator[None]:
    """`widened` for what is run without the blocks: the embeddings and the head."""
    _, around = _divided(module, blocks)
    with _told(module, around, (), dtype), _widened_tensors(around, dtype), plain_products():
        yield


@contextmanager
def widened_block(block: nn.Module, dtype: torch.dtype = torch.float32) -> Iterator[None]:
    """Inside the context one block computes in a wider dtype; its weights are in memory already."""
    with _widened_tensors(block.modules(), dtype), plain_products():
        yield


@contextmanager
def _each_while_it_runs(blocks: Sequence[nn.Module], dtype: torch.dtype) -> Iterator[None]:
    own = {block: block.forward for block in blocks}

    def run(block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        # A streamed block is empty until its own forward fills it.
        holding = getattr(own[block], "holding", None)
        with ExitStack() as stack:
            if holding is not None:
                stack.enter_context(holding())
            stack.enter_context(_widened_tensors(block.modules(), dtype))
            return own[block](*args, **kwargs)

    with patched(dict.fromkeys(blocks, run)):
        yield


@contextmanager
def _widened_tensors(owners: Iterable[nn.Module], dtype: torch.dtype) -> Iterator[None]:
    """Inside the context the narrower tensors of modules are of a dtype."""
    held: dict[int, tuple[nn.Parameter, Tensor]] = {}
    buffers: list[tuple[nn.Module, str, Tensor]] = []
    try:
        # A parameter takes no data that was made in inference mode.
        with torch.inference_mode(False), torch.no_grad():
            for owner in owners:
                for parameter in owner._parameters.values():
                    if parameter is not None and _changes(parameter, dtype):
                        held[id(parameter)] = (parameter, parameter.data)
                        parameter.data = _made_wide(parameter.data, dtype)
                for name, buffer in owner._buffers.items():
                    if buffer is not None and _changes(buffer, dtype):
                        buffers.append((owner, name, buffer))
                        owner._buffers[name] = _made_wide(buffer, dtype)
        yield
    finally:
        with torch.inference_mode(False), torch.no_grad():
            for parameter, data in held.values():
                parameter.data = data
        for owner, name, buffer in buffers:
            owner._buffers[name] = buffer


def _changes(tensor: Tensor, dtype: torch.dtype) -> bool:
    if tensor.is_meta:
        return False
    return _narrower(tensor.dtype, dtype) or _place(tensor.device, dtype) != tensor.device


def _place(device: torch.device, dtype: torch.dtype) -> torch.device:
    return wide_place(device) if dtype == torch.float64 else device


def _made_wide(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    # Moved before it is widened: a device without float64 holds none.
    return wide(tensor.to(_place(tensor.device, dtype)), dtype)


def _any_elsewhere(owners: Iterable[nn.Module]) -> bool:
    """Whether some tensors are not there until their block runs."""
    return any(p.is_meta for owner in owners for p in owner._parameters.values() if p is not None)


def _bytes(owners: Iterable[nn.Module], dtype: torch.dtype) -> dict[torch.device, int]:
    """What the tensors of modules that are widened take then, by device."""
    tensors = {
        id(tensor): tensor
        for owner in owners
        for tensor in (*owner._parameters.values(), *owner._buffers.values())
        if tensor is not None and _narrower(tensor.dtype, dtype)
    }
    found: dict[torch.device, int] = {}
    for tensor in tensors.values():
        place = tensor.device if tensor.is_meta else _place(tensor.device, dtype)
        found[place] = found.get(place, 0) + dtype.itemsize * tensor.numel()
    return found


def _fits(needed: Mapping[torch.device, int]) -> bool:
    return all(size <= available_memory(device) for device, size in needed.items())


def _needed(
    around: Iterable[nn.Module], blocks: Sequence[nn.Module], dtype: torch.dtype
) -> dict[torch.device, int]:
    """What the model takes in addition when each block is widened while it runs."""
    needed = _bytes(around, dtype)
    first = next(iter(needed), torch.device("cpu"))
    largest: dict[torch.device, int] = {}
    for block in blocks:
        for place, size in _bytes(block.modules(), dtype).items():
            # A streamed block is read to where the rest of the model is.
            device = first if place.type == "meta" else place
            largest[device] = max(largest.get(device, 0), size)
    for device, size in largest.items():
        needed[device] = needed.get(device, 0) + size
    return needed


def _require(
    module: nn.Module,
    around: Iterable[nn.Module],
    blocks: Sequence[nn.Module],
    dtype: torch.dtype,
) -> None:
    needed = _needed(around, blocks, dtype)
    if not _fits(needed):
        raise ModelError(_lacking(module, needed, dtype))


@contextmanager
def _told(
    module: nn.Module,
    around: Sequence[nn.Module],
    blocks: Sequence[nn.Module],
    dtype: torch.dtype,
) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        words = _lacking(module, _needed(around, blocks, dtype), dtype)
        raise ModelError(f"{words} ({first_line(error)})") from error


def _lacking(module: nn.Module, needed: Mapping[torch.device, int], dtype: torch.dtype) -> str:
    size = sum(needed.values()) / 2**30
    where = ", ".join(sorted(map(str, needed)))
    word = "float64" if dtype == torch.float64 else "float32"
    return (
        f"{type(module).__name__}: memory ran out while it was compared with itself in {word}; "
        f"{size:.1f} GiB must be free on {where} beside the model, for its embeddings, its head "
        "and its largest block; close other programs, or take --stream or --device cpu"
    )
