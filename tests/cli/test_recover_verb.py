"""`prune --recover linear` and `recover`, end to end on a tiny model."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import depthprune as dp
from command import Command, Outcome
from depthprune.pruning import prepare
from depthprune.recovery import (
    RecoveringScorer,
)
from depthprune.recovery.linear import layerwise_fit
from gguf_tiny import tiny_gguf
from tiny import save_tiny

_EXACT = ("--dtype", "float32", "--device", "cpu")
_QUICK = (*_EXACT, "--no-bench")
_LORA = "lora:rank=4,steps=2,batch=4,every=2,judge=3,start=plain"

either_way = pytest.mark.parametrize(
    "way",
    [
        "linear",
        pytest.param(
            _LORA,
            marks=pytest.mark.skipif(
                find_spec("peft") is None, reason="the extra heal is not installed"
            ),
        ),
    ],
)


@pytest.fixture(scope="module")
def enough(text: Path) -> str:
    return f"text:{text},windows=16,length=32"


@pytest.fixture
def prune(depthprune: Command, tiny_llama: Path, enough: str, tmp_path: Path) -> Command:
    """Runs `prune` on the tiny model; the first word is the name of the output."""

    def prune(out: str, *words: object, model: Path = tiny_llama) -> Outcome:
        given = ("-c", enough, "-k", 3, "-o", tmp_path / out, *_QUICK)
        return depthprune("prune", model, *given, *words)

    return prune


@pytest.fixture
def recover(depthprune: Command, tiny_llama: Path, enough: str, tmp_path: Path) -> Command:
    """Runs `recover` on `plain` into `out`."""

    def recover(*words: object, original: Path = tiny_llama, name: str = "plain") -> Outcome:
        given = ("--original", original, "-c", enough, "-o", tmp_path / "out", *_EXACT)
        return depthprune("recover", tmp_path / name, *given, *words)

    return recover


def _weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def _written(folder: Path) -> set[str]:
    """What lies in a folder, hidden or not."""
    return {each.name for each in folder.iterdir()}


def _rewrite(folder: Path, **fields: Any) -> None:
    """Change what a checkpoint's manifest says; of a section, some of its fields."""
    file = folder / "depthprune.json"
    manifest = json.loads(file.read_text(encoding="utf-8"))
    for name, value in fields.items():
        manifest[name] = {**manifest[name], **value} if isinstance(value, dict) else value
    file.write_text(json.dumps(manifest), encoding="utf-8")


def test_prune_recovers_what_it_removed(
    prune: Command, tiny_llama: Path, enough: str, tmp_path: Path
) -> None:
    found = prune("out", "--recover", "linear", "--also", "stdlib-code,windows=2,length=32",
                  "--json").document  # fmt: skip
    model = dp.load(tiny_llama, dtype="float32", device="cpu")
    calibration = dp.calibrate(enough, model)
    recovery = dp.recover(model, found["removed"], calibration)
    told = found["recovery"]
    assert [run["blocks"] for run in told["runs"]] == [list(run.blocks) for run in recovery.runs]
    assert [run["strength"] for run in told["runs"]] == [run.strength for run in recovery.runs]
    assert told["calibration"] == found["calibration"]
    with dp.recovered(model, recovery):
        score = dp.Evaluator(model, calibration.held_out()[0]).score([found["removed"]])[0]
    row = found["held_out"][0]
    assert row["recovered"]["loss"] == pytest.approx(score.loss, rel=1e-6)
    assert row["recovered_change"] == pytest.approx(score.loss - row["pruned"]["loss"], abs=1e-6)
    assert row["recovered_increase"] == pytest.approx(score.loss - row["dense"]["loss"], abs=1e-6)
    assert told["further"][0]["calibration"].startswith("stdlib-code")
    assert found["parity"]["bitwise"]


def test_the_page_the_card_and_the_terminal_show_what_recovery_gave(
    prune: Command, tmp_path: Path
) -> None:
    outcome = prune("out", "--recover", "linear")
    assert outcome.status == 0, outcome.err
    assert "by recovery" in outcome.out
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "What recovery gave back" in page
    assert "Folded into the weights of the block before" in page
    assert "## Recovery" in card
    assert "blocks are unchanged" not in card


def test_the_search_can_score_recovered_sets(prune: Command, tiny_llama: Path, enough: str) -> None:
    found = prune("out", "--recover", "linear", "--search-with-recovery", "--search", "greedy",
                  "--json").document  # fmt: skip
    model = dp.load(tiny_llama, dtype="float32", device="cpu")
    scorer = RecoveringScorer(model, dp.calibrate(enough, model))
    assert found["removed"] == list(dp.search("greedy", scorer, k=3).removed)
    assert found["recovery"]["in_search"]
    assert found["parity"]["bitwise"]


def test_a_search_of_recovered_sets_is_exact_and_repeated_as_it_was(
    prune: Command, tiny_llama: Path, enough: str
) -> None:
    words = ("--recover", "linear", "--search-with-recovery", "--draws", 2, "--json")
    found = prune("out", *words).document
    assert found["search"]["racing"] is None
    model = dp.load(tiny_llama, dtype="float32", device="cpu")
    scorer = RecoveringScorer(model, dp.calibrate(enough, model).redraw(1))
    again = dp.search("greedy", scorer, k=3)
    (draw,) = found["draws"]
    assert draw["removed"] == list(again.removed)
    # Told beside the loss of the first draw, which is of all windows and before recovery.
    plain = dp.Evaluator(model, scorer.calibration).score([again.removed, found["removed"]])
    assert [draw["loss"], draw["loss_of_first"]] == [score.loss for score in plain]


def test_a_dry_run_counts_the_fitting_of_every_set(prune: Command) -> None:
    plain = prune("out", "--dry-run", "--json").document
    words = ("--recover", "linear", "--search-with-recovery", "--dry-run", "--json")
    told = prune("out", *words).document
    assert told["evaluations"] == plain["evaluations"]
    assert told["block_tokens"] > 1.5 * plain["block_tokens"]


def test_sizes_are_not_judged_before_recovery(
    depthprune: Command, tiny_llama: Path, enough: str, tmp_path: Path, no_weights: None
) -> None:
    outcome = depthprune("prune", tiny_llama, "-c", enough, "--max-increase", "5%", *_QUICK,
                         "--recover", "linear", "--search-with-recovery",
                         "-o", tmp_path / "out")  # fmt: skip
    assert "--max-increase judges before recovery; give -k" in outcome.error


def test_recover_writes_what_prune_with_recovery_writes(
    prune: Command, recover: Command, tmp_path: Path
) -> None:
    prune("plain")
    expected = prune("whole", "--recover", "linear", "--json").document
    found = recover("--json").document
    assert _weights(tmp_path / "out") == _weights(tmp_path / "whole")
    assert _weights(tmp_path / "out") != _weights(tmp_path / "plain")
    for field in ("removed", "kept", "held_out", "recovery", "blocks", "size"):
        assert found[field] == expected[field]
    assert found["parity"]["bitwise"]
    assert json.loads((tmp_path / "out" / "depthprune.json").read_text()) == found


def test_a_streamed_model_is_pruned_and_recovered_to_the_same_bytes(
    prune: Command, recover: Command, tmp_path: Path
) -> None:
    # Calls of a streamed model hold other numbers of windows, and so do the rounds of its races.
    words = ("--recover", "linear", "--json", "--exact")
    held, streamed = prune("held", *words).document, prune("streamed", *words, "--stream").document
    assert streamed["parity"]["bitwise"]
    assert (streamed["sample"], streamed["speed"]) == (None, None)
    assert streamed["recovery"] == held["recovery"]
    assert streamed["held_out"] == held["held_out"]
    prune("plain", "--stream", "--exact")
    again = recover("--stream", "--json").document
    assert again["recovery"] == held["recovery"]
    files = [_weights(tmp_path / name) for name in ("held", "streamed", "out", "plain")]
    assert files[0] == files[1] == files[2] != files[3]


def test_what_recover_wrote_has_a_sample_and_its_speed(
    prune: Command, recover: Command, tmp_path: Path
) -> None:
    prune("plain", "--prompt", "The river")
    found = recover("--json").document
    assert found["sample"]["prompt"] == "The river"
    assert found["sample"]["before"]
    assert found["speed"]["decode_after"]["median"] > 0
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "What both models write" in page
    assert (
        recover("--prompt", "A bridge", "--no-bench", "--overwrite", "--json").document["sample"][
            "prompt"
        ]
        == "A bridge"
    )


@pytest.fixture(scope="module")
def items(tmp_path_factory: pytest.TempPathFactory) -> str:
    rows = [
        {
            "prompt": f"Line {i}: the river is",
            "options": [" high", " low", " brown"],
            "answer": i % 3,
        }
        for i in range(40)
    ]
    file = tmp_path_factory.mktemp("items") / "items.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return f"choices:{file},windows=12"


def test_accuracy_on_items_is_told_before_removal_after_it_and_after_recovery(
    prune: Command, items: str, tiny_llama: Path, tmp_path: Path
) -> None:
    found = prune("out", "--recover", "linear", "--also", items, "--json").document
    (row,) = found["recovery"]["choices"]
    assert row["objective"] == "accuracy"
    model = dp.load(tiny_llama, dtype="float32", device="cpu")
    calibration = dp.calibrate(found["calibration"][0]["spec"], model)
    recovery = dp.recover(model, found["removed"], calibration)
    judged = dp.calibrate(items, model, split="whole")
    dense, pruned = dp.Evaluator(model, judged, "accuracy").score([(), found["removed"]])
    with dp.recovered(model, recovery):
        recovered = dp.Evaluator(model, judged, "accuracy").score([found["removed"]])[0]
    for name, score in (("dense", dense), ("pruned", pruned), ("recovered", recovered)):
        assert row[name]["loss"] == pytest.approx(score.loss, abs=1e-6)
        assert row[name]["stderr"] == pytest.approx(score.stderr, abs=1e-6)
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    for shown in (page, card.replace("\\", "")):
        assert "ccuracy in %, items.jsonl" in shown
        assert "erplexity, items.jsonl (not fitted)" in shown
        assert "was not judged on" not in shown


def test_text_and_items_that_were_not_judged_are_named(prune: Command, tmp_path: Path) -> None:
    assert prune("out", "--recover", "linear").status == 0
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "not judged on text that was not fitted nor on items with options" in page


def test_an_objective_of_items_leaves_further_text_to_nll(
    depthprune: Command, tiny_llama: Path, items: str, enough: str, tmp_path: Path
) -> None:
    found = depthprune(
        *("prune", tiny_llama, "-c", items, "-k", 2, "-o", tmp_path / "out", *_QUICK),
        *("--objective", "option-ce", "--recover", "linear", "--also", enough, "--json"),
    ).document
    assert found["recovery"]["further"][0]["objective"] == "nll"
    assert found["held_out"][0]["objective"] is None
    assert len(found["recovery"]["choices"]) == 1


@pytest.mark.parametrize("words", [(), ("--recover", "linear")])
def test_each_source_of_a_mixture_is_judged_by_what_can_judge_it(
    words: tuple[str, ...],
    depthprune: Command,
    tiny_llama: Path,
    items: str,
    enough: str,
    tmp_path: Path,
) -> None:
    found = depthprune(
        *("prune", tiny_llama, "-c", enough, "-c", items, "-k", 2, "-o", tmp_path / "out"),
        *("--objective", "nll:0.7+option-ce:0.3", *_QUICK, *words, "--json"),
    ).document
    assert [row["objective"] for row in found["held_out"]] == ["nll", "option-ce"]
    model = dp.load(tiny_llama, dtype="float32", device="cpu")
    for row, spec in zip(found["held_out"], (enough, items), strict=True):
        (held_out,) = dp.calibrate(spec, model).held_out()
        scores = dp.Evaluator(model, held_out, row["objective"]).score([(), found["removed"]])
        losses = [row[name]["loss"] for name in ("dense", "pruned")]
        assert losses == pytest.approx([score.loss for score in scores], rel=1e-5)
        assert ("recovered" in row and row["recovered"] is not None) == bool(words)


def test_recover_takes_what_apply_cut(
    depthprune: Command, recover: Command, tiny_llama: Path, tmp_path: Path
) -> None:
    depthprune("apply", tiny_llama, "--remove", "2,4", "-o", tmp_path / "plain")
    found = recover("--json").document
    assert [run["into"] for run in found["recovery"]["runs"]] == [1, 3]
    assert found["objective"] == "nll"


def test_a_run_at_the_bottom_is_said(
    depthprune: Command, recover: Command, tiny_llama: Path, tmp_path: Path
) -> None:
    depthprune("apply", tiny_llama, "--remove", "0", "-o", tmp_path / "plain")
    outcome = recover("--recover", "linear:refit=none")
    assert outcome.status == 0
    assert "note: block 0: not recovered; the run is at the very bottom" in outcome.err
    assert _weights(tmp_path / "out") == _weights(tmp_path / "plain")


def test_text_that_recovery_harmed_is_named(
    prune: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = layerwise_fit.fit

    def backwards(*given: Any) -> Any:
        found = right(*given)
        return replace(found, change=-2 * found.change, ridge=0.1, strength=1.0)

    monkeypatch.setattr(layerwise_fit, "fit", backwards)
    outcome = prune("out", "--recover", "linear", "--json")
    assert "warning: recovery made the model worse on text:" in outcome.err
    assert len(outcome.document["recovery"]["warnings"]) == 1


@either_way
def test_another_original_is_refused_before_its_weights_are_loaded(
    way: str, prune: Command, recover: Command, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    prune("plain")
    request.getfixturevalue("no_weights")
    other = save_tiny(tmp_path / "other", seed=9)
    assert "is not the model that" in recover("--recover", way, original=other).error
    assert _written(tmp_path) == {"plain", "other"}


@either_way
def test_a_checkpoint_that_was_changed_since_is_refused(
    way: str, prune: Command, recover: Command, tmp_path: Path
) -> None:
    prune("plain")
    tensors = load_file(tmp_path / "plain" / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"] += 1e-3
    save_file(tensors, tmp_path / "plain" / "model.safetensors", {"format": "pt"})
    error = recover("--recover", way).error
    assert "model.layers.1.mlp.up_proj.weight is not the original's" in error
    assert _written(tmp_path) == {"plain"}


def test_a_checkpoint_that_holds_more_than_its_original_is_refused(
    prune: Command, recover: Command, tmp_path: Path
) -> None:
    prune("plain")
    tensors = load_file(tmp_path / "plain" / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.bias"] = torch.zeros(48)
    save_file(tensors, tmp_path / "plain" / "model.safetensors", {"format": "pt"})
    assert "model.layers.1.mlp.up_proj.bias is not the original's" in recover().error


def test_what_was_pruned_twice_is_recovered_from_what_it_was_cut_from(
    depthprune: Command, recover: Command, tiny_llama: Path, tmp_path: Path
) -> None:
    depthprune("apply", tiny_llama, "--remove", "2,4", "-o", tmp_path / "once")
    depthprune("apply", tmp_path / "once", "--remove", "1", "-o", tmp_path / "plain")
    assert "is not the model that" in recover().error
    found = recover("--no-bench", "--json", original=tmp_path / "once").document
    assert (found["removed"], found["recovery"]["runs"][0]["into"]) == ([1], 0)
    assert found["parity"]["bitwise"]


def test_an_original_that_has_no_fingerprint_is_said(
    depthprune: Command, recover: Command, tiny_llama: Path, tmp_path: Path
) -> None:
    original = shutil.copytree(tiny_llama, tmp_path / "pickled")
    torch.save(load_file(original / "model.safetensors"), original / "pytorch_model.bin")
    (original / "model.safetensors").unlink()
    depthprune("apply", tiny_llama, "--remove", "2", "-o", tmp_path / "plain")
    error = recover("--allow-pickle", original=original).error
    assert "its fingerprint is none, expected" in error
    _rewrite(tmp_path / "plain", model={"fingerprint": None})
    error = recover("--allow-pickle", original=original).error
    assert "was pruned from pickled weights, which have no fingerprint" in error


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"removed": [99]}, "removed: block 99 is out of range; the model has 6 blocks, 0 to 5;"),
        ({"removed": []}, "removed: expected at least one block to remove, got none;"),
        ({"objective": "kll"}, "unknown objective 'kll'; did you mean 'kl'?;"),
    ],
)
def test_a_manifest_that_cannot_be_true_is_refused_before_weights_are_loaded(
    fields: dict[str, Any],
    message: str,
    depthprune: Command,
    recover: Command,
    tiny_llama: Path,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    depthprune("apply", tiny_llama, "--remove", "2,4", "-o", tmp_path / "plain")
    _rewrite(tmp_path / "plain", **fields)
    request.getfixturevalue("no_weights")
    error = recover().error
    assert error.startswith(f"{tmp_path / 'plain' / 'depthprune.json'}: {message}")
    assert error.endswith("prune the original again")


def test_a_checkpoint_is_recovered_once(prune: Command, recover: Command) -> None:
    prune("plain", "--recover", "linear")
    assert "was recovered already" in recover().error


def test_a_checkpoint_without_a_manifest_is_refused(
    recover: Command, tiny_llama: Path, tmp_path: Path
) -> None:
    shutil.copytree(tiny_llama, tmp_path / "plain")
    assert "found no depthprune.json, which says what was removed" in recover().error
    (tmp_path / "plain" / "depthprune.json").write_text("{}")
    assert "expected a manifest of schema 1" in recover().error


def test_a_gguf_is_refused_with_what_to_do(recover: Command, tmp_path: Path) -> None:
    tiny_gguf(tmp_path / "a.gguf")
    error = recover(name="a.gguf").error
    assert "never changed; prune its original into a folder" in error


@either_way
def test_a_quantized_checkpoint_is_refused_before_its_weights_are_loaded(
    way: str, prune: Command, tmp_path: Path, no_weights: None
) -> None:
    model = save_tiny(tmp_path / "model")
    config = json.loads((model / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "gptq", "bits": 4}
    (model / "config.json").write_text(json.dumps(config))
    error = prune("out", "--recover", way, model=model).error
    assert "its weights are quantized" in error
    assert "recover the unquantized model" in error


def test_a_checkpoint_that_was_quantized_since_is_refused(
    prune: Command, recover: Command, tmp_path: Path
) -> None:
    prune("plain")
    file = tmp_path / "plain" / "config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    config["quantization_config"] = {"quant_method": "gptq", "bits": 4}
    file.write_text(json.dumps(config), encoding="utf-8")
    error = recover().error
    assert error.startswith(f"{tmp_path / 'plain'}: its weights are quantized")
    assert "recover the unquantized model and quantize the result" in error


def test_activations_that_are_nan_are_refused_with_the_block(
    depthprune: Command, recover: Command, tmp_path: Path
) -> None:
    original = save_tiny(tmp_path / "broken")
    tensors = load_file(original / "model.safetensors")
    tensors["model.layers.1.mlp.down_proj.weight"][0, 0] = float("nan")
    save_file(tensors, original / "model.safetensors", {"format": "pt"})
    depthprune("apply", original, "--remove", "3", "-o", tmp_path / "plain")
    assert "block 1 gives NaN or infinite activations" in recover(original=original).error
    assert not (tmp_path / "out").exists()


@either_way
@pytest.mark.parametrize("long", ["fitted", "judged"])
def test_windows_past_a_table_of_positions_are_refused_before_any_is_run(
    way: str, long: str, depthprune: Command, recover: Command, text: Path, tmp_path: Path
) -> None:
    original = save_tiny(tmp_path / "gpt2", "gpt2")
    depthprune("apply", original, "--remove", "3", "-o", tmp_path / "plain")
    spec = f"text:{text},windows=8,length=129"
    words = ("-c", spec) if long == "fitted" else ("--also", spec)
    error = recover("--recover", way, *words, original=original).error
    assert "the window has 129 tokens, and the model has positions for 128; lower length=" in error
    assert _written(tmp_path) == {"gpt2", "plain"}


def test_a_singular_system_is_said_and_what_it_does_not_know_left(
    depthprune: Command, recover: Command, tmp_path: Path
) -> None:
    original = save_tiny(tmp_path / "low")
    tensors = load_file(original / "model.safetensors")
    tensors["model.layers.1.mlp.down_proj.weight"][20:] = 0
    tensors["model.layers.3.mlp.down_proj.weight"][:] = 0
    save_file(tensors, original / "model.safetensors", {"format": "pt"})
    depthprune("apply", original, "--remove", "2,4", "-o", tmp_path / "plain")
    outcome = recover("--json", "--recover", "linear:refit=none,fit=outputs", original=original)
    low, none = outcome.document["recovery"]["runs"]
    assert (low["rank"], none["rank"]) == (20, None)
    assert "the system is singular: on these tokens the MLP of block 1 adds 20 of 32" in outcome.err
    assert "block 3 adds nothing, so the system is singular" in outcome.err


def test_too_few_tokens_are_refused_by_recover(
    depthprune: Command, tiny_llama: Path, text: Path, tmp_path: Path
) -> None:
    depthprune("apply", tiny_llama, "--remove", "2", "-o", tmp_path / "plain")
    few = ("-c", f"text:{text},windows=4,length=8", "-o", tmp_path / "out")
    outcome = depthprune("recover", tmp_path / "plain", "--original", tiny_llama, *few, *_EXACT)
    assert "24 tokens to fit, and a model of width 32 needs 64 or more" in outcome.error


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--recover", "liner"), "did you mean 'linear'?"),
        (("--also", "stdlib-code"), "--also: names further text to judge recovery on"),
        (("--search-with-recovery",), "pass --recover linear"),
        (("--recover", "linear", "--also", "stdlib-cod"), "did you mean 'stdlib-code'?"),
    ],
)
def test_wrong_words_are_refused_before_anything_is_loaded(
    words: tuple[str, ...], message: str, prune: Command, no_weights: None
) -> None:
    outcome = prune("out", *words)
    assert message in outcome.error
    assert outcome.status == 2


def test_too_few_tokens_are_refused_before_the_search(
    depthprune: Command,
    tiny_llama: Path,
    text: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(prepare, "search", lambda *given, **more: pytest.fail("searched"))
    spec = f"text:{text},windows=4,length=8"
    outcome = depthprune("prune", tiny_llama, "-c", spec, "-k", 2, "-o", tmp_path / "out", *_QUICK,
                         "--recover", "linear")  # fmt: skip
    assert "24 tokens to fit, and a model of width 32 needs 64 or more" in outcome.error
    assert not (tmp_path / "out").exists()
