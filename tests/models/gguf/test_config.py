"""What a GGUF states, and transformers' loader passes over, is computed all the same."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from depthprune.checkpoints.gguf.reader import read_gguf
from depthprune.errors import ModelError
from depthprune.models.gguf.config import config_of
from depthprune.models.gguf.positions import stated_positions
from depthprune.models.pretrained import load_module
from depthprune.models.source import find_model
from depthprune.pruning.apply import apply
from gguf_tiny import tiny_gguf

WIDTH = 16
BASE = 10_000.0 ** -(np.arange(0, WIDTH, 2) / WIDTH)


def llama3_table(factor: float, original: int) -> list[float]:
    """As llama.cpp's converter makes it of a Llama 3.1."""
    table = []
    for frequency in BASE:
        wavelength = 2 * math.pi / frequency
        share = min(1.0, max(0.0, (original / wavelength - 1) / 3))
        table.append(1 / ((1 - share) / factor + share))
    return table


LINEAR = {"rope.scaling.type": "linear", "rope.scaling.factor": 4.0}
YARN = {"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0}


def frequencies(file: Path) -> Any:
    module: Any = load_module(find_model(file), torch.float32, torch.device("cpu"))
    return module.model.rotary_emb.inv_freq.numpy()


@pytest.mark.parametrize("original", [64, 512, 8192])
def test_a_table_divides_the_frequencies_of_a_llama(original: int, tmp_path: Path) -> None:
    table = llama3_table(8.0, original)
    file = tiny_gguf(
        tmp_path / "a.gguf", blocks=2, tokenizer=True, tables={"rope_freqs.weight": table}
    )
    np.testing.assert_allclose(frequencies(file), BASE / table, rtol=1e-3)
    apply(file, (1,), tmp_path / "cut.gguf")
    np.testing.assert_allclose(frequencies(tmp_path / "cut.gguf"), BASE / table, rtol=1e-3)


def test_positions_may_be_scaled_linearly(tmp_path: Path) -> None:
    file = tiny_gguf(tmp_path / "a.gguf", blocks=2, tokenizer=True, fields=LINEAR)
    np.testing.assert_allclose(frequencies(file), BASE / 4, rtol=1e-6)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({}, {}),
        ({"rope.scaling.type": "none", "rope.scaling.factor": 4.0}, {}),
        ({"rope.scaling.type": "yarn", "rope.scaling.factor": 1.0}, {}),
        ({"rope.scale_linear": 2.0}, {"rope_type": "linear", "factor": 2.0}),
        (
            {**YARN, "rope.scaling.original_context_length": 32},
            {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32},
        ),
        (
            YARN,
            {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128},
        ),
    ],
)
def test_what_is_stated_is_told_in_the_words_of_a_config(
    fields: dict[str, Any], told: dict[str, Any], tmp_path: Path
) -> None:
    file = tiny_gguf(tmp_path / "a.gguf", "qwen2", blocks=2, fields=fields)
    assert stated_positions(read_gguf(file)) == told


def test_two_tables_and_a_part_of_each_head_are_told(tmp_path: Path) -> None:
    tables = {f"rope_factors_{name}.weight": [value] * 8 for name, value in _FACTORS.items()}
    fields = {"rope.scaling.attn_factor": 1.25, "rope.scaling.original_context_length": 64}
    file = tiny_gguf(tmp_path / "a.gguf", "phi3", blocks=2, fields=fields, tables=tables)
    assert stated_positions(read_gguf(file)) == {
        "rope_type": "longrope",
        "long_factor": [2.0] * 8,
        "short_factor": [1.5] * 8,
        "original_max_position_embeddings": 64,
        "attention_factor": 1.25,
        "partial_rotary_factor": 1.0,
    }


_FACTORS = {"long": 2.0, "short": 1.5}


@pytest.mark.parametrize(
    ("fields", "table", "what"),
    [
        ({**YARN, "rope.scaling.yarn_log_multiplier": 0.1}, None, "yarn_log_multiplier"),
        ({"rope.scaling.type": "longrope", "rope.scaling.factor": 4.0}, None, "scaling.type"),
        ({}, [1.0, 3.0, 2.0, 1.0, 5.0, 1.0, 1.0, 8.0], "rope_freqs.weight"),
        (LINEAR, llama3_table(8.0, 64), "rope_freqs.weight"),
    ],
)
def test_what_no_config_has_words_for_is_refused(
    fields: dict[str, Any], table: list[float] | None, what: str, tmp_path: Path
) -> None:
    tables = {} if table is None else {"rope_freqs.weight": table}
    file = tiny_gguf(tmp_path / "a.gguf", blocks=2, tokenizer=True, fields=fields, tables=tables)
    with pytest.raises(ModelError, match=f"cannot be told of .*{what}"):
        load_module(find_model(file), torch.float32, torch.device("cpu"))


@pytest.mark.parametrize(("blocks", "scale"), [(6, 8), (62, 16)])
def test_a_gemma_scales_its_scores_as_llama_cpp_does(
    blocks: int, scale: int, tmp_path: Path
) -> None:
    heads = {"attention.key_length": 8, "attention.value_length": 8}
    kinds = [block % 3 != 2 for block in range(blocks)]
    fields = heads | LINEAR | {"attention.sliding_window_pattern": kinds}
    config = config_of(
        tiny_gguf(tmp_path / "a.gguf", "gemma3", blocks, fields=fields, tokenizer=True)
    )
    assert config.query_pre_attn_scalar == scale
    assert [kind == "sliding_attention" for kind in config.layer_types] == kinds
    if hasattr(config, "rope_parameters"):
        assert config.rope_parameters["full_attention"]["factor"] == 4.0
        assert config.rope_parameters["sliding_attention"]["rope_type"] == "default"


def test_weights_that_transformers_has_no_place_for_are_refused(tmp_path: Path) -> None:
    """llama.cpp adds the biases of a Llama that has some."""
    biases = {f"blk.{block}.attn_{part}.bias": [0.5] * 32 for block in (0, 1) for part in "qkv"}
    file = tiny_gguf(tmp_path / "a.gguf", blocks=2, tokenizer=True, tables=biases)
    with pytest.raises(ModelError, match=r"holds 40,032 weights, .* makes of it 39,840"):
        load_module(find_model(file), torch.float32, torch.device("cpu"))


@pytest.mark.parametrize("name", ["blk", "blk.\u00b2.bias"])
def test_a_name_like_a_blocks_without_a_number_is_one_more_weight(
    name: str, tmp_path: Path
) -> None:
    file = tiny_gguf(tmp_path / "a.gguf", blocks=2, tokenizer=True, tables={name: [0.5] * 32})
    with pytest.raises(ModelError, match=r"holds 39,872 weights, .* makes of it 39,840"):
        load_module(find_model(file), torch.float32, torch.device("cpu"))


def test_layers_that_predict_further_tokens_are_not_searched_as_blocks(tmp_path: Path) -> None:
    """transformers' loader takes them for blocks, and llama.cpp's losses are without them."""
    fields = {"nextn_predict_layers": 1}
    file = tiny_gguf(tmp_path / "a.gguf", "qwen2", 3, 1, tokenizer=True, fields=fields)
    with pytest.raises(ModelError, match=r"3 blocks and 1 multi-token-.* makes 4 blocks of them"):
        load_module(find_model(file), torch.float32, torch.device("cpu"))
    apply(file, "1", tmp_path / "b.gguf")
    cut: Any = load_module(find_model(tmp_path / "b.gguf"), torch.float32, torch.device("cpu"))
    assert len(cut.model.layers) == 2
