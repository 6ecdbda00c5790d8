"""Checkpoints whose configs take another form than the class writes, cut and compared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from depthprune.checkpoints.config.cut import cut_config
from depthprune.errors import CheckpointError, ModelError
from depthprune.pruning.apply import apply
from tiny import save_tiny

pytestmark = pytest.mark.filterwarnings("ignore")


def _edited(folder: Path, **fields: Any) -> Path:
    file = folder / "config.json"
    config = json.loads(file.read_text()) | fields
    file.write_text(json.dumps({k: v for k, v in config.items() if v is not None}))
    return folder


@pytest.mark.parametrize("removed", [(1,), (0, 3)])
def test_hunyuan_routes_each_block_to_as_many_experts_as_before(
    tmp_path: Path, removed: tuple[int, ...]
) -> None:
    lists = {"moe_topk": [1, 2, 1, 2, 1, 2], "moe_intermediate_size": [48] * 6}
    whole = save_tiny(tmp_path / "whole", "hunyuan_v1_moe", tokenizer=False, **lists)
    apply(whole, removed, tmp_path / "out", verify=True)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["moe_topk"] == [k for i, k in enumerate(lists["moe_topk"]) if i not in removed]


@pytest.mark.parametrize("model_type", ["gpt2", "mpt", "gpt_neo"])
def test_a_count_that_stands_under_two_names_is_set_under_both(
    tmp_path: Path, model_type: str
) -> None:
    """The class takes either name, and the last of them wins."""
    whole = save_tiny(tmp_path / "whole", model_type, tokenizer=False)
    apply(_edited(whole, num_hidden_layers=6), (1, 4), tmp_path / "out", verify=True)
    with pytest.raises(CheckpointError, match="the numbers of blocks disagree"):
        apply(_edited(whole, num_hidden_layers=5), (1, 4), tmp_path / "none")


@pytest.mark.skipif("minicpm3" not in CONFIG_MAPPING, reason="not known yet")
def test_minicpm3_keeps_a_scale_that_its_file_does_not_state(tmp_path: Path) -> None:
    whole = save_tiny(tmp_path / "whole", "minicpm3", tokenizer=False, scale_depth=1.4)
    apply(_edited(whole, scale_depth=None), (1,), tmp_path / "out", verify=True)


def test_lfm2_told_by_indices_alone_keeps_an_attention_block(tmp_path: Path) -> None:
    types = ["conv", "conv", "full_attention"] * 2
    whole = save_tiny(tmp_path / "whole", "lfm2", tokenizer=False, layer_types=types)
    _edited(whole, layer_types=None, full_attn_idxs=[2, 5])
    apply(whole, (1, 2), tmp_path / "out", verify=True)
    with pytest.raises(ModelError, match=r"keep one of 2, 5"):
        apply(whole, (2, 5), tmp_path / "none")


def test_a_config_that_repeats_its_text_config_loads_after_the_cut(tmp_path: Path) -> None:
    whole = save_tiny(tmp_path / "whole", "qwen2_5_vl", tokenizer=False)
    text = json.loads((whole / "config.json").read_text())["text_config"]
    text.pop("model_type")
    apply(_edited(whole, **text), (1,), tmp_path / "out", verify=True)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["layer_types"] == config["text_config"]["layer_types"]


@pytest.mark.parametrize(
    ("model_type", "fields"),
    [
        (
            "minimax_m3_vl_text",
            {
                "moe_layer_freq": [0, 0, 1, 1, 1, 1],
                "sparse_attention_config": {"sparse_attention_freq": [0, 0, 0, 1, 0, 1]},
            },
        ),
        (
            "dots3_note_text",
            {
                "moe_layer_freq": [0, 0, 1, 0, 1, 1],
                "layer_types": ["full_attention", "sliding_attention"] * 3,
            },
        ),
    ],
)
def test_a_list_of_flags_keeps_the_kind_of_each_block(
    model_type: str, fields: dict[str, Any]
) -> None:
    if model_type not in CONFIG_MAPPING:
        pytest.skip("not known yet")
    published = {"model_type": model_type, "num_hidden_layers": 6, **fields}
    removed = (0, 4)
    before, after = (
        AutoConfig.for_model(**config)
        for config in (published, cut_config(published, removed).config)
    )
    for name in ("layer_types", "mlp_layer_types"):
        assert getattr(after, name) == [
            kind for block, kind in enumerate(getattr(before, name)) if block not in removed
        ]


def test_kimi_without_lists_of_its_kinds_is_refused() -> None:
    """Then its class counts every fourth block, and would count anew."""
    linear = {"head_dim": 16, "num_heads": 2, "short_conv_kernel_size": 4}
    config = {"model_type": "kimi_linear", "num_hidden_layers": 6, "linear_attn_config": linear}
    with pytest.raises(ModelError, match="expected layer_types with one entry a block, found none"):
        cut_config(config, (1,))
    linear |= {"full_attn_layers": [3, 6], "kda_layers": [1, 2, 4, 5]}
    assert cut_config(config, (1,)).config["linear_attn_config"]["full_attn_layers"] == [2, 5]


def test_gpt_neo_keeps_its_kinds_where_the_file_leaves_their_pattern_to_the_class() -> None:
    config = {"model_type": "gpt_neo", "num_layers": 24}
    after = AutoConfig.for_model(**cut_config(config, (0, 3, 4)).config)
    assert after.attention_layers == ["local", "global", "local", *["global", "local"] * 9]


@pytest.mark.parametrize("underscored", [None, ["recurrent", "recurrent", "attention"]])
def test_recurrent_gemma_keeps_its_kinds_where_the_file_leaves_their_pattern_to_the_class(
    tmp_path: Path, underscored: list[str] | None
) -> None:
    """RecurrentGemma-2B's file has the pattern under a name that its class does not read."""
    whole = save_tiny(tmp_path / "whole", "recurrent_gemma", tokenizer=False)
    _edited(whole, block_types=None, _block_types=underscored)
    apply(whole, (0, 3), tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    kinds = ["recurrent", "attention", "recurrent", "attention"]
    assert config["block_types"] == kinds
    assert config.get("_block_types") == (kinds if underscored else None)
