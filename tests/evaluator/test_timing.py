"""How many tokens fill a call where that is not known: timed once, and the same ever after."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import depthprune as dp
from depthprune.calibration import context_of
from depthprune.evaluator import memory, timing
from depthprune.models.timed_choices import remembered_choice
from tiny import save_tiny


@pytest.fixture
def model(tiny_llama: Path) -> dp.Model:
    return dp.load(tiny_llama, dtype="float32", device="cpu")


@pytest.fixture
def unknown_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """A processor of which no more is known than of an accelerator."""
    monkeypatch.setattr(memory, "_CALL_TOKENS", {})


@pytest.mark.parametrize(
    ("rates", "fewest"),
    [
        ({1024: 95.0, 2048: 100.0, 4096: 99.0}, 1024),
        ({1024: 50.0, 2048: 89.0, 4096: 92.0, 8192: 100.0}, 4096),
        ({1024: 10.0, 2048: 20.0, 4096: 40.0}, 4096),
        ({}, 1024),
    ],
)
def test_the_fewest_that_are_nearly_as_fast_are_taken(rates: dict[int, float], fewest: int) -> None:
    assert timing._fewest(rates) == fewest


def test_a_block_is_timed_on_every_size(model: dp.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "CALL_SIZES", (64, 128, 4096))
    rates = timing._rates(model)
    assert list(rates) == [64, 128, 4096]
    assert min(rates.values()) > 0


def test_windows_that_are_timed_are_no_longer_than_the_model_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MPT has 128 places in its table here, and calls that number by a name of its own."""
    monkeypatch.setattr(timing, "CALL_SIZES", (512,))
    mpt = dp.load(save_tiny(tmp_path / "mpt", "mpt"), dtype="float32", device="cpu")
    assert timing._rates(mpt)[512] > 0
    assert context_of(mpt) == 128


def test_sizes_that_memory_does_not_hold_are_left_out(
    model: dp.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    took = timing.block_seconds

    def limited(of: dp.Model, block: int, inputs: object) -> float:
        if inputs.states.shape[:2].numel() > 1024:  # type: ignore[attr-defined]
            raise torch.OutOfMemoryError
        return took(of, block, inputs)  # type: ignore[arg-type]

    monkeypatch.setattr(timing, "block_seconds", limited)
    assert list(timing._rates(model)) == [1024]


@pytest.mark.usefixtures("unknown_device")
def test_the_first_timing_stands_for_every_model_of_its_shape(
    tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = iter([{1024: 1.0, 2048: 2.0}, {1024: 2.0, 2048: 1.0}])
    monkeypatch.setattr(timing, "_rates", lambda _: next(found))
    first, second = (dp.load(tiny_llama, dtype="float32", device="cpu") for _ in range(2))
    assert memory.call_tokens(first) == memory.call_tokens(second) == 2048
    assert next(found) == {1024: 2.0, 2048: 1.0}


@pytest.mark.usefixtures("unknown_device")
def test_losses_are_those_of_any_other_size(
    model: dp.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timing, "CALL_SIZES", (64, 256))
    calibration = dp.calibrate("stdlib-prose,windows=6,length=32", model)
    timed = dp.Evaluator(model, calibration).score([(), (1,), (2, 4)])
    assert memory.call_tokens(model) in (64, 256)
    monkeypatch.setattr(memory, "_CALL_TOKENS", {"cpu": 32})
    alone = dp.Evaluator(model, calibration).score([(), (1,), (2, 4)])
    for one, other in zip(timed, alone, strict=True):
        assert one.window_losses == pytest.approx(other.window_losses, abs=1e-5)


def test_a_streamed_model_is_not_timed(tiny_llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_CALL_TOKENS", {})
    monkeypatch.setattr(timing, "_rates", lambda _: pytest.fail("it was timed"))
    streamed = dp.load(tiny_llama, dtype="float32", device="cpu", stream=True)
    assert memory.call_tokens(streamed) == 16_384


def test_a_choice_that_was_kept_and_is_no_answer_is_made_anew() -> None:
    assert remembered_choice("size", ["1", "2"], lambda: "2") == "2"
    assert remembered_choice("size", ["1", "2"], lambda: "1") == "2"
    assert remembered_choice("size", ["1", "3"], lambda: "3") == "3"
