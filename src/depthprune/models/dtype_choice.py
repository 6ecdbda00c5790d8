"""`--dtype auto`: the dtype in which a model computes, found by measuring.

What a processor says of itself does not tell what is fast: one with bfloat16 instructions may take
longer in it than in float32. So one product of the model's own shape is timed in each. float32 is
taken unless a dtype of half the size is clearly faster, or float32 does not fit in memory. Near the
boundary nothing hangs on it but that a run which goes on computes as the one before it: so what was
chosen first stands on one machine (`timed_choices`). The candidate is bfloat16, whatever the
checkpoint is stored in: it overflows nowhere. Only weights stored as float16, which bfloat16 would
round, are tried in float16 first.
"""

from __future__ import annotations

import functools
import math
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import torch
from torch import Tensor

from depthprune.checkpoints.gguf.reader import read_gguf
from depthprune.models.arithmetic import arithmetic
from depthprune.models.devices import DTYPES, synchronize
from depthprune.models.dtype_names import check_dtype
from depthprune.models.free_memory import available_memory
from depthprune.models.source import ModelSource
from depthprune.models.timed_choices import remembered_choice

CLEARLY = 1.5
"""How many times faster than float32 a dtype must be."""

_CALLS = 12
"""Of each product, in turns; the fastest counts."""

_HOPELESS = 2.0
"""How many times as long as float32 a dtype takes once, so that it is not timed again."""

_ROWS = 64
_LARGEST = 1 << 24
"""Elements of a weight; of a larger one, a part is timed."""

_UNKNOWN_SHAPE = (4096, 1024)
"""Of pickled weights, whose headers are not read."""


@dataclass(frozen=True)
class DtypeChoice:
    """A dtype and why it is computed in.

    Attributes:
        name: Such as `bfloat16`.
        why: What was measured, in a few words; None where the user chose.
    """

    name: str
    why: str | None = None


def choose_dtype(
    name: str, source: ModelSource, device: torch.device, *, held: bool = True
) -> DtypeChoice:
    """The dtype that a `--dtype` names, for a model on a device.

    Args:
        name: `auto` or a dtype.
        source: The model's files.
        device: Where it computes.
        held: Whether that device alone holds the whole model.

    Raises:
        UsageError: If the name is unknown.
    """
    check_dtype(name)
    if name != "auto":
        return DtypeChoice(name)
    weights = _Weights.of(source)
    full = 4 * weights.elements
    half = "float16" if weights.stored == "F16" else "bfloat16"
    if held and full > (free := available_memory(device)):
        sizes = f"{full / 2**30:.1f} GiB and {free / 2**30:.1f} are free on {device}"
        return DtypeChoice(half, f"in float32 it takes {sizes}")
    candidates = (half, "bfloat16") if half != "bfloat16" else (half,)
    times = _seconds(("float32", *candidates), device, weights.shape)
    faster = next((k for k in candidates if times["float32"] > CLEARLY * times[k]), "float32")
    possible = [kind for kind, taken in times.items() if math.isfinite(taken)]
    computed = [arithmetic([device], kind) for kind in possible]
    question = f"dtype: {possible}, {weights.shape}, {computed}"
    chosen = remembered_choice(question, possible, lambda: faster)
    rows, columns = weights.shape
    measured = " and ".join(f"{1e3 * s:.2f} ms in {kind}" for kind, s in times.items())
    kept = "" if chosen == faster else f"; {chosen} was faster in an earlier run on this machine"
    return DtypeChoice(chosen, f"a product of {_ROWS} × {columns} × {rows} takes {measured}{kept}")


@dataclass(frozen=True)
class _Weights:
    """What the headers of a model's files say of its weights.

    Attributes:
        elements: In all.
        shape: Of the matrix that blocks have most of, by elements: rows and columns.
        stored: The most common dtype, in the words of the format.
    """

    elements: int
    shape: tuple[int, int]
    stored: str

    @classmethod
    def of(cls, source: ModelSource) -> _Weights:
        if source.gguf is not None:
            # There the fastest dimension comes first.
            tensors = [(t.shape[::-1], t.dtype) for t in read_gguf(source.gguf).tensors]
        elif source.checkpoint is not None:
            held = source.checkpoint.tensors.items()
            tensors = [(_loaded_shape(name, t.shape, t.dtype), t.dtype) for name, t in held]
        else:
            return cls(source.bytes_on_disk() // 2, _UNKNOWN_SHAPE, "")
        stored: Counter[str] = Counter()
        matrices: Counter[tuple[int, int]] = Counter()
        for shape, dtype in tensors:
            elements = math.prod(shape)
            stored[dtype] += elements
            if len(shape) >= 2:
                matrices[(shape[-2], shape[-1])] += 1
        return cls(stored.total(), _largest(matrices, source.blocks), _first(stored))


def _loaded_shape(name: str, shape: tuple[int, ...], dtype: str) -> tuple[int, ...]:
    """A tensor's shape in memory, where MXFP4, two numbers a byte in groups, is unpacked."""
    if dtype == "U8" and name.endswith("_blocks") and len(shape) > 2:
        return (*shape[:-2], 2 * shape[-2] * shape[-1])
    return shape


def _largest(matrices: Counter[tuple[int, int]], blocks: int) -> tuple[int, int]:
    """The largest matrix that every block has; an embedding is no such one."""
    common = [shape for shape, count in matrices.items() if count >= blocks] or list(matrices)
    return max(common, key=lambda shape: shape[0] * shape[1], default=_UNKNOWN_SHAPE)


def _first(stored: Counter[str]) -> str:
    return stored.most_common(1)[0][0] if stored else ""


@functools.cache
def _seconds(
    kinds: tuple[str, ...], device: torch.device, shape: tuple[int, int]
) -> dict[str, float]:
    """Seconds of one product in each dtype; infinite where it cannot be computed there.

    On a processor one thread is timed, by the time that it is run: what else the machine does
    does not count, and the other threads compute as that one.
    """
    columns = min(shape[1], _LARGEST)
    rows = max(1, min(shape[0], _LARGEST // columns))
    products = {}
    found = dict.fromkeys(kinds, float("inf"))
    threads = torch.get_num_threads()
    try:
        if device.type == "cpu":
            torch.set_num_threads(1)
        with torch.inference_mode():
            for kind in kinds:
                # MPS calls a dtype that it lacks the wrong type.
                with suppress(RuntimeError, TypeError):
                    products[kind] = _product(DTYPES[kind], device, rows, columns)
            for call in range(_CALLS):
                for kind, product in products.items():
                    if not call or found[kind] <= _HOPELESS * found["float32"]:
                        found[kind] = min(found[kind], _once(product, device))
    finally:
        torch.set_num_threads(threads)
    return found


def _product(
    dtype: torch.dtype, device: torch.device, rows: int, columns: int
) -> Callable[[], Tensor]:
    states = torch.ones(_ROWS, columns, dtype=dtype, device=device)
    weight = torch.ones(rows, columns, dtype=dtype, device=device)

    def product() -> Tensor:
        return torch.nn.functional.linear(states, weight)

    product()  # the first makes the kernel
    return product


def _once(product: Callable[[], Tensor], device: torch.device) -> float:
    if device.type == "cpu":
        began = time.thread_time()
        product()
        return time.thread_time() - began
    synchronize(device)
    began = time.perf_counter()
    product()
    synchronize(device)
    return time.perf_counter() - began
