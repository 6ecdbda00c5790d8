"""What a device computes, as a fingerprint: two that round differently never share a result.

The same product is another number in its last places on a processor with matrix units, on one
without, on a GPU, and with another number of threads, and thirty blocks make that a third digit of
a loss. No list of processors and versions could say which of them agree, so a few products, whose
operands are the same numbers everywhere, are computed and their bytes hashed: with few rows and
with many, batched, and as attention, since kernels change with the shape. Whatever is kept for
later runs (losses, a model's own texts, the checkpoints of a training) is kept under it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Protocol

import numpy as np
import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional

from depthprune.models.devices import DTYPES

_ROWS = (1, 4, 17, 64, 256)
_TERMS, _COLUMNS = 384, 256
_LONG_SUM = 2048
_HEADS, _LENGTHS, _WIDTH = 4, (16, 128), 64
_SHORT = 16


class Computing(Protocol):
    """A model that is loaded."""

    @property
    def module(self) -> nn.Module:
        """What computes."""

    @property
    def device(self) -> str:
        """Where it computes, or first does."""

    @property
    def dtype(self) -> str:
        """In which dtype."""


def arithmetic_of(model: Computing) -> str:
    """Fingerprint the arithmetic of the devices that a model is on, in its dtype."""
    devices = {p.device for p in model.module.parameters() if not p.is_meta}
    return arithmetic({*devices, torch.device(model.device)}, model.dtype)


def arithmetic(devices: Iterable[torch.device], dtype: str) -> str:
    """Fingerprint the arithmetic of one or more devices.

    It is computed once a process for each device, dtype and number of threads, in milliseconds.

    Args:
        devices: Where a model computes.
        dtype: Name of the dtype it computes in.

    Returns:
        Sixteen hexadecimal digits, behind the number of threads where a processor is among the
        devices; equal where products, versions of torch and transformers, kinds of devices and
        threads are.
    """
    names = sorted({str(device) for device in devices})
    digest = hashlib.sha256(f"{torch.__version__}\n{transformers.__version__}\n".encode())
    digest.update(f"{dtype}\n{torch.get_float32_matmul_precision()}\n".encode())
    threads = torch.get_num_threads()
    for name in names:
        digest.update(_of_device(name, dtype, threads).encode())
    short = digest.hexdigest()[:_SHORT]
    if not any(torch.device(name).type == "cpu" for name in names):
        return short
    return f"{threads} thread{'s' if threads > 1 else ''}, {short}"


@lru_cache(maxsize=64)
def _of_device(name: str, dtype: str, threads: int) -> str:
    """The hash of one device's products; the threads are an argument since products follow them."""
    device = torch.device(name)
    digest = hashlib.sha256(device.type.encode())
    if device.type == "cpu":
        digest.update(f"{threads} threads".encode())
    if device.type == "cuda":
        facts = torch.cuda.get_device_name(device), torch.version.cuda, torch.version.hip
        digest.update(repr(facts).encode())
    with torch.inference_mode():
        for found in _products(device, DTYPES[dtype]):
            digest.update(found.cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _products(device: torch.device, dtype: torch.dtype) -> Iterator[Tensor]:
    """What models are made of, at shapes that take different kernels."""
    rng = np.random.default_rng(0)

    def drawn(*shape: int) -> Tensor:
        # Whole numbers over powers of two are the same on every machine; drawn floats need not be.
        # Powers far enough apart, or a sum of float32 holds every product and rounds nowhere.
        whole, power = rng.integers(-512, 512, size=shape), rng.integers(2, 14, size=shape)
        return torch.from_numpy(np.ldexp(whole.astype(np.float64), -power)).to(device, dtype)

    weight, long = drawn(_COLUMNS, _TERMS), drawn(_WIDTH, _LONG_SUM)
    for rows in _ROWS:
        yield functional.linear(drawn(rows, _TERMS), weight)
    yield functional.linear(drawn(_ROWS[1], _LONG_SUM), long)
    yield functional.linear(drawn(_ROWS[-1], _LONG_SUM), long)
    for length in _LENGTHS:
        query, key, value = (drawn(1, _HEADS, length, _WIDTH) for _ in range(3))
        scores = torch.bmm(query[0], key[0].transpose(1, 2))
        weights = torch.softmax(scores.float() / 8, -1)
        yield scores
        yield weights
        yield torch.bmm(weights.to(dtype), value[0])
        yield functional.scaled_dot_product_attention(query, key, value, is_causal=True)
    states = drawn(64, _TERMS)
    yield functional.silu(states)
    yield functional.gelu(states)
    yield states.float().pow(2).mean(-1).rsqrt()
    yield functional.log_softmax(states.float(), -1)
