"""What surgery would refuse is known from the config alone, before anything is searched."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from depthprune.checkpoints.checkpoint import open_checkpoint
from depthprune.checkpoints.config.cut import cut_config
from depthprune.checkpoints.gguf.reader import read_gguf
from depthprune.checkpoints.refusals import (
    checkpoint_refusal,
    config_refusal,
    gguf_refusal,
)
from depthprune.errors import CheckpointError, ModelError
from gguf_tiny import tiny_gguf
from tiny import tiny_config

HYBRID = ["linear_attention", "full_attention", "linear_attention"] * 2
WINDOWED = ["sliding_attention", "full_attention"] * 3
CONFIGS = {
    "hybrid": lambda: tiny_config("qwen3_next", 6, layer_types=HYBRID).to_dict(),
    "borrowing": lambda: {
        "model_type": "gemma4_text",
        "num_hidden_layers": 6,
        "num_kv_shared_layers": 2,
        "layer_types": WINDOWED,
    },
    "plain": lambda: tiny_config("llama", 6).to_dict(),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_it_says_of_every_set_what_surgery_would(name: str) -> None:
    config = CONFIGS[name]()
    refusal = config_refusal(config)
    reasons = {}
    for size in range(1, 6):
        for removed in itertools.combinations(range(6), size):
            try:
                cut_config(config, removed)
            except ModelError as error:
                reasons[removed] = str(error)
            assert refusal(removed) == reasons.get(removed)
    assert bool(reasons) == (name != "plain")


def test_in_a_hybrid_any_attention_may_go_but_not_all() -> None:
    refusal = config_refusal(CONFIGS["hybrid"]())
    assert refusal((1,)) is refusal((4,)) is None
    assert "no attention block would be left" in (refusal((1, 4)) or "")


def test_a_damaged_config_is_no_refusal_of_a_set() -> None:
    with pytest.raises(CheckpointError, match="layer_types has 5 entries and the model 6"):
        config_refusal(CONFIGS["hybrid"]() | {"layer_types": HYBRID[:5]})((0,))


@pytest.mark.parametrize("nested", [True, False])
def test_a_pattern_by_number_that_cannot_be_written_out_refuses_its_sets(
    tmp_path: Path, nested: bool
) -> None:
    text = {"model_type": "llama", "num_hidden_layers": 4}
    quantised = {"quantization_config": {"ignore": [r"re:.*layers\.[2-3]\..*"]}}
    config = {"text_config": text, "model_type": "llava"} if nested else text
    (tmp_path / "config.json").write_text(json.dumps(config | quantised))
    tensors = {f"model.layers.{b}.mlp.weight": np.zeros(2, np.float32) for b in range(4)}
    save_file(tensors, tmp_path / "model.safetensors")
    refusal = checkpoint_refusal(open_checkpoint(tmp_path))
    assert refusal((3,)) is None
    assert ("cannot be renumbered" in (refusal((0,)) or "")) == nested


def test_a_gguf_refuses_the_blocks_that_are_fed_by_number(tmp_path: Path) -> None:
    file = tiny_gguf(tmp_path / "a.gguf", "qwen3vl", fields={"n_deepstack_layers": 2})
    refusal = gguf_refusal(read_gguf(file))
    assert "the first 2 blocks must stay" in (refusal((1,)) or "")
    assert refusal((2, 5)) is None
