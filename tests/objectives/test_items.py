"""Margins, cross-entropies and accuracies of items, from their definitions."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from depthprune.calibration import Item, Window
from depthprune.errors import UsageError
from depthprune.objectives import NLL, Accuracy, Margin, OptionCE, parse_objective

LENGTHS, BYTES, CHARACTERS, ANSWER = (2, 1, 3), (9, 4, 12), (9, 4, 3), 1
LOSSES = np.array([1.0, 2.0, 2.5, 0.5, 0.25, 0.75])
"""−log p of the tokens: the options sum to 3, 2.5 and 1.5."""


def _window(answer: int = ANSWER) -> Window:
    ends = np.cumsum((4, *LENGTHS)).tolist()
    spans = tuple(itertools.pairwise(ends))
    scored = np.arange(10) >= 4
    return Window(np.arange(10), scored, "item", 0, Item(spans, answer, BYTES, CHARACTERS))


def test_the_margin_is_the_right_options_lead_over_all_wrong_ones() -> None:
    ll = [-1.5, -2.5, -0.5]
    lead = 2 * ll[1] - (ll[0] + ll[2])
    assert Margin().window_loss(LOSSES, _window()) == pytest.approx(-lead)
    assert Margin(normalised=True).window_loss(LOSSES, _window()) == pytest.approx(-lead / 2)


@pytest.mark.parametrize(
    ("by", "ll"),
    [
        ("sum", [-3.0, -2.5, -1.5]),
        ("token", [-1.5, -2.5, -0.5]),
        ("byte", [-3 / 9, -2.5 / 4, -1.5 / 12]),
        ("char", [-3 / 9, -2.5 / 4, -1.5 / 3]),
    ],
)
def test_cross_entropy_and_accuracy_measure_options_as_told(by: str, ll: list[float]) -> None:
    total = sum(math.exp(each) for each in ll)
    expected = -math.log(math.exp(ll[ANSWER]) / total)
    assert OptionCE(by).window_loss(LOSSES, _window()) == pytest.approx(expected)
    best = int(np.argmax(ll))
    for answer in range(3):
        assert Accuracy(by).window_loss(LOSSES, _window(answer)) == float(answer != best)


def test_characters_are_the_bytes_where_the_item_tells_none() -> None:
    window = _window()
    assert window.item is not None
    plain = replace(window, item=replace(window.item, characters=None))
    by_char, by_byte = (OptionCE(by).window_loss(LOSSES, plain) for by in ("char", "byte"))
    assert by_char == by_byte


@given(st.lists(st.floats(0.001, 50), min_size=6, max_size=6), st.integers(0, 2))
def test_cross_entropy_is_never_below_zero(losses: list[float], answer: int) -> None:
    assert OptionCE().window_loss(np.array(losses), _window(answer)) >= 0


def test_of_equal_options_the_first_counts() -> None:
    equal = np.array([0.5, 0.5, 1.0, 0.25, 0.25, 0.5])
    assert [Accuracy().window_loss(equal, _window(a)) for a in range(3)] == [0.0, 1.0, 1.0]


def test_a_likelihood_that_is_not_a_number_makes_no_answer_right() -> None:
    broken = np.array([1.0, 2.0, math.nan, 0.5, 0.25, 0.75])
    assert math.isnan(Accuracy().window_loss(broken, _window()))
    assert math.isnan(OptionCE().window_loss(broken, _window()))


def test_an_objective_of_tokens_judges_the_answer_of_an_item() -> None:
    assert NLL().window_loss(LOSSES, _window(2)) == pytest.approx(0.5)


def test_names_tell_the_parameters_that_are_not_the_defaults() -> None:
    texts = [
        "margin",
        "margin:normalised=true",
        "option-ce",
        "option-ce:by=byte",
        "accuracy:by=token",
        "accuracy:by=char",
    ]
    assert [parse_objective(text).name for text in texts] == texts
    assert parse_objective("option-ce:by=sum").name == "option-ce"


@pytest.mark.parametrize("text", ["option-ce:by=letter", "accuracy:by=", "margin:normalised=yes"])
def test_an_unknown_way_to_measure_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="expected"):
        parse_objective(text)
