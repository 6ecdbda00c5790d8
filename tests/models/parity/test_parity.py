"""Parity catches what loads and runs and is wrong."""

from __future__ import annotations

import inspect
import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from depthprune.errors import ParityError
from depthprune.models.loading import load
from depthprune.models.parity import reload, verify, verify_checkpoint
from depthprune.models.probe_tokens import probe_tokens
from depthprune.pruning.apply import apply
from hostile import HostileArithmetic
from tiny import save_tiny
from versions import needs_transformers_5

REMOVED = (1, 4)


@pytest.fixture
def pruned(tiny_llama: Path, tmp_path: Path) -> Path:
    apply(tiny_llama, REMOVED, tmp_path / "pruned")
    return tmp_path / "pruned"


def test_a_right_cut_is_exact(tiny_llama: Path, pruned: Path) -> None:
    record = verify_checkpoint(tiny_llama, pruned, REMOVED, dtype="float32", device="cpu")
    assert record.bitwise
    assert record.logits_difference == 0
    assert record.generated_tokens == 16


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_what_rounds_by_the_rows_of_a_call_is_bitwise_in_calls_of_one_shape(
    dtype: str, tiny_llama: Path, pruned: Path, hostile: HostileArithmetic
) -> None:
    record = verify_checkpoint(tiny_llama, pruned, REMOVED, dtype=dtype, device="cpu")
    assert record.bitwise
    assert record.generated_tokens == 16


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_low_precision_that_is_not_bitwise_must_be_exact_in_float32(
    dtype: str, tiny_llama: Path, pruned: Path, restless: HostileArithmetic
) -> None:
    record = verify_checkpoint(tiny_llama, pruned, REMOVED, dtype=dtype, device="cpu")
    assert not record.bitwise
    assert record.dtype == dtype
    assert record.logits_difference > 1e-4 * record.logits_scale
    assert record.float32_difference is not None
    assert 0 < record.float32_difference <= 1e-5


def test_float32_that_is_not_bitwise_must_be_equal_within_its_rounding(
    tiny_llama: Path, pruned: Path, restless: HostileArithmetic
) -> None:
    record = verify_checkpoint(tiny_llama, pruned, REMOVED, dtype="float32", device="cpu")
    assert not record.bitwise
    assert 0 < record.logits_difference <= 1e-5 * record.logits_scale
    assert record.float32_difference is None


def test_the_models_come_back_in_their_own_dtype(tiny_llama: Path, pruned: Path) -> None:
    model = load(tiny_llama, dtype="bfloat16", device="cpu")
    before = {name: p.clone() for name, p in model.module.named_parameters()}
    verify(model, reload(pruned, "bfloat16", "cpu"), REMOVED)
    assert all(torch.equal(before[name], p) for name, p in model.module.named_parameters())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_another_removed_set_is_told_apart(dtype: str, tiny_llama: Path, pruned: Path) -> None:
    with pytest.raises(ParityError, match="logits differ"):
        verify_checkpoint(tiny_llama, pruned, (1, 3), dtype=dtype, device="cpu")


def test_a_missing_key_is_named(tiny_llama: Path, pruned: Path) -> None:
    file = pruned / "model.safetensors"
    tensors = load_file(file)
    del tensors["model.layers.2.mlp.up_proj.weight"]
    save_file(tensors, file, {"format": "pt"})
    with pytest.raises(ParityError, match=r"missing keys.*layers\.2\.mlp\.up_proj"):
        verify_checkpoint(tiny_llama, pruned, REMOVED, dtype="float32", device="cpu")


def test_a_left_over_block_is_named(tiny_llama: Path, pruned: Path) -> None:
    config = json.loads((pruned / "config.json").read_text())
    config["num_hidden_layers"] -= 1
    (pruned / "config.json").write_text(json.dumps(config))
    with pytest.raises(ParityError, match="unexpected keys"):
        verify_checkpoint(tiny_llama, pruned, REMOVED, dtype="float32", device="cpu")


def test_a_stale_list_of_layer_types_is_caught(tmp_path: Path) -> None:
    source = save_tiny(tmp_path / "gemma", "gemma3_text", sliding_window=4)
    apply(source, (5,), tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    config["layer_types"] = config["layer_types"][::-1]
    if len(set(config["layer_types"])) == 1:
        config["layer_types"][0] = "full_attention"
    (tmp_path / "out" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ParityError, match="layer_types is"):
        verify_checkpoint(source, tmp_path / "out", (5,), dtype="float32", device="cpu")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "model_type",
    [
        # A list of the blocks that have experts, all of them.
        pytest.param("llama4", marks=needs_transformers_5),
        "longcat_flash",  # two attentions a block, numbered through
        "minimax",  # an attention that keeps how many blocks there are
    ],
)
def test_numbers_that_follow_the_blocks_are_their_own(model_type: str, tmp_path: Path) -> None:
    if model_type not in CONFIG_MAPPING:
        pytest.skip("not known yet")
    whole = save_tiny(tmp_path / "whole", model_type, tokenizer=False)
    apply(whole, (2,), tmp_path / "out", verify=True)


def test_a_number_that_follows_no_block_is_caught(tiny_llama: Path, pruned: Path) -> None:
    model = load(tiny_llama, dtype="float32", device="cpu")
    module: Any = reload(pruned, "float32", "cpu")
    for number, caught in ((2 * 3 + 1, False), (2 * 4 + 1, True), (7, False), (3, True)):
        model.anatomy.blocks.modules[3].own_number = number  # type: ignore[assignment]
        model.anatomy.blocks.modules[5].own_number = None  # type: ignore[assignment]
        module.model.layers[2].own_number = 2 * 2 + 1
        with pytest.raises(ParityError, match="own_number") if caught else nullcontext():
            verify(model, module, REMOVED)


def test_a_block_that_is_set_up_otherwise_is_caught(tiny_llama: Path, pruned: Path) -> None:
    model = load(tiny_llama, dtype="float32", device="cpu")
    module = reload(pruned, "float32", "cpu")
    module.model.layers[2].self_attn.attention_dropout = 0.5  # type: ignore[union-attr, index]
    with pytest.raises(ParityError, match=r"layers\.2\.self_attn\.attention_dropout is 0\.5"):
        verify(model, module, REMOVED)


@pytest.mark.skipif("minicpm3" not in CONFIG_MAPPING, reason="not known yet")
@pytest.mark.parametrize("removed", [(1,), (0, 5), (1, 2, 4)])
def test_a_scale_rewritten_for_the_depth_may_be_another_in_its_last_place(
    tmp_path: Path, removed: tuple[int, ...]
) -> None:
    whole = save_tiny(tmp_path / "whole", "minicpm3", tokenizer=False)
    apply(whole, removed, tmp_path / "out", verify=True)


def test_a_checkpoint_that_cannot_generate_is_named(
    tiny_llama: Path, pruned: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = reload(pruned, "float32", "cpu")
    monkeypatch.setattr(module, "generate", lambda *_, **__: 1 / 0)
    with pytest.raises(ParityError, match=r"does not generate \(.*division by zero"):
        verify(load(tiny_llama, dtype="float32", device="cpu"), module, REMOVED)


def test_apply_with_verify_leaves_nothing_behind_when_parity_fails(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("depthprune.models.parity.comparison.FLOAT32_LIMIT", -1.0)
    with pytest.raises(ParityError):
        apply(tiny_llama, REMOVED, tmp_path / "out", verify=True)
    assert list(tmp_path.iterdir()) == []


def _forgetting(module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a cache, a model generates as if the last token had been another."""
    forward = module.forward

    def other(input_ids: torch.Tensor, **options: Any) -> Any:
        cached = options.get("use_cache") and input_ids.shape[1] == 1
        return forward(input_ids=input_ids * 0 + 7 if cached else input_ids, **options)

    other.__signature__ = inspect.signature(forward)  # type: ignore[attr-defined]
    monkeypatch.setattr(module, "forward", other)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_cache_that_generates_otherwise_is_caught(
    dtype: str, tiny_llama: Path, pruned: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = reload(pruned, dtype, "cpu")
    _forgetting(module, monkeypatch)
    with pytest.raises(ParityError, match=r"leaves that without one after [0-9] token"):
        verify(load(tiny_llama, dtype=dtype, device="cpu"), module, REMOVED)


def test_no_more_is_asked_of_a_cut_than_its_original_does(
    tiny_llama: Path, pruned: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, module = (
        load(tiny_llama, dtype="float32", device="cpu"),
        reload(pruned, "float32", "cpu"),
    )
    for each in (model.module, module):
        _forgetting(each, monkeypatch)
    assert verify(model, module, REMOVED).generated_tokens < 16


def test_tokens_that_are_as_likely_may_change_places(
    tiny_llama: Path, pruned: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two tokens with one and the same embedding tie wherever either is the most likely."""
    module = reload(pruned, "float32", "cpu")
    model = load(tiny_llama, dtype="float32", device="cpu")
    first, *_ = _first_tokens(module)
    twin = first + 1
    for each in (model.module, module):
        head: Any = each.lm_head
        head.weight.data[twin] = head.weight.data[first]
    forward = module.forward

    def swapped(**options: Any) -> Any:
        output = forward(**options)
        if options.get("use_cache"):
            output.logits[..., twin] += 1e-6 * output.logits.abs().max()
        return output

    swapped.__signature__ = inspect.signature(forward)  # type: ignore[attr-defined]
    monkeypatch.setattr(module, "forward", swapped)
    assert verify(model, module, REMOVED).generated_tokens == 0


def _first_tokens(module: Any) -> list[int]:
    """What greedy generation writes behind the prompt of the check."""
    prompt = probe_tokens(module, (2, 96), seed=0)[:1, :16]
    written = module.generate(
        prompt, attention_mask=torch.ones_like(prompt), do_sample=False, max_new_tokens=4,
        min_new_tokens=4, pad_token_id=0,
    )  # fmt: skip
    return [int(token) for token in written[0, 16:]]


@pytest.mark.parametrize(
    ("model_type", "least", "most"),
    [
        ("big_bird", 16, 16),  # sets itself up by the length of what it reads
        ("xlnet", 16, 16),  # has no number of positions
        ("glm_moe_dsa", 0, 15),  # past its indexer's top 20, with a cache even the uncut is another
    ],
)
def test_a_right_cut_of_an_unusual_type_is_exact(
    model_type: str, least: int, most: int, tmp_path: Path
) -> None:
    if model_type not in CONFIG_MAPPING:
        pytest.skip("this transformers does not know it")
    folder = save_tiny(tmp_path / "model", model_type)
    apply(folder, (2,), tmp_path / "out")
    record = verify_checkpoint(folder, tmp_path / "out", (2,), dtype="float32", device="cpu")
    assert record.logits_difference <= 1e-5 * record.logits_scale
    assert least <= record.generated_tokens <= most
