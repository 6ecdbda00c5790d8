"""Every verb end to end on a tiny model, run in this process."""

from __future__ import annotations

import errno
import json
import math
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

import depthprune as dp
from command import Command, Outcome
from depthprune.calibration import CalibrationSpec
from depthprune.calibration.generated import GeneratedPool
from depthprune.calibration.parsing import parse_line, parse_mapping
from depthprune.checkpoints import byte_copy
from depthprune.cli import (
    DONE,
    FAILED,
    INTERRUPTED,
    WRONG_USAGE,
)
from depthprune.evaluator import forward
from depthprune.models import loading
from depthprune.pruning import write
from depthprune.pruning.held_out import HeldOutScorer
from tiny import save_tiny

_EXACT = ("--dtype", "float32", "--device", "cpu")
_QUICK = (*_EXACT, "--no-bench")


def _names(folder: Path) -> set[str]:
    return {entry.name for entry in folder.iterdir()}


def _manifest(out: Path) -> Any:
    return json.loads((out / "depthprune.json").read_text(encoding="utf-8"))


@pytest.fixture
def prune(depthprune: Command, tiny_llama: Path, spec: str, tmp_path: Path) -> Command:
    """Runs `prune` on the tiny model into `out`."""

    def prune(*words: object, model: Path = tiny_llama) -> Outcome:
        return depthprune("prune", model, "-c", spec, "-o", tmp_path / "out", *_QUICK, *words)

    return prune


@pytest.mark.parametrize("search", ["one-shot", "greedy"])
def test_prune_removes_what_the_search_finds(
    search: str, prune: Command, tiny_llama: Path, spec: str, tmp_path: Path
) -> None:
    found = prune("-k", 2, "--search", search, "--json").document
    model = dp.load(tiny_llama, dtype="float32", device="cpu")
    score = dp.Evaluator(model, dp.calibrate(spec, model))
    expected = dp.search(search, score, k=2)
    assert found["removed"] == list(expected.removed)
    assert found["pruned"]["loss"] == pytest.approx(expected.score.loss, rel=1e-6)
    assert found["search"]["cost"]["evaluations"] == expected.cost.evaluations
    assert [b["block"] for b in found["blocks"]] == list(range(6))


def test_exact_scores_every_set_on_every_window_and_racing_says_how_sure_it_was(
    prune: Command,
) -> None:
    exact = prune("-k", 1, "--search", "greedy", "--exact", "--json").document["search"]
    assert exact["racing"] is None
    assert exact["cost"]["evaluations"] == 6
    raced = prune("-k", 1, "--delta", 0.05, "--tolerance", "5%", "--overwrite", "--json").document
    assert raced["search"]["racing"] == {"delta": 0.05, "tolerance": 0.05}


def test_a_dry_run_tells_the_cost_and_writes_nothing(prune: Command, tmp_path: Path) -> None:
    plan = prune("-k", 2, "--search", "greedy", "--dry-run", "--json").document
    assert plan["evaluations"] == 6 + 5
    assert plan["plain_block_tokens"] > plan["block_tokens"] > 0
    assert plan["seconds"] > 0
    words = prune("-k", 2, "--search", "greedy", "--dry-run").out
    assert "11 on 256 tokens" in words
    assert _names(tmp_path) == set()


def test_a_dry_run_has_the_model_write_nothing_and_counts_the_same(
    depthprune: Command, tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("prune", tiny_llama, "-k", 2, "-c", "self,windows=4,length=24", "--dtype", "float32")
    words = (*words, "--memo", "off", "--no-bench", "--exact", "--json", "-o", tmp_path / "out")
    writes = GeneratedPool._write

    def refuse(*_: Any) -> None:
        raise AssertionError("text was written")

    monkeypatch.setattr(GeneratedPool, "_write", refuse)
    plan = depthprune(*words, "--dry-run").document
    monkeypatch.setattr(GeneratedPool, "_write", writes)
    spent = depthprune(*words).document["search"]["cost"]
    assert plan["evaluations"] == spent["evaluations"] == 6 + 5
    assert plan["head_tokens"] == spent["head_tokens"]


def test_further_draws_are_searched_too_and_kept(prune: Command) -> None:
    outcome = prune("-k", 2, "--draws", 3, "--json")
    draws = outcome.document["draws"]
    assert [draw["repetition"] for draw in draws] == [1, 2]
    assert all(len(draw["removed"]) == 2 and 0 <= draw["jaccard"] <= 1 for draw in draws)
    assert (
        "of 2 further draws chose the same blocks"
        in prune("-k", 2, "--draws", 3, "--overwrite").out
    )


def test_score_tells_how_often_a_block_is_among_the_lowest(
    depthprune: Command, tiny_llama: Path, spec: str
) -> None:
    words = ("score", tiny_llama, "-c", spec, *_EXACT, "--draws", 3, "-k", 2)
    found = depthprune(*words, "--json").document["draws"]
    assert (found["draws"], found["k"]) == (3, 2)
    assert sum(each["lowest"] for each in found["blocks"]) == 3 * 2
    for each in found["blocks"]:
        assert len(each["increases"]) == 3
        assert each["mean"] == pytest.approx(np.mean(each["increases"]))
        assert each["spread"] == pytest.approx(np.std(each["increases"], ddof=1))
    assert "among the 2 lowest" in depthprune(*words).out


def test_a_budget_below_two_states_is_refused(prune: Command, tmp_path: Path) -> None:
    outcome = prune("-k", 2, "--memory", "64")
    assert outcome.status == WRONG_USAGE
    assert (
        "--memory: expected at least 8192 bytes (two states of 32 tokens), got 64" in outcome.error
    )
    assert _names(tmp_path) == set()


def test_prune_by_a_divergence_from_the_dense_model(prune: Command) -> None:
    found = prune("-k", 1, "--objective", "kl:top=16", "--json").document
    assert found["objective"] == "kl:top=16"
    assert found["dense"] == {**found["dense"], "loss": 0.0, "perplexity": None}
    assert found["pruned"]["loss"] > 0


def test_prune_prints_its_manifest_and_nothing_else(prune: Command, tmp_path: Path) -> None:
    outcome = prune("-k", 2, "--json")
    written = (tmp_path / "out" / "depthprune.json").read_text(encoding="utf-8")
    # What a terminal would obey or cannot show is spelled out there, and means the same.
    assert outcome.document == json.loads(written)
    assert outcome.document["schema"] == 1


def test_prune_writes_an_ordinary_checkpoint_and_lists_every_file(
    prune: Command, tmp_path: Path
) -> None:
    found = prune("-k", 2, "--json").document
    out = tmp_path / "out"
    assert _names(out) == {*found["files"], "depthprune.json"}
    assert {"config.json", "model.safetensors", "tokenizer.json", "README.md", "report.html"} <= (
        _names(out)
    )
    model = AutoModelForCausalLM.from_pretrained(out)
    assert (len(model.model.layers), model.config.num_hidden_layers) == (4, 4)
    assert AutoTokenizer.from_pretrained(out).encode("The river")
    assert found["parity"]["bitwise"]
    assert _names(tmp_path) == {"out"}


def test_the_manifest_has_every_dimension_of_the_calibration_and_what_was_drawn(
    prune: Command, spec: str
) -> None:
    (record,) = prune("-k", 2, "--json").document["calibration"]
    assert set(record["dimensions"]) == set(CalibrationSpec.model_fields)
    assert parse_mapping(record["dimensions"], "the manifest") == parse_line(spec)
    assert parse_line(record["spec"]) == parse_line(spec)
    assert (record["tokens"], record["reduction"]) == (256, "token")
    assert [window["length"] for window in record["windows"]] == [32] * 8
    assert all(window["document"].endswith("river.txt") for window in record["windows"])


def test_prune_says_what_it_did_for_people(prune: Command) -> None:
    outcome = prune("-k", 2)
    assert outcome.status == DONE
    shown = " ".join(outcome.out.split())
    for part in ("2 of 6 blocks removed", "blocks 6 4", "perplexity", "removed", "report"):
        assert part in shown
    assert "warning: 256 calibration tokens: below about 8,000" in outcome.err


def test_prune_reports_held_out_losses_of_each_source(
    prune: Command, spec: str, tmp_path: Path
) -> None:
    found = prune("-k", 2, "-c", f"{spec},seed=1,weight=3", "--json").document
    assert [part["weight"] for part in found["calibration"]] == [0.25, 0.75]
    assert [row["calibration"] for row in found["held_out"]] == [
        part["spec"] for part in found["calibration"]
    ]


def test_prune_draws_the_path_of_greedy(prune: Command) -> None:
    path = prune("-k", 3, "--search", "greedy", "--json").document["path"]
    assert [point["k"] for point in path] == [0, 1, 2, 3]
    for smaller, larger in pairwise(path):
        assert set(smaller["removed"]) < set(larger["removed"])


def test_prune_takes_a_search_s_parameters_and_a_budget(prune: Command) -> None:
    words = ("--search", "beam:width=2", "--budget", "18", "--exact", "--json")
    found = prune("-k", 3, *words).document["search"]
    assert (found["name"], found["budget"]) == ("beam:width=2", "evaluations=18")
    assert found["cost"]["evaluations"] == 18
    assert len(found["trace"][-1]["removed"]) == 3


def test_a_budget_below_the_search_s_need_is_refused_before_the_model_is_loaded(
    prune: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(write.Loading, "load", None)
    outcome = prune("-k", 3, "--search", "greedy", "--budget", "5")
    assert outcome.status == WRONG_USAGE
    assert outcome.error.startswith("--budget: greedy needs 12 evaluations to have a first set")
    outcome = prune("-k", 3, "--budget", "ten")
    assert outcome.error.startswith("--budget: expected evaluations such as 200, block-tokens")
    outcome = prune("-k", 3, "--search", "exhaustive:limit=19")
    assert outcome.error.startswith("search exhaustive: there are 20 sets of 3 of 6 blocks, and")
    assert _names(tmp_path) == set()


@pytest.mark.parametrize("search", ["taylor", "angular", "cbo", "evolution"])
def test_prune_and_its_rehearsal_take_any_search(search: str, prune: Command) -> None:
    told = prune("-k", 2, "--search", search, "--dry-run", "--json").document
    found = prune("-k", 2, "--search", search, "--exact", "--json").document["search"]
    assert found["name"] == search
    assert told["evaluations"] == pytest.approx(found["cost"]["evaluations"], rel=0.5)


def test_prune_keeps_protected_blocks(prune: Command) -> None:
    found = prune("-k", 3, "--protect", "0,2-3", "--json").document
    assert found["removed"] == [1, 4, 5]
    assert found["search"]["protect"] == [0, 2, 3]
    assert [b["block"] for b in found["blocks"]] == [1, 4, 5]


def test_prune_measures_speed_unless_told_not_to(
    depthprune: Command, prune: Command, tiny_llama: Path, spec: str, tmp_path: Path
) -> None:
    assert prune("-k", 2, "--json").document["speed"] is None
    out = tmp_path / "other"
    words = ("prune", tiny_llama, "-c", spec, "-k", 2, "-o", out, *_EXACT, "--json")
    speed = depthprune(*words).document["speed"]
    assert 0 < speed["decode_after"]["low"] <= speed["decode_after"]["median"]


def _plant_held_out(monkeypatch: pytest.MonkeyPatch, each: float) -> None:
    """Let every removed block add `each` to a held-out loss of 2."""

    def mixed(self: HeldOutScorer, sets: Any) -> list[tuple[float, float]]:
        return [(2.0 + each * len(removed), 0.01) for removed in sets]

    monkeypatch.setattr(HeldOutScorer, "mixed", mixed)


@pytest.mark.parametrize("search", ["one-shot", "greedy"])
def test_prune_takes_the_largest_size_within_the_allowed_increase(
    search: str, prune: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    _plant_held_out(monkeypatch, each=0.09)
    found = prune("--max-increase", "10%", "--search", search, "--json").document
    assert len(found["removed"]) == found["search"]["k"] == 2
    assert found["search"]["max_increase"] == pytest.approx(0.1)
    assert len(found["path"]) == 5
    assert found["path"][2]["removed"] == found["removed"]
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert model.config.num_hidden_layers == 4


def test_a_size_rule_searches_greedily_by_default(
    prune: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    _plant_held_out(monkeypatch, each=0.09)
    assert prune("--max-increase", "5%", "--json").document["search"]["name"] == "greedy"


def test_an_increase_that_no_block_stays_within_is_refused(
    prune: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    _plant_held_out(monkeypatch, each=0.09)
    outcome = prune("--max-increase", "4%")
    assert outcome.status == WRONG_USAGE
    assert (
        "the block that costs least on the calibration raises the held-out loss from 2.0000"
        in outcome.error
    )
    assert _names(tmp_path) == set()


def test_overwrite_replaces_an_earlier_output_and_keeps_the_user_s_files(
    prune: Command, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert prune("-k", 1).status == DONE
    (out / "notes.txt").write_text("mine", encoding="utf-8")
    assert prune("-k", 2).status == FAILED
    assert len(_manifest(out)["removed"]) == 1
    assert prune("-k", 2, "--overwrite").status == DONE
    assert len(_manifest(out)["removed"]) == 2
    assert (out / "notes.txt").read_text(encoding="utf-8") == "mine"
    assert _names(tmp_path) == {"out"}


def test_the_command_in_the_manifest_makes_the_same_checkpoint_again(
    depthprune: Command,
    tiny_llama: Path,
    spec: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "out of the way"
    words = ("prune", tiny_llama, "-k", 2, "-c", spec, "-o", out, *_QUICK, "--json")
    monkeypatch.setattr(sys, "argv", ["depthprune", *map(str, words)])
    first = depthprune(*words).document
    weights = (out / "model.safetensors").read_bytes()
    program, *same = shlex.split(first["command"])
    assert program == "depthprune"
    again = depthprune(*same, "--overwrite").document
    assert (again["removed"], again["calibration"]) == (first["removed"], first["calibration"])
    assert (out / "model.safetensors").read_bytes() == weights


def _interrupt(*arguments: object, **options: object) -> None:
    raise KeyboardInterrupt


def _terminate(*arguments: object, **options: object) -> None:
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize("act", [_interrupt, _terminate])
@pytest.mark.parametrize(
    ("room", "name"),
    [(forward.Forward, "_group"), (write, "verify"), (write, "write_report")],
)
def test_an_interrupt_leaves_nothing_and_exits_130(
    room: Any,
    name: str,
    act: Callable[..., None],
    prune: Command,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(room, name, act)
    outcome = prune("-k", 2)
    assert outcome.status == INTERRUPTED
    assert outcome.error == "interrupted; nothing was written"
    assert _names(tmp_path) == set()


def test_a_disk_that_fills_up_leaves_nothing(
    depthprune: Command, tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object, **options: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(byte_copy.os, "copy_file_range", full, raising=False)
    outcome = depthprune("apply", tiny_llama, "--remove", "2", "-o", tmp_path / "out")
    assert outcome.status == FAILED
    assert "the disk is full (No space left on device)" in outcome.error
    assert _names(tmp_path) == set()


def _change(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> Path:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder


@pytest.fixture(scope="session")
def overflowing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose blocks 0 and 2 add what only block 1, between them, takes away in time."""

    def change(tensors: dict[str, torch.Tensor]) -> None:
        for block, value in enumerate((3e38, -3e38, 3e38)):
            tensors[f"model.layers.{block}.mlp.down_proj.bias"][0] = value

    folder = save_tiny(tmp_path_factory.mktemp("overflowing") / "llama", mlp_bias=True)
    return _change(folder, change)


@pytest.mark.parametrize("search", ["one-shot", "greedy"])
def test_a_block_whose_removal_overflows_ranks_last_and_is_named(
    search: str, prune: Command, overflowing: Path
) -> None:
    outcome = prune("-k", 2, "--search", search, "--json", model=overflowing)
    found = outcome.document
    assert 1 not in found["removed"]
    assert found["search"]["not_finite"][0] == [1]
    assert found["blocks"][1]["loss"] == "Infinity"
    assert math.isfinite(found["pruned"]["loss"])
    assert "warning: the loss without block 1 is NaN or infinite; it ranked last" in outcome.err


def test_score_names_a_block_whose_removal_overflows(
    depthprune: Command, spec: str, overflowing: Path
) -> None:
    outcome = depthprune("score", overflowing, "-c", spec, *_EXACT, "--json")
    losses = [row["loss"] for row in outcome.document["blocks"]]
    assert [loss is None for loss in losses] == [False, True, False, False, False, False]
    assert "warning: the loss without block 1 is NaN or infinite" in outcome.err


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        ("model.embed_tokens.weight", "greedy: the loss of all 6 candidates is NaN or infinite"),
        ("model.layers.3.mlp.up_proj.weight", "the loss of the model with every block is NaN"),
    ],
)
def test_weights_that_are_not_numbers_are_an_error(
    tensor: str, message: str, prune: Command, tiny_llama: Path, tmp_path: Path
) -> None:
    model = Path(shutil.copytree(tiny_llama, tmp_path / "model"))
    _change(model, lambda tensors: tensors[tensor].fill_(math.nan))
    outcome = prune("-k", 1, model=model)
    assert outcome.status == FAILED
    assert message in outcome.error
    assert _names(tmp_path) == {"model"}


def test_evaluate_refuses_a_loss_that_is_not_finite(
    depthprune: Command, spec: str, overflowing: Path
) -> None:
    outcome = depthprune("evaluate", overflowing, "-c", spec, "--remove", "1", *_EXACT)
    assert outcome.status == FAILED
    assert "without block 1 is NaN or infinite" in outcome.error


def test_score_gives_each_block_its_increase(
    depthprune: Command, tiny_llama: Path, spec: str
) -> None:
    found = depthprune("score", tiny_llama, "-c", spec, *_EXACT, "--json").document
    assert found["schema"] == 1
    assert [row["block"] for row in found["blocks"]] == list(range(6))
    for row in found["blocks"]:
        assert row["increase"] == pytest.approx(row["loss"] - found["dense"]["loss"])
        assert row["stderr"] > 0
        assert row["increase_stderr"] > 0


def test_score_draws_a_figure_as_svg_or_png(
    depthprune: Command, tiny_llama: Path, spec: str, tmp_path: Path
) -> None:
    words = ("score", tiny_llama, "-c", spec, *_EXACT, "-o")
    assert depthprune(*words, tmp_path / "fig.svg").status == DONE
    assert depthprune(*words, tmp_path / "fig.png").status == DONE
    assert ElementTree.parse(tmp_path / "fig.svg").getroot().tag.endswith("svg")
    assert (tmp_path / "fig.png").read_bytes().startswith(b"\x89PNG")
    assert depthprune(*words, tmp_path / "fig.svg").status == FAILED
    assert depthprune(*words, tmp_path / "fig.svg", "--overwrite").status == DONE
    assert _names(tmp_path) == {"fig.svg", "fig.png"}


def test_score_shows_a_table_for_people(depthprune: Command, tiny_llama: Path, spec: str) -> None:
    outcome = depthprune("score", tiny_llama, "-c", spec, *_EXACT)
    assert outcome.status == DONE
    assert len(outcome.out.splitlines()) > 6


def test_apply_prints_its_manifest_and_nothing_else(
    depthprune: Command, tiny_llama: Path, tmp_path: Path
) -> None:
    outcome = depthprune("apply", tiny_llama, "--remove", "0,3-4", "-o", tmp_path / "out", "--json")
    assert outcome.out == (tmp_path / "out" / "depthprune.json").read_text(encoding="utf-8")
    assert outcome.document["removed"] == [0, 3, 4]
    assert outcome.document["kept"] == [1, 2, 5]
    assert outcome.document["parity"] is None


def test_apply_loads_no_weights(
    depthprune: Command, tiny_llama: Path, tmp_path: Path, no_weights: None
) -> None:
    assert depthprune("apply", tiny_llama, "--remove", "2", "-o", tmp_path / "out").status == DONE


def test_apply_verifies_when_asked_to(
    depthprune: Command, tiny_llama: Path, tmp_path: Path
) -> None:
    words = ("apply", tiny_llama, "--remove", "2", "-o", tmp_path / "out", "--verify", "--json")
    assert depthprune(*words).document["parity"]["logits_difference"] >= 0


_ROW = {
    "calibration", "objective", "loss", "stderr", "perplexity", "windows", "tokens",
}  # fmt: skip


def test_evaluate_reports_each_calibration_apart_in_the_documented_keys(
    depthprune: Command, tiny_llama: Path, spec: str
) -> None:
    words = ("evaluate", tiny_llama, "-c", spec, "-c", f"{spec},seed=1", *_EXACT, "--json")
    found = depthprune(*words).document
    assert found["schema"] == 1
    assert [set(row) for row in found["results"]] == [_ROW, _ROW]
    for row in found["results"]:
        assert row["calibration"].startswith("text:")
        assert row["perplexity"] == pytest.approx(math.exp(row["loss"]))
        assert (row["objective"], row["windows"], row["tokens"]) == ("nll", 8, 8 * 31)
    assert found["results"][0]["loss"] != found["results"][1]["loss"]


def test_evaluate_agrees_with_plain_transformers(
    depthprune: Command, tiny_llama: Path, text: Path
) -> None:
    spec = f"text:{text},windows=6,length=32,order=first"
    (row,) = depthprune("evaluate", tiny_llama, "-c", spec, *_EXACT, "--json").document["results"]
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    model = AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.float32)
    ids = tokenizer(text.read_text(encoding="utf-8"), add_special_tokens=False)["input_ids"]
    windows = torch.tensor(ids[: 6 * 32]).view(6, 32)
    with torch.inference_mode():
        losses = np.asarray([model(w[None], labels=w[None]).loss.item() for w in windows])
    assert row["loss"] == pytest.approx(losses.mean(), rel=1e-5)
    assert row["stderr"] == pytest.approx(losses.std(ddof=1) / math.sqrt(6), rel=1e-4)


def test_evaluate_reads_the_whole_text_and_not_nine_tenths_of_it(
    depthprune: Command, tiny_llama: Path, text: Path
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    total = len(tokenizer(text.read_text(encoding="utf-8"), add_special_tokens=False)["input_ids"])
    words = ("evaluate", tiny_llama, "-c", f"text:{text},windows=all,length=512", *_EXACT)
    (row,) = depthprune(*words, "--json").document["results"]
    assert row["windows"] == total // 512 > 0.9 * total / 512


def test_evaluating_without_blocks_is_evaluating_the_checkpoint_without_them(
    depthprune: Command, tiny_llama: Path, spec: str, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert depthprune("apply", tiny_llama, "--remove", "1,4", "-o", out).status == DONE
    words = ("-c", spec, *_EXACT, "--json")
    cut = depthprune("evaluate", out, *words).document["results"]
    masked = depthprune("evaluate", tiny_llama, "--remove", "1,4", *words).document["results"]
    assert cut[0]["loss"] == pytest.approx(masked[0]["loss"], rel=1e-6)


def test_evaluate_without_a_spread_says_null(
    depthprune: Command, tiny_llama: Path, text: Path
) -> None:
    words = ("evaluate", tiny_llama, "-c", f"text:{text},windows=1,length=32", *_EXACT, "--json")
    assert depthprune(*words).document["results"][0]["stderr"] is None


def test_evaluate_shows_a_table_for_people(
    depthprune: Command, tiny_llama: Path, spec: str
) -> None:
    outcome = depthprune("evaluate", tiny_llama, "-c", spec, *_EXACT)
    assert outcome.status == DONE
    assert "river.txt" in outcome.out


def test_bench_measures_models_side_by_side(
    depthprune: Command, tiny_llama: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert depthprune("apply", tiny_llama, "--remove", "1,4", "-o", out).status == DONE
    sizes = ("--prompt-tokens", 16, "--new-tokens", 4, "--repeats", 3)
    found = depthprune("bench", tiny_llama, out, *sizes, *_EXACT, "--json").document
    assert (found["schema"], found["prompt_tokens"], found["new_tokens"]) == (1, 16, 4)
    before, after = found["results"]
    assert after["parameters"] < before["parameters"]
    assert after["bytes"] < before["bytes"]
    assert after["memory_bytes"] < before["memory_bytes"]
    for row in (before, after):
        for kind in ("prefill", "decode"):
            rate = row[f"{kind}_tokens_per_second"]
            assert 0 < rate["low"] <= rate["median"] <= rate["high"]


@pytest.mark.parametrize(
    ("verb", "name"),
    [
        ("searches", "greedy"),
        ("searches", "one-shot"),
        ("objectives", "nll"),
        ("calibrations", "default"),
        ("calibrations", "stdlib-prose"),
        ("calibrations", "hub"),
    ],
)
def test_a_listing_has_a_line_for_each_name(verb: str, name: str, depthprune: Command) -> None:
    found = depthprune(verb, "--json").document
    assert found["schema"] == 1
    lines = {row["name"]: row["summary"] for row in found[verb]}
    assert lines[name]
    assert name in depthprune(verb).out


def test_architectures_are_listed_with_their_status(depthprune: Command) -> None:
    found = depthprune("architectures", "--json").document
    status = {row["model_type"]: row["status"] for row in found["architectures"]}
    assert status["llama"] == "verified"
    assert "llama" in depthprune("architectures").out


def test_architectures_of_ggufs_are_listed_beside_them(depthprune: Command) -> None:
    found = {
        row["architecture"]: row for row in depthprune("architectures", "--json").document["gguf"]
    }
    assert found["llama"] == {
        "architecture": "llama", "status": "known", "rule": "by field", "why": ""
    }  # fmt: skip
    assert found["smollm3"]["rule"] == "every 4th block: no rotary positions"
    assert found["gemma3n"]["status"] == "refused"
    assert found["gemma3n"]["why"]
    assert "smollm3" in depthprune("architectures").out


def test_calibrations_show_prints_what_a_spec_draws(
    depthprune: Command, tiny_llama: Path, spec: str
) -> None:
    words = ("calibrations", "show", spec, "--model", tiny_llama)
    found = depthprune(*words, "--json").document
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    drawn = dp.calibrate(spec, type("Reader", (), {"tokenizer": tokenizer}))
    assert (found["schema"], found["tokens"]) == (1, 256)
    assert found["fingerprint"] == drawn.fingerprint
    assert [row["start"] for row in found["windows"]] == [w.start for w in drawn.windows]
    assert drawn.fingerprint[:16] in depthprune(*words).out


def test_calibrations_show_tells_domains_overlap_and_repeats(
    depthprune: Command, tiny_llama: Path, text: Path, spec: str
) -> None:
    asked = f"{spec},domain=rivers,dedupe=true,against={text},overlap=1"
    words = ("calibrations", "show", asked, "--model", tiny_llama)
    found = depthprune(*words, "--json").document
    assert {row["domain"] for row in found["windows"]} == {"rivers"}
    assert {row["scored"] for row in found["windows"]} == {31}
    assert found["repeats"] == [0]
    assert found["overlap"][0]["share"] > 0.5
    assert found["specs"][0]["domain"] == "rivers"
    outcome = depthprune(*words)
    shown = " ".join(outcome.out.split())
    assert "rivers: 8 windows, 256 tokens" in shown
    assert "of 8 windows share 13 words in a row" in shown
    assert "warning: 256 calibration tokens" in outcome.err


def test_calibrations_show_prints_what_the_model_writes(
    depthprune: Command, tiny_llama: Path
) -> None:
    words = ("calibrations", "show", "self,windows=2,length=12", "--model", tiny_llama)
    first, again = (depthprune(*words, "--json").document for _ in range(2))
    assert (len(first["windows"]), first["tokens"]) == (2, 24)
    assert first["fingerprint"] == again["fingerprint"]


def test_the_schema_of_a_file_is_printed_alone(depthprune: Command, tmp_path: Path) -> None:
    schema = depthprune("calibrations", "--schema").document
    assert "CalibrationSpec" in schema["$defs"]


@pytest.mark.parametrize("verb", ["evaluate", "score"])
def test_a_model_may_be_measured_on_its_own_text_and_is_loaded_once(
    verb: str, depthprune: Command, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads = []
    load_module = loading.load_module

    def counted(*arguments: Any) -> Any:
        loads.append(arguments)
        return load_module(*arguments)

    monkeypatch.setattr(loading, "load_module", counted)
    words = (verb, tiny_llama, "-c", "self,windows=4,length=16", "--dtype", "float32")
    assert depthprune(*words, "--json").document["schema"] == 1
    assert len(loads) == 1


def test_a_yaml_file_of_specs_is_a_calibration(
    depthprune: Command, tiny_llama: Path, text: Path, spec: str, tmp_path: Path
) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(f"source: text\ntarget: {text}\nwindows: 8\nlength: 32\n", encoding="utf-8")
    words = ("--model", tiny_llama, "--json")
    by_file, by_line = (
        depthprune("calibrations", "show", each, *words).document for each in (file, spec)
    )
    assert by_file == by_line


def test_help_and_version_go_to_stdout(depthprune: Command) -> None:
    for words in (("--help",), ("prune", "--help"), ("apply", "--help")):
        outcome = depthprune(*words)
        assert (outcome.status, outcome.err) == (DONE, "")
        assert "Usage: depthprune" in outcome.out
    assert depthprune("--version").out == f"depthprune {dp.__version__}\n"


def test_debug_shows_where_an_error_came_from(depthprune: Command, tiny_llama: Path) -> None:
    outcome = depthprune("evaluate", tiny_llama, "-c", "text:/none.txt", "--debug")
    assert outcome.status == FAILED
    assert outcome.err.startswith("Traceback")
    assert outcome.err.splitlines()[-1].startswith("error: /none.txt: no such file")


def test_an_error_of_our_own_making_is_one_line_that_says_so(
    prune: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def broken(*arguments: object, **options: object) -> None:
        raise RuntimeError("two\nlines")

    monkeypatch.setattr(write, "verify", broken)
    outcome = prune("-k", 2)
    assert outcome.status == FAILED
    assert outcome.err.splitlines()[-1].startswith("error: RuntimeError: two lines; this is a bug")
    assert _names(tmp_path) == set()


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
        MemoryError(),
    ],
)
def test_where_memory_runs_out_the_line_says_what_helps(
    error: Exception, prune: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: object, **options: object) -> None:
        raise error

    monkeypatch.setattr(write, "verify", broken)
    outcome = prune("-k", 2)
    assert outcome.status == FAILED
    last = outcome.err.splitlines()[-1]
    assert last.startswith("error: memory ran out (")
    assert last.endswith("--dtype bfloat16, --stream or another --device")


LONG = "x" * 5_000


@pytest.mark.parametrize(
    "words",
    [
        ("apply", LONG, "--remove", 1, "-o", "out"),
        ("bench", LONG),
        ("evaluate", LONG, "-c", "stdlib-prose"),
        ("evaluate", "MODEL", "-c", f"text:{LONG}"),
        ("prune", "MODEL", "-k", 1, "-o", LONG),
        ("memo", "--memo", LONG),
        ("prune", "MODEL", "-k", 1, "-o", "out", "--for", f"text:{LONG}"),
        ("prune", "MODEL", "-k", 1, "-o", "out", "--for", "stdlib-prose", "--portfolio", LONG),
        ("recover", LONG, "--original", "MODEL", "-o", "out"),
        ("report", LONG),
        ("score", "MODEL", "-o", f"{LONG}.png"),
        ("study", LONG, "-o", "out"),
    ],
)
def test_a_name_that_no_system_takes_is_no_bug(
    depthprune: Command,
    tiny_llama: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[Any, ...],
) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = depthprune(*(tiny_llama if word == "MODEL" else word for word in words))
    assert outcome.status in (FAILED, 2)
    assert "xxxx" in outcome.error
    assert len(outcome.error) < 2_100
    assert _names(tmp_path) == set()


def test_a_reader_that_goes_away_is_no_reason_to_complain() -> None:
    code = "import sys; from depthprune.cli import main; main(['architectures', '--json'])"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == FAILED


@pytest.mark.parametrize("verb", ["score", "evaluate"])
def test_streaming_changes_no_number(
    depthprune: Command, tiny_llama: Path, spec: str, verb: str
) -> None:
    words = (verb, tiny_llama, "-c", spec, "--memo", "off", "--json")
    streamed, held = depthprune(*words, "--stream").document, depthprune(*words).document
    # What rounding does is not measured of a streamed model, whose blocks would be read once more.
    assert streamed.pop("rounding", None) is None
    held.pop("rounding", None)
    assert streamed == held


def test_a_streamed_prune_writes_and_proves_the_same_checkpoint(
    depthprune: Command, tiny_llama: Path, spec: str, tmp_path: Path
) -> None:
    words = ("prune", tiny_llama, "-k", 2, "-c", spec, "--memo", "off", "--json", "--no-bench")
    held = depthprune(*words, "-o", tmp_path / "held").document
    outcome = depthprune(*words, "-o", tmp_path / "streamed", "--stream")
    streamed = outcome.document
    assert "speed and the sample are left out" in outcome.err
    assert streamed["removed"] == held["removed"]
    assert streamed["parity"]["bitwise"]
    assert (streamed["sample"], streamed["speed"]) == (None, None)
    first, second = (tmp_path / name / "model.safetensors" for name in ("held", "streamed"))
    assert first.read_bytes() == second.read_bytes()


def test_what_cannot_be_streamed_is_refused_before_any_text_is_read(
    depthprune: Command, tiny_llama: Path, tmp_path: Path, no_weights: None
) -> None:
    folder = tmp_path / "packed"
    folder.mkdir()
    for file in tiny_llama.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "gptq", "bits": 4}
    (folder / "config.json").write_text(json.dumps(config))
    (tmp_path / "empty.txt").touch()
    refused = depthprune("score", folder, "-c", f"text:{tmp_path / 'empty.txt'}", "--stream")
    assert refused.status == 1
    assert "cannot be streamed; load it whole without --stream" in refused.error


def test_a_device_map_excludes_streaming(depthprune: Command, tiny_llama: Path) -> None:
    refused = depthprune("score", tiny_llama, "--stream", "--device-map", "auto")
    assert refused.status == 2
    assert refused.error == ("--device-map: cannot be combined with --stream; give one of them")


def test_calibrations_are_mixed_where_one_is_chosen_on_and_not_where_each_is_measured(
    depthprune: Command,
) -> None:
    helps = {verb: depthprune(verb, "--help").out for verb in ("prune", "evaluate")}
    assert "several are mixed by weight=" in " ".join(helps["prune"].split())
    assert "several are measured one by one" in " ".join(helps["evaluate"].split())
