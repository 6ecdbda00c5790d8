"""On an accelerator every verb comes to what it comes to on the processor.

One test for each verb's path, in float32 and, where a dtype of few bits takes another path, in
bfloat16. In float32 losses agree to 1e-4; in bfloat16 within the rounding of one to the other.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

import depthprune as dp
from demo import document, run

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

SETS = [(), (0,), (2, 3), (1, 4, 5)]
TEXT = "stdlib-prose,windows=6,length=48"
CLOSE = {"float32": 1e-4, "bfloat16": 3e-2}

both = pytest.mark.parametrize("dtype", ["float32", "bfloat16"])


def on(dtype: str) -> tuple[str, ...]:
    return ("--device", "cuda", "--dtype", dtype, "--memo", "off")


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    """No test leaves the precision of products otherwise than it found it."""
    backends = torch.backends
    before = (backends.cuda.matmul.allow_tf32, backends.cudnn.allow_tf32)
    yield
    assert (backends.cuda.matmul.allow_tf32, backends.cudnn.allow_tf32) == before


def losses(model: Any, **options: Any) -> np.ndarray[Any, Any]:
    calibration = dp.calibrate(TEXT, model)
    scores = dp.Evaluator(model, calibration, **options).score(SETS)
    return np.stack([score.window_losses for score in scores])


@both
@pytest.mark.parametrize("objective", ["nll", "kl", "kl:top=4", "acceptance", "cosine"])
def test_losses_equal_those_on_the_processor(tiny_llama: Path, dtype: str, objective: str) -> None:
    there, here = (
        losses(dp.load(tiny_llama, dtype=kind, device=device), objective=objective)
        for device, kind in (("cuda", dtype), ("cpu", "float32"))
    )
    np.testing.assert_allclose(there, here, rtol=CLOSE[dtype], atol=CLOSE[dtype] / 10)


@both
def test_losses_are_the_same_to_the_bit_when_asked_for_again(tiny_llama: Path, dtype: str) -> None:
    model = dp.load(tiny_llama, dtype=dtype, device="cuda")
    np.testing.assert_array_equal(losses(model), losses(model))


def test_float32_is_float32_whatever_the_user_allows(tiny_llama: Path) -> None:
    matmul = torch.backends.cuda.matmul
    exact = losses(dp.load(tiny_llama, dtype="float32", device="cuda"))
    before = matmul.allow_tf32
    matmul.allow_tf32 = True
    try:
        allowed = losses(dp.load(tiny_llama, dtype="float32", device="cuda"))
    finally:
        matmul.allow_tf32 = before
    np.testing.assert_array_equal(allowed, exact)


@both
def test_a_small_budget_changes_no_loss(tiny_llama: Path, dtype: str) -> None:
    roomy, tight = (
        losses(dp.load(tiny_llama, dtype=dtype, device="cuda", stream=True), memory=memory)
        for memory in (None, 200_000)
    )
    np.testing.assert_array_equal(tight, roomy)


@both
def test_prune_writes_what_the_masked_model_is(
    tiny_llama: Path, tmp_path: Path, dtype: str
) -> None:
    words = ("-k", "2", "-c", TEXT, "-o", str(tmp_path / "out"), *on(dtype))
    done = run("prune", str(tiny_llama), *words)
    assert done.returncode == 0, done.stderr
    manifest = json.loads((tmp_path / "out" / "depthprune.json").read_text(encoding="utf-8"))
    assert manifest["device"].startswith("cuda")
    assert manifest["parity"]["bitwise"] or manifest["parity"]["float32_difference"] <= 1e-5
    assert manifest["speed"]["decode_after"]["median"] > 0


@both
@pytest.mark.parametrize("stream", [(), ("--stream",)], ids=["held", "streamed"])
def test_evaluate_and_score(tiny_llama: Path, dtype: str, stream: tuple[str, ...]) -> None:
    there = document("evaluate", str(tiny_llama), "-c", TEXT, *on(dtype), *stream)
    here = document("evaluate", str(tiny_llama), "-c", TEXT, "--device", "cpu", "--memo", "off")
    loss = (found["results"][0]["loss"] for found in (there, here))
    assert next(loss) == pytest.approx(next(loss), rel=CLOSE[dtype])
    found = document("score", str(tiny_llama), "-c", TEXT, *on(dtype), *stream)
    assert len(found["blocks"]) == 6


@both
def test_apply_verifies_on_the_device(tiny_llama: Path, tmp_path: Path, dtype: str) -> None:
    from depthprune.models.parity import verify_checkpoint

    dp.apply(tiny_llama, (1, 4), tmp_path / "out")
    verify_checkpoint(tiny_llama, tmp_path / "out", (1, 4), dtype=dtype, device="cuda")


@both
def test_bench_measures_memory_and_speed(tiny_llama: Path, dtype: str) -> None:
    words = ("--repeats", "2", "--new-tokens", "4", "--device", "cuda", "--dtype", dtype)
    (found,) = document("bench", str(tiny_llama), *words)["results"]
    assert found["prefill_tokens_per_second"]["median"] > 0


@both
@pytest.mark.parametrize("way", ["linear", "lora:steps=4,every=2,batch=2,judge=2"])
def test_recovery(tiny_llama: Path, tmp_path: Path, dtype: str, way: str) -> None:
    if way.startswith("lora"):
        pytest.importorskip("peft", reason="the extra heal is not installed")
    words = ("-k", "2", "-c", "stdlib-prose,windows=24,length=48", "--recover", way, "--no-bench")
    done = run("prune", str(tiny_llama), *words, "-o", str(tmp_path / "out"), *on(dtype))
    assert done.returncode == 0, done.stderr
    manifest = json.loads((tmp_path / "out" / "depthprune.json").read_text(encoding="utf-8"))
    assert manifest["recovery"]["runs"]


@pytest.mark.parametrize("search", ["block-influence", "angular", "taylor", "relative-magnitude"])
@both
def test_signals(tiny_llama: Path, dtype: str, search: str) -> None:
    found = []
    for device, kind in (("cuda", dtype), ("cpu", "float32")):
        model = dp.load(tiny_llama, dtype=kind, device=device)
        evaluator = dp.Evaluator(model, dp.calibrate(TEXT, model))
        found.append(dp.search(search, evaluator, k=2).removed)
    if dtype == "float32":
        assert found[0] == found[1]
    assert len(found[0]) == 2


def test_items_are_scored(tiny_llama: Path, tmp_path: Path) -> None:
    rows = (
        {"prompt": f"The river is {i}", "options": [" high", " long"], "answer": i % 2}
        for i in range(20)
    )
    file = tmp_path / "items.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    found = []
    for device in ("cuda", "cpu"):
        model = dp.load(tiny_llama, dtype="float32", device=device)
        items = dp.calibrate(f"choices:{file},windows=8", model)
        scores = dp.Evaluator(model, items, objective="option-ce").score(SETS)
        found.append([score.loss for score in scores])
    assert found[0] == pytest.approx(found[1], rel=1e-4)


@both
def test_a_study(tiny_llama: Path, tmp_path: Path, dtype: str) -> None:
    plan = {
        "models": str(tiny_llama),
        "k": 2,
        "calibrations": {"prose": TEXT},
        "objectives": "nll",
        "searches": ["one-shot", "greedy"],
        "draws": 2,
        "texts": {"code": "stdlib-code,windows=3,length=48"},
        "dtype": dtype,
        "device": "cuda",
    }
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(plan), encoding="utf-8")
    done = run("study", str(tmp_path / "plan.yaml"), "-o", str(tmp_path / "study"), "--memo", "off")
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
@pytest.mark.parametrize("way", ["linear", "lora:steps=2,every=1,batch=2,judge=2"])
def test_the_second_device_is_the_one_that_is_used(
    tiny_llama: Path, tmp_path: Path, way: str
) -> None:
    used = torch.cuda.memory_reserved(0)
    model = dp.load(tiny_llama, dtype="float32", device="cuda:1")
    words = ("-k", "2", "-c", "stdlib-prose,windows=24,length=48", "--recover", way, "--no-bench")
    device = ("--device", "cuda:1", "--dtype", "float32", "-o", str(tmp_path / "out"))
    done = run("prune", str(tiny_llama), *words, *device)
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(losses(model), losses(dp.load(tiny_llama, device="cpu")), rtol=1e-2)
    assert torch.cuda.memory_reserved(0) == used
