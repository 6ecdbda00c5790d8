"""What `--for` chose is told as it came about, and no other way."""

from __future__ import annotations

from typing import Any

import pytest

from depthprune.manifest import TargetGoal, TargetJudged, TargetRecord, TargetSet
from depthprune.report.card import render_card
from depthprune.report.page import render_page
from depthprune.report.summary import decided_words
from depthprune.report.target import choice_words

from .examples import estimate, full


def _set(block: int, *, tied: bool = False, refused: bool = False) -> TargetSet:
    return TargetSet(
        removed=[block], calibration="default, draw 1", search="greedy", share=1.0,
        loss=3.0 + block / 100, stderr=0.1, windows=20, general=2.0, tied=tied, refused=refused,
    )  # fmt: skip


def _record(*sets: TargetSet, accuracy: float | None = None, **changes: Any) -> TargetRecord:
    goal = TargetGoal(
        spec="text:mine.txt", kind="text", weight=1.0, counted="passages",
        documents=[48, 24, 24], windows=[24, 24], tokens=[12288, 12288],
    )  # fmt: skip
    judged = TargetJudged(
        what="chosen", removed=[1], loss=estimate(3.0, 0.1), accuracy=accuracy,
        accuracy_stderr=None if accuracy is None else 0.02,
        above=0.0, above_stderr=0.0, low=0.0, high=0.0,
    )  # fmt: skip
    record = TargetRecord(
        goals=[goal], split="50,25,25", seed=0, objective="nll", calibrations=[], left_out={},
        sets=list(sets), rounds=[], chosen="default, draw 1", search="greedy", delta=0.1,
        budget="block-tokens=9", whole=estimate(2.9, 0.1), choosing=estimate(3.0, 0.1),
        judged=[judged],
    )  # fmt: skip
    return record.model_copy(update=changes)


@pytest.mark.parametrize(
    ("sets", "words", "decided"),
    [
        (
            [_set(1, tied=True), _set(2, tied=True), _set(3)],
            "2 of 3 sets cannot be told apart on the part that chooses",
            "; but of sets that tied on the target, the loss on the default text chose one",
        ),
        ([_set(1, tied=True), _set(2)], "Of 2 sets one is surely the best on the part", ""),
        ([_set(1, tied=True)], "Only one set was found. There its loss is", ""),
        (
            [_set(1, tied=True), _set(2, refused=True)],
            "Of 2 sets, of which 1 was refused, one was left to take. There",
            "; but sets that lose too much on the default text were refused",
        ),
        (
            [_set(1, tied=True), _set(2), _set(3, refused=True), _set(4, refused=True)],
            "Of 4 sets, of which 2 were refused, one is surely the best on the part",
            "; but sets that lose too much on the default text were refused",
        ),
    ],
)
def test_what_decided_is_said_and_nothing_else(
    sets: list[TargetSet], words: str, decided: str
) -> None:
    record = _record(*sets, keep_general=0.05)
    assert choice_words(record).startswith(words)
    manifest = full(target=record)
    assert decided_words(manifest) == decided
    assert f"has seen it{decided}." in render_page(manifest)


def test_sets_above_a_limit_are_not_refused_by_the_default_text() -> None:
    manifest = full(target=_record(_set(1, tied=True), _set(2, refused=True)))
    assert decided_words(manifest) == ""


def test_the_card_says_how_many_were_answered_right_only_of_items() -> None:
    sets = [_set(1, tied=True), _set(2)]
    assert "answered right" not in render_card(full(target=_record(*sets)))
    card = render_card(full(target=_record(*sets, accuracy=0.5)))
    assert "| answered right | loss above" in card
    assert "| 50.0 ± 2.0% |" in card
