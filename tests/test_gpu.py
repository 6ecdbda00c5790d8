"""On an accelerator the same losses come out as on the processor."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import depthprune as dp

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def test_losses_on_the_device_equal_those_on_the_processor(tiny_llama: Path) -> None:
    sets = [(), (0,), (2, 3), (1, 4, 5)]
    losses = []
    for device in ("cpu", "cuda"):
        model = dp.load(tiny_llama, dtype="float32", device=device)
        calibration = dp.calibrate("stdlib-prose,windows=6,length=48", model)
        scores = dp.Evaluator(model, calibration).score(sets)
        losses.append(np.stack([score.window_losses for score in scores]))
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)


def test_a_cut_is_verified_on_the_device(tiny_llama: Path, tmp_path: Path) -> None:
    from depthprune.models.parity import verify_checkpoint

    dp.apply(tiny_llama, (1, 4), tmp_path / "out")
    for dtype in ("float32", "bfloat16"):
        verify_checkpoint(tiny_llama, tmp_path / "out", (1, 4), dtype=dtype, device="cuda")
