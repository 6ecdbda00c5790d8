"""What runs out of memory, or cannot be run, while it is proven is one clear line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import depthprune as dp
from depthprune.errors import ModelError, ParityError
from depthprune.models import parity
from depthprune.models.loading import Model, load
from depthprune.models.parity import comparison, verify_checkpoint
from depthprune.pruning.apply import apply
from tiny import save_tiny, tiny_model


def _raising(error: Exception) -> Callable[..., Any]:
    def fail(*args: Any, **kwargs: Any) -> Any:
        raise error

    return fail


OUT_OF_MEMORY = (
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
)


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=["torch", "cuBLAS"])
def test_memory_that_runs_out_while_the_blocks_are_proven(error: Exception) -> None:
    from depthprune.models.blocks.find import find_anatomy

    model = tiny_model("llama")
    model.model.layers[3].mlp.register_forward_pre_hook(_raising(error))
    with pytest.raises(ModelError, match=r"memory ran out on cpu .*--stream"):
        find_anatomy(model)


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=["torch", "cuBLAS"])
def test_memory_that_runs_out_during_parity(
    error: Exception, tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    apply(tiny_llama, (2,), tmp_path / "cut")
    monkeypatch.setattr(comparison, "_logits", _raising(error))
    with pytest.raises(ModelError, match=r"parity: memory ran out on cpu .*nothing was kept"):
        verify_checkpoint(tiny_llama, tmp_path / "cut", (2,), dtype="float32", device="cpu")


def test_a_type_that_transformers_does_not_run_in_bfloat16_names_float32(tmp_path: Path) -> None:
    save_tiny(tmp_path / "whole", "xlnet", dtype=torch.bfloat16)
    with pytest.raises(ModelError, match=r"cannot be run in bfloat16 .*take --dtype float32"):
        load(tmp_path / "whole", dtype="bfloat16", device="cpu")
    assert load(tmp_path / "whole", dtype="float32", device="cpu").blocks == 6


@pytest.fixture
def failing_beyond_64(tiny_llama: Path) -> Model:
    """A model in bfloat16 that mixes dtypes from 64 tokens on, as xLSTM of transformers does."""
    model = load(tiny_llama, dtype="bfloat16", device="cpu")

    def mixed(module: Any, args: Any) -> None:
        if args[0].shape[1] > 64:
            args[0] @ torch.zeros(args[0].shape[-1], 1)

    model.anatomy.blocks.modules[1].mlp.register_forward_pre_hook(mixed)
    return model


def test_a_type_that_runs_short_texts_only_fails_parity_in_one_line(
    failing_beyond_64: Model, tiny_llama: Path, tmp_path: Path
) -> None:
    apply(tiny_llama, (2,), tmp_path / "cut")
    module = parity.reload(tmp_path / "cut", "bfloat16", "cpu")
    with pytest.raises(ParityError, match=r"parity: .*in bfloat16 .*--dtype float32; nothing"):
        parity.verify(failing_beyond_64, module, (2,))


def test_a_type_that_runs_short_texts_only_is_not_scored_on_longer_ones(
    failing_beyond_64: Model, tmp_path: Path
) -> None:
    (tmp_path / "text.txt").write_text("The bridge is of grey stone. " * 40)
    spec = f"text:{tmp_path / 'text.txt'},windows=2,length=96"
    calibration = dp.calibrate(spec, failing_beyond_64)
    with pytest.raises(ModelError, match=r"cannot be run in bfloat16 .*--dtype float32"):
        dp.Evaluator(failing_beyond_64, calibration, racing=None).score([(), (2,)])
