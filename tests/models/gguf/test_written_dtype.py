"""What a GGUF is unpacked to is what its checkpoint holds, whatever the machine computes in."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import depthprune as dp
from depthprune.checkpoints.gguf.reader import read_gguf
from depthprune.evaluator.memo.contexts import contexts_of
from depthprune.models.gguf.written_dtype import as_written, written_dtype
from depthprune.objectives import parse_objective
from gguf_tiny import tiny_gguf

F32, BF16, F16 = torch.float32, torch.bfloat16, torch.float16


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf", tokenizer=True)


@pytest.mark.parametrize(
    ("stored", "written"),
    [("Q8_0", BF16), ("Q4_K", BF16), ("BF16", BF16), ("F16", F16), ("F32", F32)],
)
def test_it_is_bfloat16_unless_the_weights_are_stored_in_a_dtype_of_torch(
    tiny: Path, stored: str, written: torch.dtype
) -> None:
    packed = read_gguf(tiny)
    tensors = tuple(
        replace(tensor, dtype=stored if len(tensor.shape) > 1 else "F32")
        for tensor in packed.tensors
    )
    file = replace(packed, tensors=tensors)
    assert written_dtype(file, F32) == written
    assert written_dtype(file, BF16) == BF16
    assert written_dtype(file, F16) == F16


def test_weights_in_float32_are_what_bfloat16_holds_of_the_file(tiny: Path) -> None:
    wide, narrow = (dp.load(tiny, dtype=dtype, device="cpu") for dtype in ("float32", "bfloat16"))
    assert wide.written_dtype == narrow.written_dtype == "bfloat16"
    for name, parameter in wide.module.named_parameters():
        assert parameter.dtype == F32
        assert torch.equal(parameter.to(BF16), narrow.module.get_parameter(name)), name
        assert torch.equal(parameter.to(BF16).to(F32), parameter), name


def test_a_checkpoint_is_the_same_whatever_computed_it(tiny: Path, tmp_path: Path) -> None:
    spec = "stdlib-prose,windows=2,length=16"
    for dtype in ("float32", "bfloat16"):
        manifest = dp.prune(
            tiny,
            k=2,
            protect="0-2,5",
            calibration=[spec],
            out=tmp_path / dtype,
            dtype=dtype,
            device="cpu",
            bench=False,
        )
        assert manifest.removed == [3, 4]
        assert (manifest.dtype, manifest.measured_dtype) == ("bfloat16", dtype)
        assert manifest.parity is not None
        assert manifest.parity.bitwise
    wide, narrow = (
        (tmp_path / dtype / "model.safetensors").read_bytes() for dtype in ("float32", "bfloat16")
    )
    assert wide == narrow
    config = json.loads((tmp_path / "float32" / "config.json").read_text(encoding="utf-8"))
    assert config["dtype"] == "bfloat16"


def test_a_module_has_its_own_weights_again_after_it_was_written(tiny: Path) -> None:
    module = dp.load(tiny, dtype="float32", device="cpu").module
    own = [parameter.data_ptr() for parameter in module.parameters()]
    with as_written(module, F32, BF16):
        assert {parameter.dtype for parameter in module.parameters()} == {BF16}
    assert [parameter.data_ptr() for parameter in module.parameters()] == own


def test_losses_of_rounded_weights_are_kept_apart_in_the_memo(tiny: Path) -> None:
    nll = parse_objective("nll")
    wide, narrow = (dp.load(tiny, dtype=dtype, device="cpu") for dtype in ("float32", "bfloat16"))
    (context,) = contexts_of(wide, nll, False, "")
    assert "weights rounded to bfloat16" in str(context)
    (context,) = contexts_of(narrow, nll, False, "")
    assert "rounded" not in str(context)
