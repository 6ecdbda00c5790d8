"""`--recover lora`, end to end on a tiny model."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import depthprune as dp
from command import Command, Outcome
from depthprune.models.parity import reload
from depthprune.pruning import prepare
from tiny import save_tiny

pytest.importorskip("peft", reason="the extra heal is not installed")

from depthprune.recovery import (
    LoRA,
    distil,
)
from depthprune.recovery.lora import student

_EXACT = ("--dtype", "float32", "--device", "cpu")
_LORA = "lora:rank=4,steps=6,lr=0.01,batch=4,nll=0.5,every=2,judge=3"


@pytest.fixture(scope="module")
def enough(text: Path) -> str:
    return f"text:{text},windows=16,length=32"


@pytest.fixture
def prune(depthprune: Command, tiny_llama: Path, enough: str, tmp_path: Path) -> Command:
    """Runs `prune` on the tiny model; the first word is the name of the output."""

    def prune(out: str, *words: object, model: Path = tiny_llama) -> Outcome:
        given = ("-c", enough, "-k", 2, "-o", tmp_path / out, *_EXACT, "--no-bench")
        return depthprune("prune", model, *given, *words)

    return prune


@pytest.fixture
def recover(depthprune: Command, tiny_llama: Path, enough: str, tmp_path: Path) -> Command:
    """Runs `recover --recover lora` on `plain` into `out`."""

    def recover(*words: object, original: Path = tiny_llama, way: str = _LORA) -> Outcome:
        given = ("--original", original, "-c", enough, "-o", tmp_path / "out", *_EXACT)
        return depthprune("recover", tmp_path / "plain", *given, "--recover", way, *words)

    return recover


def _checkpoints(folder: Path) -> list[Path]:
    return list(folder.glob(".*.lora-*"))


def test_prune_trains_what_it_removed(
    prune: Command, tiny_llama: Path, enough: str, tmp_path: Path
) -> None:
    outcome = prune("out", "--recover", _LORA, "--also", "stdlib-code,windows=2,length=32",
                    "--json")  # fmt: skip
    found = outcome.document
    model = dp.load(tiny_llama, dtype="float32", device="cpu")
    calibration = dp.calibrate(enough, model)
    settings = LoRA(rank=4, steps=6, lr=0.01, batch=4, nll=0.5, every=2, judge=3)
    recovery = distil(model, found["removed"], calibration, settings)
    assert recovery.training is not None
    told = found["recovery"]
    assert told["method"] == "lora"
    assert told["training"]["settings"] == settings.line
    assert told["training"]["best"] == recovery.training.best > 0
    curve = [(p["step"], p["choosing"], p["held_out"]) for p in told["training"]["curve"]]
    assert curve == [(p.step, p.choosing, p.held_out) for p in recovery.training.points]
    assert [run["blocks"] for run in told["runs"]] == [list(run.blocks) for run in recovery.runs]
    with dp.recovered(model, recovery):
        score = dp.Evaluator(model, calibration.held_out()[0]).score([found["removed"]])[0]
    assert found["held_out"][0]["recovered"]["loss"] == pytest.approx(score.loss, rel=1e-6)
    assert told["further"][0]["calibration"].startswith("stdlib-code")
    assert found["parity"]["logits_difference"] <= 1e-5 * found["parity"]["logits_scale"]
    assert _checkpoints(tmp_path) == []


def test_what_is_written_is_an_ordinary_checkpoint(prune: Command, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    prune("plain")
    prune("out", "--recover", _LORA)
    plain, trained = (load_file(tmp_path / name / "model.safetensors") for name in ("plain", "out"))
    assert {n: (t.shape, t.dtype) for n, t in plain.items()} == {
        n: (t.shape, t.dtype) for n, t in trained.items()
    }
    changed = {n for n in plain if not torch.equal(plain[n], trained[n])}
    assert changed == {n for n in plain if n.endswith("_proj.weight")}
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    assert model(input_ids=torch.tensor([[3, 4, 5]])).logits.isfinite().all()


def test_half_precision_files_are_written_in_their_dtype(prune: Command, tmp_path: Path) -> None:
    model = save_tiny(tmp_path / "model", dtype=torch.bfloat16)
    found = prune("out", "--recover", _LORA, "--dtype", "bfloat16", "--json", model=model).document
    assert found["dtype"] == "bfloat16"
    assert found["parity"]["bitwise"] or found["parity"]["float32_difference"] <= 1e-5


def test_recover_writes_what_prune_with_recovery_writes(
    prune: Command, recover: Command, tmp_path: Path
) -> None:
    prune("plain")
    expected = prune("whole", "--recover", _LORA, "--json").document
    found = recover("--json").document
    ours, theirs = ((tmp_path / n / "model.safetensors").read_bytes() for n in ("out", "whole"))
    assert ours == theirs
    for field in ("removed", "kept", "held_out", "recovery"):
        assert found[field] == expected[field]


def test_the_page_the_card_and_the_terminal_show_the_training(
    prune: Command, tmp_path: Path
) -> None:
    outcome = prune("out", "--recover", _LORA)
    assert outcome.status == 0, outcome.err
    assert "by recovery" in outcome.out
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    for shown in (page, card):
        assert "was best on windows that were not trained on" in shown
    assert "Loss against steps of training" in page
    assert "their weights were trained to recover part of what removal broke" in card
    assert "nothing was trained" not in card


def test_an_interrupted_training_is_gone_on_with(
    prune: Command, recover: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prune("plain")
    whole = recover("--json").document
    expected = (tmp_path / "out" / "model.safetensors").read_bytes()
    forward, left = student.Student.forward, iter(range(4 * 12))

    def stop(self: student.Student, distil_batch: torch.Tensor) -> torch.Tensor:
        if next(left) == 5:
            raise KeyboardInterrupt
        return forward(self, distil_batch)

    with monkeypatch.context() as patch:
        patch.setattr(student.Student, "forward", stop)
        stopped = recover("--overwrite")
    assert stopped.status == 130
    assert "the same command goes on from" in stopped.err
    assert len(_checkpoints(tmp_path)) == 1
    again = recover("--overwrite", "--json")
    assert "training goes on from" in again.err
    assert again.document["recovery"] == whole["recovery"]
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == expected
    assert _checkpoints(tmp_path) == []


def test_a_training_that_is_refused_leaves_no_folder(
    prune: Command, recover: Command, tmp_path: Path
) -> None:
    prune("plain")
    error = recover(way=_LORA.replace("rank=4", "rank=99")).error
    assert "rank: expected at most 32, the full rank of a projection, got 99" in error
    assert [each.name for each in tmp_path.iterdir()] == ["plain"]


def test_items_with_options_are_trained_on_and_judged(prune: Command, tmp_path: Path) -> None:
    items = tmp_path / "items.jsonl"
    rows = [{"prompt": f"The river is {n} feet", "options": [" high", " low"], "answer": n % 2}
            for n in range(80)]  # fmt: skip
    items.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    spec = f"choices:{items},windows=16"
    found = prune("out", "--recover", f"{_LORA},start=plain", "-c", spec, "--also",
                  f"choices:{items},windows=4", "--json").document  # fmt: skip
    texts = [*found["held_out"], *found["recovery"]["further"]]
    assert [row["calibration"].partition(":")[0] for row in texts] == ["text", "choices", "choices"]
    assert all(row["recovered_change_stderr"] > 0 for row in texts)


def test_training_that_gains_nothing_is_said(prune: Command, tmp_path: Path) -> None:
    outcome = prune("out", "--recover", "lora:rank=4,steps=4,lr=1,batch=4,every=2,start=plain")
    assert "so nothing was gained and nothing was added" in outcome.err
    manifest = json.loads((tmp_path / "out" / "depthprune.json").read_text(encoding="utf-8"))
    assert manifest["recovery"]["training"]["best"] == 0
    assert manifest["parity"]["bitwise"]
    assert "nothing was gained" in (tmp_path / "out" / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--recover", "lora:rank=0"), "rank: expected 1 or more"),
        (("--recover", "lorra"), "did you mean 'lora'?"),
        (("--recover", "lora", "--stream"), "load it whole without --stream"),
        (("--recover", "lora", "--search-with-recovery"), "pass --recover linear"),
    ],
)
def test_wrong_words_are_refused_before_anything_is_loaded(
    words: tuple[str, ...], message: str, prune: Command, no_weights: None
) -> None:
    outcome = prune("out", *words)
    assert message in outcome.error
    assert outcome.status == 2


def test_a_missing_library_is_refused_before_anything_is_loaded(
    prune: Command, no_weights: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    assert "pip install 'depthprune[heal]'" in prune("out", "--recover", _LORA).error


def test_too_few_windows_are_refused_before_the_search(
    prune: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(prepare, "search", lambda *given, **more: pytest.fail("searched"))
    outcome = prune("out", "--recover", "lora:batch=64")
    assert "12 of 16 windows to train on, and a step takes 64" in outcome.error
    assert not (tmp_path / "out").exists()


def test_reloading_needs_nothing_of_peft(prune: Command, tmp_path: Path) -> None:
    prune("out", "--recover", _LORA)
    module = reload(tmp_path / "out", "float32", "cpu")
    assert not [name for name, _ in module.named_modules() if "lora" in name]


@pytest.mark.parametrize(
    ("way", "why"),
    [
        ("lora:rank=99", "rank: expected at most 32, the full rank of a projection, got 99"),
        ("last:blocks=5", "blocks: expected at most the 4 that are kept, got 5"),
    ],
)
def test_what_does_not_fit_the_model_is_refused_before_the_search(
    way: str, why: str, prune: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("depthprune.pruning.prune.workers_for", None)
    assert why in prune("out", "--recover", f"{way},steps=4,batch=4,judge=3").error
