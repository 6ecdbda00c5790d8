"""The devices and dtypes that a model can compute on and in, and what is done otherwise on each."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from depthprune.errors import UsageError, first_line

DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


def choose_device(name: str) -> torch.device:
    """The torch device that a `--device` names.

    Raises:
        UsageError: If there is no such device here.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(
            f"--device: expected auto, cpu, cuda, cuda:N or mps, got {name!r} ({first_line(error)})"
        ) from error
    return device


def check_dtype(name: str) -> None:
    """Refuse a `--dtype` that is none.

    Raises:
        UsageError: If the name is unknown.
    """
    if name != "auto" and name not in DTYPES:
        raise UsageError(f"--dtype: expected auto, {', '.join(DTYPES)}, got {name!r}")


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
