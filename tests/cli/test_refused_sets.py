"""A search of a model that cannot lose every set of blocks ends in one that it can lose."""

from __future__ import annotations

from pathlib import Path

import pytest

import depthprune as dp
from command import Command
from gguf_tiny import tiny_gguf
from tiny import save_tiny

ATTENTION = (1, 4)
LAYERS = ["conv", "full_attention", "conv", "conv", "full_attention", "conv"]


@pytest.fixture(scope="module")
def hybrid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny hybrid of six blocks, two of them attention; leave it as it is."""
    return save_tiny(tmp_path_factory.mktemp("hybrid") / "lfm2", "lfm2", 6, layer_types=LAYERS)


@pytest.mark.parametrize("search", ["greedy", "one-shot", "evolution", "exhaustive"])
def test_a_search_keeps_one_block_of_attention_whichever_is_worth_more(
    hybrid: Path, tmp_path: Path, text: Path, search: str
) -> None:
    model = dp.load(hybrid, dtype="float32", device="cpu")
    calibration = dp.calibrate(f"text:{text},windows=3,length=16", model)
    evaluator = dp.Evaluator(model, calibration)
    kept = set()
    for k in (2, 4, 5):
        removed = dp.search(search, evaluator, k=k).removed
        dp.apply(hybrid, removed, tmp_path / str(k))
        kept |= {*ATTENTION} - {*removed}
    assert not any(set(ATTENTION) <= set(asked) for asked in evaluator._asked)
    assert kept


def test_prune_leaves_the_last_attention(
    depthprune: Command, hybrid: Path, tmp_path: Path, spec: str
) -> None:
    words = ("prune", hybrid, "-k", "5", "-c", spec, "--no-bench", "--dtype", "float32", "--json")
    manifest = depthprune(*words, "-o", tmp_path / "out").document
    assert manifest["kept"][0] in ATTENTION
    assert manifest["parity"]["bitwise"]
    assert manifest["search"]["protect"] == []


def test_a_size_rule_may_take_all_but_the_attention(
    depthprune: Command, hybrid: Path, tmp_path: Path, spec: str
) -> None:
    words = ("prune", hybrid, "--max-increase", "1000000%", "-c", spec, "--no-bench", "--json")
    manifest = depthprune(*words, "-o", tmp_path / "out").document
    assert manifest["kept"][0] in ATTENTION
    assert [point["k"] for point in manifest["path"]] == [0, 1, 2, 3, 4, 5]


@pytest.mark.usefixtures("no_weights")
def test_prune_says_in_one_line_that_no_set_can_go(
    depthprune: Command, tmp_path: Path, spec: str
) -> None:
    types = ["linear_attention", "full_attention"] * 3
    model = save_tiny(tmp_path / "whole", "olmo_hybrid", 6, layer_types=types)
    words = ("prune", model, "-c", spec, "-o", tmp_path / "out")
    outcome = depthprune(*words, "-k", "5", "--search", "greedy")
    assert "-k 5: at most 4 of 6 blocks can go together (" in outcome.error
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("no_weights")
def test_prune_says_why_a_model_can_lose_no_block(
    depthprune: Command, tmp_path: Path, spec: str
) -> None:
    model = save_tiny(tmp_path / "whole", "gpt2", 6, scale_attn_by_inverse_layer_idx=True)
    outcome = depthprune("prune", model, "-k", "1", "-c", spec, "-o", tmp_path / "out")
    assert "no block can be removed from this model: config.json: scale_attn_by" in outcome.error


def test_blocks_that_llama_cpp_feeds_by_number_stay_in_a_gguf(
    depthprune: Command, tmp_path: Path, spec: str
) -> None:
    model = tiny_gguf(tmp_path / "a.gguf", tokenizer=True, fields={"n_deepstack_layers": 2})
    words = ("prune", model, "-k", "4", "-c", spec, "--no-bench", "--dtype", "float32")
    outcome = depthprune(*words, "-o", tmp_path / "b.gguf")
    assert "blocks 0,1 stay: a llama model needs it" in outcome.err
    assert (tmp_path / "b.gguf").is_file()
