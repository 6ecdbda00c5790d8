"""Every way that computes on a device is right on one that refuses what an accelerator refuses.

The device is pretended (`pretend_mps`), so a tensor in the wrong place, or of float64, is found on
a machine that has none. Its arithmetic is the processor's, in calls of another size.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import depthprune as dp
from pretend_mps import pretend_mps

# Torch says so of an operation that it takes apart itself where nothing is pretended.
pytestmark = pytest.mark.filterwarnings("ignore:at..frobenius_norm is deprecated:UserWarning")

TEXT = "stdlib-prose,windows=6,length=48"
BOTH = ("mps", "cpu")
CLOSE = {"float32": 1e-5, "bfloat16": 3e-2}
SETS = [(), (0,), (2, 3), (1, 4, 5)]


@pytest.fixture(autouse=True)
def _there() -> Iterator[None]:
    with pretend_mps():
        yield


def losses(place: Path, device: str, spec: str = TEXT, **options: Any) -> np.ndarray[Any, Any]:
    loading = {key: options.pop(key) for key in ("dtype", "stream") if key in options}
    model = dp.load(place, device=device, **loading)
    assert {p.device.type for p in model.module.parameters()} <= {device, "meta"}
    scores = dp.Evaluator(model, dp.calibrate(spec, model), **options).score(SETS)
    return np.stack([score.window_losses for score in scores])


def test_the_device_refuses_what_one_refuses() -> None:
    there = torch.ones(2, 3, device="mps")
    assert there.device.type == "mps"
    assert (there * 2).sum().item() == 12
    with pytest.raises(RuntimeError, match="two devices"):
        there + torch.ones(3)
    for wide in (lambda: there.double(), lambda: there.sum(dtype=torch.float64)):
        with pytest.raises(TypeError, match="float64"):
            wide()
    with pytest.raises(TypeError, match="numpy"):
        there.numpy()


@pytest.mark.parametrize("objective", ["nll", "kl", "kl:top=4", "acceptance", "cosine"])
def test_losses_are_those_of_the_processor(tiny_llama: Path, objective: str) -> None:
    there, here = (
        losses(tiny_llama, device, objective=objective, dtype="float32") for device in BOTH
    )
    np.testing.assert_allclose(there, here, rtol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_blocks_are_read_to_the_device(tiny_llama: Path, dtype: str) -> None:
    there, here = (losses(tiny_llama, device, dtype=dtype, stream=True) for device in BOTH)
    np.testing.assert_allclose(there, here, rtol=CLOSE[dtype])


def test_items_with_options_are_scored_there(tiny_llama: Path, tmp_path: Path) -> None:
    rows = (
        {"prompt": f"The river is {i}", "options": [" high", " long"], "answer": i % 2}
        for i in range(20)
    )
    file = tmp_path / "items.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    spec = f"choices:{file},windows=8"
    there, here = (
        losses(tiny_llama, device, spec, objective="option-ce", dtype="float32") for device in BOTH
    )
    np.testing.assert_allclose(there, here, rtol=1e-5)


@pytest.mark.parametrize("search", ["block-influence", "angular", "taylor", "relative-magnitude"])
def test_searches_by_signals_find_there_what_they_find_here(tiny_llama: Path, search: str) -> None:
    found = []
    for device in BOTH:
        model = dp.load(tiny_llama, dtype="float32", device=device)
        evaluator = dp.Evaluator(model, dp.calibrate(TEXT, model))
        found.append(dp.search(search, evaluator, k=2).removed)
    assert found[0] == found[1]


@pytest.mark.slow
@pytest.mark.parametrize("way", ["linear", "magnitude", "last", "lora"])
def test_prune_comes_to_what_it_comes_to_on_the_processor(
    tiny_llama: Path, tmp_path: Path, way: str
) -> None:
    trained = way in ("last", "lora")
    if trained:
        pytest.importorskip("peft", reason="the extra heal is not installed")
        way += ":steps=4,every=2,batch=2,judge=2"
    losses = []
    for device in BOTH:
        manifest = dp.prune(
            tiny_llama, 2, out=tmp_path / device, calibration="stdlib-prose,windows=24,length=48",
            recover=way, dtype="float32", device=device, memo="off", bench=False,
        )  # fmt: skip
        assert manifest.device.startswith(device)
        found = manifest.held_out[0]
        losses.append([found.dense.loss, found.pruned.loss, found.recovered.loss])
    # An optimizer of the device's own divides rounding by rounding.
    assert losses[0] == pytest.approx(losses[1], rel=1e-3 if trained else 1e-5)
