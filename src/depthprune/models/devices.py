"""The devices and dtypes that a model can compute on and in, and what is done otherwise on each.

On several devices transformers and accelerate do the placing; here stands what a device map may
be, and what it excludes. A part that fits no device would be moved there for every call; such a
model is streamed instead.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch
from torch import Tensor

from depthprune.errors import UsageError, first_line
from depthprune.models.dtype_names import DTYPE_NAMES

DTYPES: dict[str, torch.dtype] = {name: getattr(torch, name) for name in DTYPE_NAMES}


def choose_device(name: str) -> torch.device:
    """The torch device that a `--device` names.

    Raises:
        UsageError: If there is no such device here.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    wanted = f"--device: expected auto, cpu, cuda, cuda:N or mps, got {name!r}"
    # What waits for a device, and asks what memory and dtypes it has, knows these.
    if name.partition(":")[0] not in ("cpu", "cuda", "mps"):
        raise UsageError(wanted)
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"{wanted} ({first_line(error)})") from error
    return device


def wide_place(device: torch.device) -> torch.device:
    """Where float64 is computed for a device: there, or by the processor where it has none."""
    return torch.device("cpu") if device.type == "mps" else device


def wide_sum(tensor: Tensor) -> Tensor:
    """The sum of a float32 tensor in float64; rows are summed in float32 where the device must."""
    if wide_place(tensor.device) == tensor.device:
        return tensor.sum(dtype=torch.float64)
    rows = tensor.sum(-1) if tensor.dim() else tensor
    return rows.to(wide_place(tensor.device)).sum(dtype=torch.float64)


@contextmanager
def plain_products() -> Iterator[None]:
    """Inside the context float32 is float32 on CUDA, and one shape is always computed alike.

    TensorFloat-32 rounds inputs of float32 products to ten bits (convolutions by default), and
    cuDNN's autotuner picks whichever kernel was faster this time.
    """
    cudnn = torch.backends.cudnn
    products: tuple[Any, ...] = (torch.backends.cuda.matmul, cudnn)
    before, benchmark = [_precision(owner) for owner in products], cudnn.benchmark
    try:
        for owner in products:
            owner.allow_tf32 = False
        cudnn.benchmark = False
        yield
    finally:
        for owner, precision in zip(products, before, strict=True):
            owner.allow_tf32 = precision in (True, "tf32")
            if _precision(owner) != precision:
                _newer(owner).fp32_precision = precision
        cudnn.benchmark = benchmark


def _precision(owner: Any) -> object:
    """Of float32 products, in the words of this torch: newer ones may refuse to tell the flag."""
    newer = _newer(owner)
    return newer.fp32_precision if hasattr(newer, "fp32_precision") else owner.allow_tf32


def _newer(owner: Any) -> Any:
    """Where newer releases of torch keep the precision that `allow_tf32` stands for."""
    return owner.conv if owner is torch.backends.cudnn and hasattr(owner, "conv") else owner


def synchronize(device: str | torch.device) -> None:
    """Wait until a device has done all that it was given, so that a clock read now is true."""
    place = torch.device(device)
    if place.type == "cuda":
        torch.cuda.synchronize(place)
    elif place.type == "mps":
        torch.mps.synchronize()


def uploaded(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor on a device; on CUDA the processor does not wait for the copy."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


DEVICE_MAPS = ("auto", "balanced", "balanced_low_0", "sequential")

DeviceMap: TypeAlias = str | Mapping[str, str | int]
"""Which module stands on which device: a way of choosing, or names of modules and devices."""


def check_placement(device_map: DeviceMap | None, device: str, stream: bool) -> None:
    """Refuse a device map that is unknown, excluded by another flag, or cannot be had here.

    Raises:
        UsageError: Saying which.
    """
    if device_map is None:
        return
    if stream or device != "auto":
        other = "--stream" if stream else f"--device {device}"
        raise UsageError(f"--device-map: cannot be combined with {other}; give one of them")
    if isinstance(device_map, str) and device_map not in DEVICE_MAPS:
        raise UsageError(
            f"--device-map: expected {', '.join(DEVICE_MAPS)} or modules by name, "
            f"got {device_map!r}"
        )
    if importlib.util.find_spec("accelerate") is None:
        raise UsageError("--device-map: needs accelerate; run: pip install accelerate")


def first_device(device_map: DeviceMap | None) -> str | None:
    """The first device that a map names; None where the map leaves the choice to accelerate."""
    if device_map is None or isinstance(device_map, str):
        return None
    first = next(iter(device_map.values()), None)
    return f"cuda:{first}" if isinstance(first, int) else first
