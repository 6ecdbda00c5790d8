"""Every verb on a real model: the 30 blocks of SmolLM2-135M, real text, real files."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from demo import DTYPE, SMALL, document, run
from depthprune.cli import INTERRUPTED

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo, six blocks removed on a small calibration."""
    folder = tmp_path_factory.mktemp("demo") / "out"
    specs = ("-c", f"stdlib-prose,{SMALL}", "-c", f"stdlib-code,{SMALL}")
    words = (*specs, "--search", "one-shot", "--exact", "-o", str(folder), *DTYPE)
    done = run("prune", "demo", "-k", "6", *words)
    assert done.returncode == 0, done.stderr
    assert "perplexity, stdlib-prose" in done.stdout
    assert "report.html" in done.stdout
    assert "the noise of the draw decides" in " ".join(done.stderr.split())
    return folder


@pytest.fixture(scope="module")
def manifest(out: Path) -> Any:
    return json.loads((out / "depthprune.json").read_text(encoding="utf-8"))


def test_prune_writes_an_ordinary_checkpoint(out: Path, manifest: Any) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, info = AutoModelForCausalLM.from_pretrained(out, dtype="auto", output_loading_info=True)
    assert model.dtype == torch.bfloat16
    assert model.config.num_hidden_layers == len(model.model.layers) == 24
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert AutoTokenizer.from_pretrained(out)("a bridge of stone").input_ids
    assert {f.name for f in out.iterdir()} == {*manifest["files"], "depthprune.json"}


def test_the_manifest_says_what_was_done(manifest: Any) -> None:
    assert len(manifest["removed"]) == 6
    assert sorted(manifest["removed"] + manifest["kept"]) == list(range(30))
    assert manifest["parity"]["bitwise"] or manifest["parity"]["float32_difference"] <= 1e-5
    assert [len(part["windows"]) for part in manifest["calibration"]] == [4, 4]
    assert manifest["search"]["cost"]["evaluations"] == 30
    assert manifest["search"]["cost"]["block_tokens"] == 465 * 2 * 4 * 48
    assert len(manifest["held_out"]) == 2
    cheapest = sorted(manifest["blocks"], key=lambda row: row["loss"])[:6]
    assert sorted(row["block"] for row in cheapest) == manifest["removed"]


def test_evaluate_agrees_with_ten_lines_of_transformers(out: Path, tmp_path: Path) -> None:
    from pydoc_data.topics import topics

    from transformers import AutoModelForCausalLM, AutoTokenizer

    file = tmp_path / "topics.txt"
    file.write_text("\n".join(topics.values())[:60_000], encoding="utf-8")
    spec = f"text:{file},windows=2,length=64,order=first"
    found = document("evaluate", str(out), "-c", spec, "--dtype", "bfloat16")["results"][0]

    model = AutoModelForCausalLM.from_pretrained(out, dtype=torch.bfloat16).eval()
    ids = AutoTokenizer.from_pretrained(out)(file.read_text(), add_special_tokens=False).input_ids
    losses = []
    for first in range(0, 2 * 64, 64):
        window = torch.tensor([ids[first : first + 64]])
        with torch.inference_mode():
            losses.append(model(window, labels=window).loss.item())
    loss = sum(losses) / len(losses)
    assert found["loss"] == pytest.approx(loss, rel=1e-3)
    assert found["perplexity"] == pytest.approx(math.exp(loss), rel=1e-3)
    assert (found["windows"], found["tokens"]) == (2, 2 * 63)


def test_evaluate_without_blocks_is_the_pruned_checkpoint(out: Path, manifest: Any) -> None:
    removed = ",".join(map(str, manifest["removed"]))
    words = ("-c", f"stdlib-prose,{SMALL}", *DTYPE)
    masked = document("evaluate", "demo", "--remove", removed, *words)["results"][0]
    saved = document("evaluate", str(out), *words)["results"][0]
    assert saved["loss"] == pytest.approx(masked["loss"], rel=1e-5)


def test_score_gives_each_block_a_loss_and_a_figure(tmp_path: Path) -> None:
    words = ("-c", f"stdlib-code,{SMALL}", "-o", str(tmp_path / "bars.svg"))
    found = document("score", "demo", *words)
    assert [row["block"] for row in found["blocks"]] == list(range(30))
    assert max(found["blocks"], key=lambda row: row["loss"])["block"] == 0
    assert "<svg" in (tmp_path / "bars.svg").read_text(encoding="utf-8")


def test_apply_with_verify_cuts_the_pruned_checkpoint_again(out: Path, tmp_path: Path) -> None:
    words = ("apply", str(out), "--remove", "4,12-14", "--verify", "-o", str(tmp_path / "again"))
    found = document(*words)
    assert found["kept"] == [b for b in range(24) if b not in (4, 12, 13, 14)]
    assert found["parity"] is not None


def test_bench_measures_two_models_side_by_side(out: Path) -> None:
    found = document("bench", "demo", str(out), "--repeats", "2", "--new-tokens", "8")
    before, after = found["results"]
    assert after["parameters"] < before["parameters"]
    assert before["decode_tokens_per_second"]["median"] > 0


def test_a_size_rule_takes_the_largest_size_within_it(tmp_path: Path) -> None:
    words = ("--max-increase", "6%", "-c", f"stdlib-prose,{SMALL}", "--protect", "0,1,29")
    found = document("prune", "demo", *words, "--no-bench", "-o", str(tmp_path / "fit"))
    points = {point["k"]: point["held_out"] for point in found["path"]}
    limit = points[0] * 1.06
    assert max(k for k, loss in points.items() if loss <= limit) == len(found["removed"])
    assert not {0, 1, 29}.intersection(found["removed"])


def test_an_interrupt_leaves_no_output(tmp_path: Path) -> None:
    words = ["prune", "demo", "-k", "6", "-o", str(tmp_path / "out")]
    process = subprocess.Popen(
        [sys.executable, "-c", "from depthprune.cli import main; main()", *words],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("scoring"):
            process.send_signal(signal.SIGINT)
            break
    rest = process.stderr.read()
    process.stderr.close()
    assert process.wait() == INTERRUPTED
    assert "error: interrupted" in rest
    assert list(tmp_path.iterdir()) == []


def test_the_model_is_calibrated_on_its_own_text() -> None:
    words = ("evaluate", "demo", "-c", "self,windows=4,length=64", "--memo", "off")
    first, again = (document(*words)["results"][0] for _ in range(2))
    assert first == again
    assert first["tokens"] == 4 * 63
    # What it wrote at temperature 1 it finds likelier than prose that others wrote.
    prose = document("evaluate", "demo", "-c", "stdlib-prose,windows=4,length=64", "--memo", "off")
    assert 1.0 < first["loss"] < prose["results"][0]["loss"]


def test_items_are_shown_with_the_real_tokenizer(tmp_path: Path) -> None:
    row = {"prompt": "Question: Is water wet?\nAnswer:", "options": ["no", "yes"], "answer": 1}
    file = tmp_path / "items.jsonl"
    file.write_text("\n".join([json.dumps(row)] * 10), encoding="utf-8")
    spec = f"choices:{file},windows=4,format=chat,shots=1"
    found = document("calibrations", "show", spec, "--model", "demo")
    assert len(found["windows"]) == 4
    assert {row["scored"] for row in found["windows"]} == {4}
    assert all(row["text"].startswith("<|im_start|>system") for row in found["windows"])
