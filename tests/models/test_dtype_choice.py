"""`--dtype auto` takes what is measured to be faster, and says what was measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from depthprune.errors import UsageError
from depthprune.models import dtype_choice
from depthprune.models.devices import DTYPES
from depthprune.models.dtype_choice import _Weights, choose_dtype
from depthprune.models.loading import load
from depthprune.models.parity import reload_like, verify
from depthprune.models.source import find_model
from depthprune.pruning.apply import apply
from tiny import save_tiny
from versions import OLD

CPU = torch.device("cpu")


def _timed(monkeypatch: pytest.MonkeyPatch, **seconds: float) -> None:
    monkeypatch.setattr(
        dtype_choice, "_seconds", lambda kinds, *_: {kind: seconds[kind] for kind in kinds}
    )


@pytest.mark.parametrize(
    ("bfloat16", "chosen"), [(0.2, "bfloat16"), (0.6, "bfloat16"), (0.9, "float32"), (3, "float32")]
)
def test_bfloat16_is_taken_where_it_is_clearly_faster(
    bfloat16: float, chosen: str, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _timed(monkeypatch, float32=1.0, bfloat16=bfloat16)
    choice = choose_dtype("auto", find_model(tiny_llama), CPU)
    assert choice.name == chosen
    assert choice.why is not None
    assert "1000.00 ms in float32" in choice.why
    assert f"{1e3 * bfloat16:.2f} ms in bfloat16" in choice.why


def test_what_was_chosen_first_stands(tiny_llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Near the boundary two runs would else compute differently, and find none of their losses."""
    _timed(monkeypatch, float32=1.0, bfloat16=0.65)
    first = choose_dtype("auto", find_model(tiny_llama), CPU)
    _timed(monkeypatch, float32=1.0, bfloat16=0.7)
    second = choose_dtype("auto", find_model(tiny_llama), CPU)
    assert first.name == second.name == "bfloat16"
    assert "earlier" not in str(first.why)
    assert str(second.why).endswith("bfloat16 was faster in an earlier run on this machine")
    # Where it cannot be computed any more, the question is another one.
    _timed(monkeypatch, float32=1.0, bfloat16=float("inf"))
    assert choose_dtype("auto", find_model(tiny_llama), CPU).name == "float32"


def test_a_dtype_that_the_device_lacks_is_not_taken(
    tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _timed(monkeypatch, float32=1.0, bfloat16=float("inf"))
    assert choose_dtype("auto", find_model(tiny_llama), CPU).name == "float32"


def test_half_the_size_is_taken_where_float32_does_not_fit(
    tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _timed(monkeypatch, float32=1.0, bfloat16=9.0)
    monkeypatch.setattr(dtype_choice, "available_memory", lambda _: 100_000)
    choice = choose_dtype("auto", find_model(tiny_llama), CPU)
    assert choice.name == "bfloat16"
    assert "are free on cpu" in str(choice.why)
    assert choose_dtype("auto", find_model(tiny_llama), CPU, held=False).name == "float32"


@pytest.mark.parametrize(
    ("float16", "bfloat16", "chosen"),
    [(0.2, 0.2, "float16"), (2.0, 0.2, "bfloat16"), (2.0, 2.0, "float32")],
)
def test_float16_weights_keep_their_bits_where_that_is_fast(
    float16: float,
    bfloat16: float,
    chosen: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = save_tiny(tmp_path / "half", dtype=torch.float16)
    _timed(monkeypatch, float32=1.0, float16=float16, bfloat16=bfloat16)
    assert choose_dtype("auto", find_model(folder), CPU).name == chosen


def test_what_the_user_names_is_taken_without_a_measurement(
    tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _timed(monkeypatch)
    for name in ("float32", "bfloat16", "float16"):
        assert choose_dtype(name, find_model(tiny_llama), CPU).name == name
        assert choose_dtype(name, find_model(tiny_llama), CPU).why is None
    with pytest.raises(UsageError, match="--dtype: expected auto, float32"):
        choose_dtype("int8", find_model(tiny_llama), CPU)


def test_the_product_is_one_of_the_models_blocks(tiny_llama: Path, tmp_path: Path) -> None:
    found = _Weights.of(find_model(tiny_llama))
    assert found.shape in ((48, 32), (32, 48))
    assert found.stored == "F32"
    # Not the embedding, which is larger.
    assert 320 not in found.shape


def test_mxfp4_counts_as_what_it_is_unpacked_to(tmp_path: Path) -> None:
    file = save_tiny(tmp_path / "model") / "model.safetensors"
    before = _Weights.of(find_model(file.parent)).elements
    packed = torch.zeros(4, 48, 3, 16, dtype=torch.uint8)
    tensors = load_file(file) | {"model.layers.0.mlp.experts.gate_up_proj_blocks": packed}
    save_file(tensors, file, {"format": "pt"})
    assert _Weights.of(find_model(file.parent)).elements == before + 4 * 48 * 96


def test_a_loaded_model_tells_why(tiny_llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _timed(monkeypatch, float32=1.0, bfloat16=0.1)
    model = load(tiny_llama, device="cpu")
    assert model.dtype == "bfloat16"
    assert model.dtype_reason == choose_dtype("auto", model.source, CPU).why
    assert load(tiny_llama, dtype="float32", device="cpu").dtype_reason is None


def test_a_product_is_timed_in_every_dtype() -> None:
    kinds, threads = ("float32", "bfloat16", "float16"), torch.get_num_threads()
    found = dtype_choice._seconds(kinds, CPU, (96, 64))
    assert list(found) == list(kinds)
    assert all(0 < seconds < 10 for seconds in found.values())
    assert torch.get_num_threads() == threads


def test_a_dtype_that_takes_twice_as_long_is_timed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a processor without its instructions a dozen products would take seconds."""
    timed: list[str] = []

    def once(product: str, _: object) -> float:
        timed.append(product)
        return {"float32": 1.0, "bfloat16": 0.9, "float16": 3.0}[product]

    kinds = ("float32", "float16", "bfloat16")
    named = {dtype: name for name, dtype in DTYPES.items()}
    monkeypatch.setattr(dtype_choice, "_product", lambda dtype, *_: named[dtype])
    monkeypatch.setattr(dtype_choice, "_once", once)
    found = dtype_choice._seconds(kinds, CPU, (7, 5))
    assert found == {"float32": 1.0, "float16": 3.0, "bfloat16": 0.9}
    assert [timed.count(kind) for kind in kinds] == [12, 1, 12]


@pytest.mark.parametrize("error", [RuntimeError, TypeError])
def test_a_dtype_that_a_device_lacks_is_not_taken(
    error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = dtype_choice._product

    def product(dtype: torch.dtype, *shape: Any) -> Any:
        if dtype == torch.bfloat16:
            raise error("MPS bfloat16 type is supported on MacOS 14.0 or newer.")
        return plain(dtype, *shape)

    monkeypatch.setattr(dtype_choice, "_product", product)
    found = dtype_choice._seconds(("float32", "bfloat16"), CPU, (11, 13))
    assert found["bfloat16"] == float("inf")


@pytest.mark.skipif(OLD, reason="needs a GPU before transformers 5")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_eight_bit_floats_are_unpacked_to_the_dtype_that_is_asked_for(
    dtype: str, tmp_path: Path
) -> None:
    """A processor has no kernel for them, and transformers unpacks them to bfloat16."""
    sizes: dict[str, Any] = {"hidden_size": 128, "intermediate_size": 128, "head_dim": 64}
    folder = save_tiny(tmp_path / "whole", "qwen3", blocks=3, dtype=torch.bfloat16, **sizes)
    held = load_file(folder / "model.safetensors")
    for name in [name for name in held if "_proj." in name]:
        held[name] = (held[name].float() * 64).to(torch.float8_e4m3fn)
        held[f"{name}_scale_inv"] = torch.full((1, 1), 1 / 64)
    save_file(held, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    packed = {"quant_method": "fp8", "weight_block_size": [128, 128], "fmt": "e4m3"}
    config["quantization_config"] = packed | {"activation_scheme": "dynamic"}
    (folder / "config.json").write_text(json.dumps(config))

    model = load(folder, dtype=dtype, device="cpu")
    assert {parameter.dtype for parameter in model.module.parameters()} == {DTYPES[dtype]}
    apply(folder, (1,), tmp_path / "cut")
    assert verify(model, reload_like(model, tmp_path / "cut"), (1,)).bitwise
