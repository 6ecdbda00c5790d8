"""Mixtures: who judges what, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from depthprune.calibration import Item, Window
from depthprune.errors import UsageError
from depthprune.objectives import parse_objective

TEXT = Window(np.arange(6), np.arange(6) > 0, "text", 0)
ITEM = Window(np.arange(6), np.arange(6) > 2, "item", 0, Item(((3, 4), (4, 6)), 0, (1, 2)))


def test_weights_are_made_to_sum_to_one() -> None:
    mixture = parse_objective("nll:1+option-ce:by=byte:3")
    assert [c.weight for c in mixture.components] == [0.25, 0.75]
    assert mixture.name == "nll:0.25+option-ce:by=byte:0.75"
    assert not mixture.has_perplexity


def test_without_weights_all_count_alike() -> None:
    assert parse_objective("nll+margin").name == "nll:0.5+margin:0.5"


def test_a_single_objective_keeps_its_name_and_its_perplexity() -> None:
    assert parse_objective("nll").name == "nll"
    assert parse_objective("nll").has_perplexity
    assert parse_objective("accuracy").bounds == (0.0, 1.0)


def test_objectives_of_items_judge_items_and_the_others_the_rest() -> None:
    mixture = parse_objective("nll+option-ce")
    assert mixture.judged([TEXT, ITEM, TEXT]) == ((True, False, True), (False, True, False))
    assert mixture.judged([ITEM, ITEM]) == ((True, True), (True, True))
    assert parse_objective("nll").judged([TEXT, ITEM]) == ((True, True),)


@pytest.mark.parametrize(
    ("text", "source", "whole", "judges"),
    [
        ("nll:0.7+option-ce:0.3", [TEXT], [TEXT, ITEM], "nll"),
        ("nll:0.7+option-ce:0.3", [ITEM], [TEXT, ITEM], "option-ce"),
        ("nll:0.7+option-ce:0.3", [ITEM], [ITEM, ITEM], "nll:0.7+option-ce:0.3"),
        ("nll:0.7+option-ce:0.3", [TEXT], [TEXT], "nll"),
        ("nll:2+option-ce+margin", [ITEM], [TEXT, ITEM], "option-ce:0.5+margin:0.5"),
        ("nll", [ITEM], [TEXT, ITEM], "nll"),
        ("option-ce", [TEXT], [TEXT], None),
    ],
)
def test_one_source_is_judged_by_what_judges_it_among_all(
    text: str, source: list[Window], whole: list[Window], judges: str | None
) -> None:
    found = parse_objective(text).of_source(source, whole)
    assert (found.name if found else None) == judges


@pytest.mark.parametrize(
    ("text", "windows", "word"),
    [
        ("option-ce", [TEXT, TEXT], "has none"),
        ("option-ce", [TEXT, ITEM], "has text too"),
        ("nll+margin", [TEXT], "has none"),
    ],
)
def test_a_calibration_that_cannot_be_judged_is_refused(
    text: str, windows: list[Window], word: str
) -> None:
    with pytest.raises(UsageError, match=word):
        parse_objective(text).judged(windows)


@pytest.mark.parametrize(
    "text",
    ["nll:0", "nll:-1+margin", "nll+nll", "nll:inf+margin", "", "+", "nul", "nll:x=1", "kl:top"],
)
def test_what_cannot_be_mixed_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_objective(text)


@pytest.mark.parametrize("text", ["kl", "kl:top=8", "cosine", "acceptance:temperature=0.5"])
def test_what_only_rounding_keeps_from_being_zero_for_the_dense_model_is_not_mixed(
    text: str,
) -> None:
    """Divided by 1e-9 it was all that counted, wherever rounding left it above 0."""
    assert parse_objective(text).name == text
    with pytest.raises(UsageError, match="compares with the dense model, for which it is 0"):
        parse_objective(f"nll+{text}")
