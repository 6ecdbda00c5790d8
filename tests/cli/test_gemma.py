"""Every verb on a second real model: Gemma 3 270M, packed, of two kinds of blocks, more norms.

Calibrations are of a few short windows: the vocabulary of 262,144 makes the head most of a run.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

import demo
from demo import DTYPE
from depthprune.checkpoints.gguf.reader import read_gguf
from gemma import MISSING, gemma_file

pytestmark = pytest.mark.slow

FILE = gemma_file()
if FILE is None:
    pytest.skip(MISSING, allow_module_level=True)

GEMMA = str(FILE)
BLOCKS = 18
FULL = (5, 11, 17)
SPEC = "stdlib-prose,windows=4,length=48,seed=0"

Run = Callable[..., Any]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A cache of the module's own: the file is unpacked once."""
    cache = str(tmp_path_factory.mktemp("cache"))
    return {"XDG_CACHE_HOME": cache, "DEPTHPRUNE_UNPACKED": "4"}


@pytest.fixture(scope="module")
def run(environment: dict[str, str]) -> Run:
    return partial(demo.run, environment=environment)


@pytest.fixture(scope="module")
def document(environment: dict[str, str]) -> Run:
    return partial(demo.document, environment=environment)


@pytest.fixture(scope="module")
def out(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Three blocks removed on a small calibration."""
    folder = tmp_path_factory.mktemp("gemma") / "out"
    words = ("-k", "3", "-c", SPEC, "--search", "one-shot", "-o", str(folder), *DTYPE)
    done = run("prune", GEMMA, *words, "--no-bench")
    assert done.returncode == 0, done.stderr
    yield folder
    (folder / "model.safetensors").unlink()


@pytest.fixture(scope="module")
def manifest(out: Path) -> Any:
    return json.loads((out / "depthprune.json").read_text(encoding="utf-8"))


def removed_in(manifest: Any) -> str:
    return ",".join(map(str, manifest["removed"]))


def test_prune_writes_an_ordinary_checkpoint(out: Path, manifest: Any) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, info = AutoModelForCausalLM.from_pretrained(out, dtype="auto", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    kinds = ["full_attention" if i in FULL else "sliding_attention" for i in range(BLOCKS)]
    assert model.config.layer_types == [kinds[block] for block in manifest["kept"]]
    assert len(model.model.layers) == 15
    tokenizer = AutoTokenizer.from_pretrained(out)
    assert tokenizer("a bridge").input_ids[0] == tokenizer.bos_token_id
    assert manifest["parity"]["bitwise"] or manifest["parity"]["float32_difference"] <= 1e-5
    cheapest = sorted(manifest["blocks"], key=lambda row: row["loss"])[:3]
    assert sorted(row["block"] for row in cheapest) == manifest["removed"]


def test_evaluate_without_blocks_is_the_pruned_checkpoint_held_or_streamed(
    out: Path, manifest: Any, document: Run
) -> None:
    words = ("-c", SPEC, *DTYPE, "--memo", "off")
    masked, saved, streamed = (
        document("evaluate", *model, *words)["results"][0]
        for model in (
            (GEMMA, "--remove", removed_in(manifest)),
            (str(out),),
            (str(out), "--stream"),
        )
    )
    assert saved["loss"] == pytest.approx(masked["loss"], rel=1e-5)
    assert streamed["loss"] == pytest.approx(masked["loss"], rel=1e-5)
    assert masked["windows"] == 4


def test_evaluate_agrees_with_ten_lines_of_transformers(
    out: Path, tmp_path: Path, document: Run
) -> None:
    from pydoc_data.topics import topics

    from transformers import AutoModelForCausalLM, AutoTokenizer

    file = tmp_path / "topics.txt"
    file.write_text("\n".join(topics.values())[:20_000], encoding="utf-8")
    spec = f"text:{file},windows=2,length=48,order=first,bos=true"
    words = ("-c", spec, "--dtype", "bfloat16")
    found = document("evaluate", str(out), *words)["results"][0]

    model = AutoModelForCausalLM.from_pretrained(out, dtype=torch.bfloat16).eval()
    tokenizer = AutoTokenizer.from_pretrained(out)
    ids = tokenizer(file.read_text(), add_special_tokens=False).input_ids
    losses = []
    for first in range(0, 2 * 47, 47):
        window = torch.tensor([[tokenizer.bos_token_id, *ids[first : first + 47]]])
        with torch.inference_mode():
            losses.append(model(window, labels=window).loss.item())
    assert found["loss"] == pytest.approx(sum(losses) / len(losses), rel=1e-3)


def test_score_gives_each_block_a_loss(document: Run) -> None:
    found = document("score", GEMMA, "-c", SPEC, *DTYPE)
    losses = [row["loss"] for row in found["blocks"]]
    assert len(losses) == BLOCKS
    # The first full attention is what the model can least do without.
    assert max(losses) == losses[5] > 1.5 * found["dense"]["loss"]


def test_apply_cuts_what_prune_cut(out: Path, manifest: Any, run: Run, tmp_path: Path) -> None:
    done = run("apply", str(out), "--remove", "2,7", "-o", str(tmp_path / "less"), "--verify")
    assert done.returncode == 0, done.stderr
    config = json.loads((tmp_path / "less" / "config.json").read_text(encoding="utf-8"))
    kept = [block for at, block in enumerate(manifest["kept"]) if at not in (2, 7)]
    assert config["num_hidden_layers"] == len(kept) == 13
    assert [kind == "full_attention" for kind in config["layer_types"]] == [b in FULL for b in kept]


def test_a_search_is_not_let_break_the_periods_of_the_packed_file(run: Run, tmp_path: Path) -> None:
    done = run("prune", GEMMA, "-k", "3", "-c", SPEC, "-o", str(tmp_path / "small.gguf"))
    assert done.returncode == 1
    assert "in gemma3 every 6th block has full attention by its number" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_whole_period_is_cut_out_of_the_packed_file(
    document: Run, run: Run, tmp_path: Path
) -> None:
    small = tmp_path / "small.gguf"
    done = run("apply", GEMMA, "--remove", "6-11", "-o", str(small), "--verify")
    assert done.returncode == 0, done.stderr
    assert read_gguf(small).blocks == 12
    parity = json.loads((tmp_path / "small.depthprune.json").read_text(encoding="utf-8"))["parity"]
    assert parity["bitwise"] or parity["float32_difference"] <= 1e-5
    assert parity["generated_tokens"] > 0
    words = ("-c", SPEC, *DTYPE, "--memo", "off")
    masked, written = (
        document("evaluate", *model, *words)["results"][0]["loss"]
        for model in ((GEMMA, "--remove", "6-11"), (str(small),))
    )
    assert written == pytest.approx(masked, rel=1e-5)


def test_bench_measures_both_side_by_side(out: Path, document: Run) -> None:
    words = ("--repeats", "2", "--new-tokens", "4", "--prompt-tokens", "32", *DTYPE)
    before, after = document("bench", GEMMA, str(out), *words)["results"]
    assert before["parameters"] > after["parameters"]
    assert min(row["decode_tokens_per_second"]["median"] for row in (before, after)) > 0


def test_linear_recovery_passes_the_norms_behind_the_mlp(
    out: Path, run: Run, tmp_path: Path
) -> None:
    spec = "stdlib-prose,windows=18,length=96"
    words = ("--original", GEMMA, "-c", spec, "-o", str(tmp_path / "mended"), *DTYPE)
    done = run("recover", str(out), *words, "--no-bench")
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "mended" / "depthprune.json").read_text(encoding="utf-8"))
    assert any(layer["strength"] > 0 for layer in record["recovery"]["refits"])


def test_a_study_runs_and_reports(run: Run, tmp_path: Path) -> None:
    plan = {
        "name": "second",
        "models": GEMMA,
        "k": 2,
        "calibrations": {
            "prose": "stdlib-prose,windows=2,length=32",
            "code": "stdlib-code,windows=2,length=32",
        },
        "objectives": "nll",
        "searches": ["one-shot"],
        "draws": 2,
        "texts": {"prose": "stdlib-prose,windows=2,length=48"},
    }
    (tmp_path / "plan.yaml").write_text(json.dumps(plan), encoding="utf-8")
    done = run("study", str(tmp_path / "plan.yaml"), "-o", str(tmp_path / "study"))
    assert done.returncode == 0, done.stderr
    rows = (tmp_path / "study" / "results.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(rows) == 1 + 1 + 4  # the plan, the whole model, and a row a cell
    assert (tmp_path / "study" / "report.html").is_file()
