"""What rounding does to losses is measured, and no race decides below it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from items import calibration_of, random_item, random_text

import depthprune as dp
from depthprune.evaluator import evaluator as evaluator_module
from depthprune.evaluator.racing.settings import Racing
from depthprune.evaluator.rounding import Rounding, _compared, _of_mean
from hostile import hostile_arithmetic
from tiny import save_tiny


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # Stored in few bits, so that only what is computed rounds, and not the weights.
    return save_tiny(tmp_path_factory.mktemp("rounding") / "m", dtype=torch.bfloat16)


def _texts(count: int = 8) -> dp.Calibration:
    rng = np.random.default_rng(0)
    return calibration_of([random_text(rng) for _ in range(count)])


def test_errors_of_a_few_windows_shrink_where_they_fall_either_way() -> None:
    assert _of_mean(np.asarray([0.1, -0.1]), 4) == pytest.approx(0.2 / 2**0.5 / 2)
    assert _of_mean(np.asarray([0.1, 0.1]), 400) == pytest.approx(0.1)
    assert _of_mean(np.asarray([-0.3]), 9) == pytest.approx(0.3)


def test_what_all_sets_share_is_no_rounding_of_a_difference() -> None:
    theirs = {(): np.full((1, 4), 2.0), (1,): np.full((1, 4), 4.0)}
    ours = {removed: losses + 0.01 for removed, losses in theirs.items()}
    judged = np.ones((1, 4), dtype=np.bool_)
    found = _compared(ours, theirs, judged, [0, 1], 4, "float32")
    assert found is not None
    assert (found.share, found.window) == (pytest.approx(0), pytest.approx(0.01))
    ours[1,] = ours[1,] + 0.08
    found = _compared(ours, theirs, judged, [0, 1], 4, "float32")
    assert found is not None
    assert found.share == pytest.approx(0.08 / 4)


def test_it_is_what_a_narrow_dtype_adds_to_float32(folder: Path) -> None:
    narrow = dp.load(folder, dtype="bfloat16")
    wide = dp.load(folder, dtype="float32")
    found = dp.Evaluator(narrow, _texts(), racing=None).rounding
    assert found is not None
    assert (found.against, found.windows) == ("float32", 4)
    evaluator = dp.Evaluator(narrow, _texts(), racing=None)
    places = [int(place) for place in evaluator._order[:4]]
    sets = [(), (3,), (4,)]
    ours = [score.window_losses[places] for score in evaluator.score(sets)]
    theirs = [
        s.window_losses[places] for s in dp.Evaluator(wide, _texts(), racing=None).score(sets)
    ]
    errors = np.asarray(ours) - np.asarray(theirs)
    assert found.window == pytest.approx(np.abs(errors).max(), rel=1e-3)
    shares = [_of_mean(errors[i] - errors[0], 8) / np.mean(theirs[i]) for i in (1, 2)]
    assert found.share == pytest.approx(max(shares), rel=1e-3)
    assert found.share > 1e-6


def test_float32_rounds_hardly_and_measuring_costs_the_search_nothing(folder: Path) -> None:
    model = dp.load(folder, dtype="float32")
    evaluator = dp.Evaluator(model, _texts(), racing=None)
    with hostile_arithmetic():
        found = evaluator.rounding
    assert found is not None
    assert found.against == "calls of one window"
    assert found.share < 1e-5
    assert evaluator.cost.block_tokens == evaluator.cost.head_tokens == 0
    assert evaluator.cost.evaluations == 0


def test_items_and_objectives_that_compare_are_measured_too(folder: Path) -> None:
    model = dp.load(folder, dtype="bfloat16")
    rng = np.random.default_rng(1)
    items = calibration_of([random_item(rng) for _ in range(6)])
    for calibration, objective in ((items, "option-ce"), (_texts(), "kl")):
        found = dp.Evaluator(model, calibration, objective, racing=None).rounding
        assert found is not None
        assert np.isfinite(found.share)
        assert found.window > 0


def test_a_streamed_model_is_not_read_once_more(folder: Path) -> None:
    model = dp.load(folder, dtype="float32", stream=True)
    assert model.stream is not None
    evaluator = dp.Evaluator(model, _texts(), racing=None)
    before = model.stream.bytes_read
    assert evaluator.rounding is None
    assert model.stream.bytes_read == before


def test_a_race_never_decides_below_rounding(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[float] = []

    class Watched(evaluator_module.Race):
        def __init__(self, sets, keep, settings, *rest) -> None:  # type: ignore[no-untyped-def]
            seen.append(settings.tolerance)
            super().__init__(sets, keep, settings, *rest)

    monkeypatch.setattr(evaluator_module, "Race", Watched)
    model = dp.load(folder, dtype="float32")
    for share, expected in ((0.25, 0.25), (1e-9, 0.01), (None, 0.01)):
        evaluator = dp.Evaluator(model, _texts(), racing=Racing(tolerance=0.01))
        made = None if share is None else Rounding(share, 0.1, "float32", 4)
        vars(evaluator)["rounding"] = made
        evaluator.compare([(1,), (2,), (3,)], keep=1)
        assert seen.pop() == expected
