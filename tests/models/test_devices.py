"""What must hold on every device, shown on the processor with devices that are made up."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from depthprune.errors import UsageError
from depthprune.models.devices import (
    choose_device,
    plain_products,
    wide_place,
    wide_sum,
)
from depthprune.models.free_memory import out_of_memory
from depthprune.recovery.linear.normal_equations import Sums

MATMUL, CUDNN = torch.backends.cuda.matmul, torch.backends.cudnn


@pytest.mark.parametrize("name", ["meta", "xpu", "xpu:0", "hpu", "privateuseone", "vulkan", "cpu!"])
def test_a_device_of_another_kind_is_refused_by_name(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As where this torch can make tensors on it.
    monkeypatch.setattr(torch, "empty", lambda *_, **__: None)
    with pytest.raises(UsageError, match=f"cuda:N or mps, got '{name}'") as caught:
        choose_device(name)
    assert "\n" not in str(caught.value)


def test_float32_is_float32_inside_and_as_it_was_afterwards() -> None:
    before = (MATMUL.allow_tf32, CUDNN.allow_tf32, CUDNN.benchmark)
    try:
        MATMUL.allow_tf32 = CUDNN.allow_tf32 = CUDNN.benchmark = True
        with pytest.raises(KeyError), plain_products():
            raise KeyError((MATMUL.allow_tf32, CUDNN.allow_tf32, CUDNN.benchmark))
        assert (MATMUL.allow_tf32, CUDNN.allow_tf32, CUDNN.benchmark) == (True, True, True)
        with plain_products():
            assert (MATMUL.allow_tf32, CUDNN.allow_tf32, CUDNN.benchmark) == (False, False, False)
    finally:
        MATMUL.allow_tf32, CUDNN.allow_tf32, CUDNN.benchmark = before


@pytest.mark.skipif(not hasattr(MATMUL, "fp32_precision"), reason="torch tells it by a flag alone")
def test_a_precision_that_was_set_in_the_newer_way_is_left_as_it_was() -> None:
    before = MATMUL.allow_tf32
    try:
        MATMUL.fp32_precision = "tf32"  # now the flag refuses to be read
        with plain_products():
            assert MATMUL.fp32_precision == "ieee"
        assert MATMUL.fp32_precision == "tf32"
    finally:
        MATMUL.allow_tf32 = before


@pytest.mark.parametrize(
    "words",
    [
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "MPS backend out of memory (MPS allocated: 8.00 GB, max allowed: 9.07 GB)",
        "HIP out of memory. Tried to allocate 2.00 GiB",
        "[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: not enough memory: you tried",
        "[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried",
    ],
)
def test_memory_that_ran_out_is_known_in_the_words_of_every_backend(words: str) -> None:
    assert out_of_memory(RuntimeError(words))
    assert not out_of_memory(RuntimeError("CUDA error: an illegal memory access"))


def test_float64_is_left_to_the_processor_where_a_device_has_none() -> None:
    assert wide_place(torch.device("mps")) == torch.device("cpu")
    assert wide_place(torch.device("cuda", 1)) == torch.device("cuda", 1)
    assert Sums.empty(3, torch.device("mps")).moments.device.type == "cpu"


class NoFloat64:
    """A tensor of a device that knows no float64."""

    device = torch.device("mps")

    def __init__(self, values: torch.Tensor) -> None:
        self.values = values

    def dim(self) -> int:
        return self.values.dim()

    def sum(self, dim: int | None = None, dtype: torch.dtype | None = None) -> NoFloat64:
        if dtype is torch.float64:
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype")
        return NoFloat64(self.values.sum(dim, dtype=dtype))

    def to(self, place: torch.device) -> torch.Tensor:
        assert place == torch.device("cpu")
        return self.values


def test_sums_are_wide_without_asking_the_device_for_float64() -> None:
    values = torch.linspace(0, 1, 3000).view(3, 1000)
    there: Any = NoFloat64(values)
    assert wide_sum(there).dtype == torch.float64
    assert wide_sum(there).item() == pytest.approx(values.double().sum().item(), rel=1e-7)
    assert wide_sum(values).item() == values.sum(dtype=torch.float64).item()
