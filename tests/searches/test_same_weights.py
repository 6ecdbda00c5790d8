"""The same weights under four architectures' names: losses, removed sets and checkpoints agree.

A llama's weights are written as they are (llama, mistral), with biases of zero (qwen2), and with
the projections of queries, keys and values, and of gate and up, each in one matrix (phi3). All of
them compute the same function, so whatever differs is a mistake in how an architecture is called
or cut.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

import depthprune as dp
from depthprune.searches import search
from tiny import model_class, tiny_config, tiny_model, tiny_tokenizer

BLOCKS = 8
K = 3
OTHERS = ["mistral", "qwen2", "phi3"]
TYPES = ["llama", *OTHERS]
SEARCHES = ["one-shot", "greedy", "beam", "taylor", "angular", "block-influence"]
SAME: dict[str, Any] = {
    "num_key_value_heads": 1,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
}
OWN: dict[str, dict[str, Any]] = {
    "mistral": {"sliding_window": None},
    "qwen2": {"use_sliding_window": False},
    "phi3": {"sliding_window": None, "original_max_position_embeddings": 128},
}


def _as_qwen2(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    biases = {
        name.replace(".weight", ".bias"): torch.zeros(len(tensor))
        for name, tensor in weights.items()
        if name.endswith(("q_proj.weight", "k_proj.weight", "v_proj.weight"))
    }
    return weights | biases


def _as_phi3(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    parts = {"qkv_proj": ("q_proj", "k_proj", "v_proj"), "gate_up_proj": ("gate_proj", "up_proj")}
    fused = dict(weights)
    for whole, names in parts.items():
        for first in [name for name in weights if names[0] in name]:
            pieces = [fused.pop(first.replace(names[0], name)) for name in names]
            fused[first.replace(names[0], whole)] = torch.cat(pieces)
    return fused


def _save(folder: Path, model_type: str) -> Path:
    weights = tiny_model("llama", BLOCKS, **SAME).state_dict()
    rewrite = {"qwen2": _as_qwen2, "phi3": _as_phi3}.get(model_type, dict)
    config = tiny_config(model_type, BLOCKS, **SAME, **OWN.get(model_type, {}))
    module = model_class(model_type).from_config(config).eval()
    module.load_state_dict(rewrite(weights))
    module.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("same")
    return {name: _save(root / name, name) for name in TYPES}


@pytest.fixture(scope="module")
def models(folders: dict[str, Path]) -> dict[str, dp.Model]:
    return {name: dp.load(at, dtype="float32", device="cpu") for name, at in folders.items()}


@pytest.fixture(scope="module")
def calibration(models: dict[str, dp.Model]) -> dp.Calibration:
    return dp.calibrate("stdlib-prose,windows=8,length=32,seed=0", models["llama"])


def test_they_are_four_architectures(models: dict[str, dp.Model]) -> None:
    assert [model.module.config.model_type for model in models.values()] == TYPES


@pytest.mark.parametrize("objective", ["nll", "kl", "cosine"])
@pytest.mark.parametrize("other", OTHERS)
def test_every_set_has_the_same_loss(
    other: str, objective: str, models: dict[str, dp.Model], calibration: dp.Calibration
) -> None:
    sets = [(), *((b,) for b in range(BLOCKS)), (0, 1), (2, 5, 7), tuple(range(1, BLOCKS))]
    found = [
        [s.loss for s in dp.Evaluator(models[name], calibration, objective).score(sets)]
        for name in ("llama", other)
    ]
    assert len(set(found[0])) == len(sets)
    np.testing.assert_allclose(found[1], found[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", SEARCHES)
def test_every_search_removes_the_same_blocks(
    name: str, models: dict[str, dp.Model], calibration: dp.Calibration
) -> None:
    found = {
        type_: search(name, dp.Evaluator(model, calibration), k=K).removed
        for type_, model in models.items()
    }
    assert found == dict.fromkeys(TYPES, found["llama"])


@pytest.mark.parametrize("removed", [(0,), (2, 5, 7)])
def test_the_pruned_checkpoints_compute_the_same(
    removed: tuple[int, ...], folders: dict[str, Path], tmp_path: Path
) -> None:
    tokens = torch.randint(0, 256, (2, 40), generator=torch.Generator().manual_seed(0))
    logits = {}
    for name, folder in folders.items():
        dp.apply(folder, removed, tmp_path / name)
        module = AutoModelForCausalLM.from_pretrained(tmp_path / name, dtype=torch.float32).eval()
        assert (module.config.model_type, module.config.num_hidden_layers) == (
            name,
            BLOCKS - len(removed),
        )
        with torch.inference_mode():
            logits[name] = module(input_ids=tokens).logits
    for other in OTHERS:
        torch.testing.assert_close(logits[other], logits["llama"], rtol=1e-5, atol=1e-5)
