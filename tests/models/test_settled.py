"""Where float32 leaves a doubt, float64 decides; a model that is wrong is wrong in both."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from depthprune.models.loading import load
from depthprune.models.parity import reload, verify
from depthprune.models.widening import FLOAT32_LIMIT, settled, widened
from depthprune.pruning.apply import apply
from hostile import hostile_arithmetic
from tiny import save_tiny, tiny_model

SHARP = {"attention_multiplier": 4.0, "residual_multiplier": 1.0}
"""Of a Granite: attention that amplifies what a device rounds a thousandfold."""


def _asked(differences: dict[torch.dtype, float]) -> tuple[float, str, list[torch.dtype]]:
    model = tiny_model("llama")
    seen = []

    def apart() -> float:
        seen.append(model.model.embed_tokens.weight.dtype)
        return differences[seen[-1]]

    return *settled(model, list(model.model.layers), apart), seen


def test_float32_decides_where_it_can() -> None:
    assert _asked({torch.float32: 9e-6}) == (9e-6, "float32", [torch.float32])


@pytest.mark.parametrize("finer", [1e-12, 0.3])
def test_float64_decides_where_float32_is_beyond_its_limit(finer: float) -> None:
    found = _asked({torch.float32: 1.5e-5, torch.float64: finer})
    assert found == (finer, "float64", [torch.float32, torch.float64])


def test_what_cannot_be_run_in_float64_is_decided_by_float32() -> None:
    model = tiny_model("llama")

    def apart() -> float:
        if model.model.embed_tokens.weight.dtype == torch.float64:
            raise RuntimeError("not implemented for 'Double'")
        return 2e-5

    assert settled(model, list(model.model.layers), apart) == (2e-5, "float32")


def test_a_model_widened_to_float64_comes_back_to_the_bit() -> None:
    model = tiny_model("llama")
    before = {name: (p.data_ptr(), p.dtype) for name, p in model.named_parameters()}
    buffers = {name: b.dtype for name, b in model.named_buffers()}
    tokens = torch.arange(3, 19)[None]
    with torch.inference_mode():
        expected = model(input_ids=tokens).logits
        with widened(model, list(model.model.layers), torch.float64):
            wide = model(input_ids=tokens).logits
        again = model(input_ids=tokens).logits
    assert wide.dtype == torch.float64
    assert torch.allclose(wide.float(), expected, atol=1e-5)
    assert torch.equal(again, expected)
    assert {name: (p.data_ptr(), p.dtype) for name, p in model.named_parameters()} == before
    assert {name: b.dtype for name, b in model.named_buffers()} == buffers


def test_a_restless_device_that_amplifies_is_decided_in_float64(tmp_path: Path) -> None:
    save_tiny(tmp_path / "whole", "granite", blocks=8, **SHARP)
    apply(tmp_path / "whole", (1, 4), tmp_path / "cut")
    with hostile_arithmetic(restless=True):
        model = load(tmp_path / "whole", dtype="float32", device="cpu")
        record = verify(model, reload(tmp_path / "cut", "float32", "cpu"), (1, 4))
    proof = model.anatomy.proof
    assert proof is not None
    assert proof.widened is not None
    assert proof.widened <= FLOAT32_LIMIT < proof.replay
    assert record.float64_difference is not None
    assert record.float64_difference <= FLOAT32_LIMIT
