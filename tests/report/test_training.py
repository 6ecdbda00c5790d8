"""A training is told on the page and the card with its curve, and whether it gained anything."""

from __future__ import annotations

from typing import Any

from depthprune.manifest import Manifest, TrainingPoint, TrainingRecord
from depthprune.report.card import render_card
from depthprune.report.page import render_page
from depthprune.report.training import training_words
from depthprune.report.training_figure import training_curve, training_svg

from .examples import full, recovered
from .test_page import Page

CURVE = [
    TrainingPoint(step=0, choosing=0.9, held_out=0.95, held_out_nll=3.6),
    TrainingPoint(step=20, trained=0.7, choosing=0.6, held_out=0.65, held_out_nll=3.4),
    TrainingPoint(step=40, trained=0.5, choosing=0.62, held_out=0.66, held_out_nll=3.41),
]


def trained(best: int = 20, runs: bool = True, **changes: Any) -> Manifest:
    manifest = recovered()
    training = TrainingRecord(
        settings="lora:steps=40", parameters=1_234_567, tokens=40_960, steps=40, best=best,
        stopped=False, curve=CURVE,
    )  # fmt: skip
    record = manifest.recovery
    assert record is not None
    update: dict[str, Any] = {"method": "lora", "training": training}
    if not runs:
        update["runs"] = []
    return recovered(recovery=record.model_copy(update=update), **changes)


def test_page_and_card_tell_what_was_trained_and_what_it_gave() -> None:
    page = Page(render_page(trained()))
    assert page.open == []
    for text in (" ".join(page.text.split()), render_card(trained()).replace("\\", "")):
        assert "Adapters, 1,234,567 numbers (lora:steps=40), were trained" in text
        assert "for 40 steps, on 40,960 tokens" in text
        assert "Step 20 was best on windows that were not trained on" in text
        assert "fell from 0.9500 to 0.6500 nats a token" in text
        assert "3, 4 into 2 (strength 0.93, 6,144 tokens)" in text
    assert "Loss against steps of training" in render_page(trained())


def test_without_a_linear_recovery_nothing_is_said_of_maps() -> None:
    page = " ".join(Page(render_page(trained(runs=False))).text.split())
    assert "a linear map was fitted" not in page
    assert "Adapters, " in page


def test_a_training_that_gained_nothing_says_so() -> None:
    words = training_words(trained(best=0))
    assert words.endswith("so nothing was gained and nothing was added.")
    assert "nothing was trained" in render_card(recovered())
    assert "their weights were trained" not in render_card(trained(best=0))


def test_the_curve_has_a_line_for_each_kind_of_window_and_marks_the_step() -> None:
    axes = training_curve(CURVE, 20).axes[0]
    lines = {line.get_label(): line.get_xydata().tolist() for line in axes.lines}
    assert lines["held out"] == [[0, 0.95], [20, 0.65], [40, 0.66]]
    assert lines["trained on"] == [[20, 0.7], [40, 0.5]]
    assert [list(line.get_xdata()) for line in axes.lines][-1] == [20, 20]


def test_a_manifest_without_training_has_neither_words_nor_figure() -> None:
    for manifest in (full(), recovered()):
        assert training_words(manifest) == ""
        assert training_svg(manifest) is None


def test_a_held_out_loss_that_rose_is_not_said_to_have_fallen() -> None:
    manifest = trained()
    assert manifest.recovery is not None
    training = manifest.recovery.training
    assert training is not None
    curve = [CURVE[0], CURVE[1].model_copy(update={"held_out": 0.97}), CURVE[2]]
    risen = training.model_copy(update={"curve": curve})
    record = manifest.recovery.model_copy(update={"training": risen})
    words = training_words(recovered(recovery=record))
    assert "on held-out windows the loss went from 0.9500 to 0.9700 nats a token" in words
