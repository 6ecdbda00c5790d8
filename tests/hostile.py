"""Arithmetic that rounds as the shape of the call has it, on any machine.

Matrix units of processors and GPUs split a sum differently when more rows share a call, so that
one row's product is another number in its last places. Here every product of the process's tensors
does so: its sum is cut in two at a place that follows from the number of rows, and each part is
rounded to the dtype. In float32 that is a matter of 1e-7; in bfloat16 it shows, and blocks amplify
it. Calls of one shape agree to the bit, as they do there; unless the arithmetic is *restless*, as
kernels are that are tuned while they run or add up in no fixed order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

from depthprune.models.arithmetic import _of_device

aten = torch.ops.aten


def cut(size: int, rows: int) -> int:
    """Where a sum of `size` terms is cut in two when `rows` rows share the call; 0 is not at all.

    Neighbouring numbers of rows cut far from each other.
    """
    return int(((rows + _state.calls) * 0.6180339887498949) % 1.0 * size)


class _State:
    calls = 0
    """Of a restless arithmetic."""


_state = _State()


def _mm(a: Tensor, b: Tensor) -> Tensor:
    at = cut(a.shape[1], a.shape[0])
    return a[:, :at] @ b[:at] + a[:, at:] @ b[at:] if at else a @ b


def _bmm(a: Tensor, b: Tensor) -> Tensor:
    at = cut(a.shape[2], a.shape[0] * a.shape[1])
    if not at:
        return torch.bmm(a, b)
    return torch.bmm(a[..., :at], b[:, :at]) + torch.bmm(a[..., at:], b[:, at:])


def _added(product: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
    def add(more: Tensor, a: Tensor, b: Tensor, *, beta: Any = 1, alpha: Any = 1) -> Tensor:
        found = product(a, b)
        found = found if alpha == 1 else found * alpha
        # What is multiplied by zero is not read: it may be uninitialised.
        return found if beta == 0 else found + (more if beta == 1 else more * beta)

    return add


def _mv(a: Tensor, b: Tensor) -> Tensor:
    return _mm(a, b.unsqueeze(1)).squeeze(1)


def _halves(weight: Tensor, axis: int, rows: int) -> tuple[Tensor, Tensor]:
    """The weight with the terms behind the cut at zero, and with those before it."""
    first, second = weight.clone(), weight.clone()
    at = cut(weight.shape[axis], rows)
    first.narrow(axis, at, weight.shape[axis] - at).zero_()
    second.narrow(axis, 0, at).zero_()
    return first, second


def _convolution(x: Tensor, weight: Tensor, bias: Any, *rest: Any) -> Tensor:
    first, second = _halves(weight, weight.dim() - 1, x.shape[0] * x.shape[-1])
    return aten.convolution(x, first, bias, *rest) + aten.convolution(x, second, None, *rest)


def _grouped_mm(a: Tensor, b: Tensor, *rest: Any, **options: Any) -> Tensor:
    if b.dim() != 3:
        return aten._grouped_mm(a, b, *rest, **options)
    first, second = _halves(b, 1, a.shape[0])
    return aten._grouped_mm(a, first, *rest, **options) + aten._grouped_mm(a, second, *rest)


_PRODUCTS: dict[Any, Callable[..., Tensor]] = {
    aten.mm.default: _mm,
    aten.mm.out: _mm,
    aten.bmm.default: _bmm,
    aten.bmm.out: _bmm,
    aten.addmm.default: _added(_mm),
    aten.addmm.out: _added(_mm),
    aten.baddbmm.default: _added(_bmm),
    aten.baddbmm.out: _added(_bmm),
    aten.mv.default: _mv,
    aten.addmv.default: _added(_mv),
    aten.convolution.default: _convolution,
} | ({aten._grouped_mm.default: _grouped_mm} if hasattr(aten, "_grouped_mm") else {})


class HostileArithmetic(TorchDispatchMode):
    """Inside the context, products round by the number of rows in the call.

    Attributes:
        products: How many were computed so.
    """

    def __init__(self, restless: bool = False) -> None:
        super().__init__()
        self.products = 0
        self._restless = restless

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        product = _PRODUCTS.get(func)
        if product is None:
            # `linear`, `matmul` and attention come whole where no gradient is recorded.
            with self:
                parts = func.decompose(*args, **kwargs)
            return func(*args, **kwargs) if parts is NotImplemented else parts
        if not args[1].is_floating_point():
            return func(*args, **kwargs)
        self.products += 1
        _state.calls += self._restless
        out = kwargs.pop("out", None)
        found = product(*args, **kwargs)
        return found if out is None else out.copy_(found)


@contextmanager
def hostile_arithmetic(*, restless: bool = False) -> Iterator[HostileArithmetic]:
    """Every product of this thread's tensors rounds by the number of rows in its call.

    Attention is made of such products for its length, and keeps to its dtype.

    Args:
        restless: Products round otherwise at each call.
    """
    # What a device computes is found once a process, and is another here.
    _of_device.cache_clear()
    rounds = torch.backends.cuda.fp16_bf16_reduction_math_sdp_allowed()
    torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(True)
    try:
        with sdpa_kernel(SDPBackend.MATH), HostileArithmetic(restless) as mode:
            yield mode
    finally:
        _state.calls = 0
        torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(rounds)
        _of_device.cache_clear()
