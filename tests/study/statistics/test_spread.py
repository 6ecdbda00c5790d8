import math

import pytest

from depthprune.study.statistics.estimates import NotEstimable
from depthprune.study.statistics.spread import spread

# WikiText-2 perplexity of seven searches, Llama-3-8B, k = 7, C4 objective (arXiv 2604.24938).
PUBLISHED = [13.12, 13.12, 13.12, 13.12, 13.16, 13.33, 17.40]


def test_the_published_perplexities():
    found = spread(PUBLISHED, logarithm=True)
    mean = 96.37 / 7
    by_hand = (4 * (13.12 - mean) ** 2 + (13.16 - mean) ** 2 + (13.33 - mean) ** 2
               + (17.40 - mean) ** 2) / 7  # fmt: skip
    assert found.variance == pytest.approx(by_hand)
    assert found.variance == pytest.approx(2.2043, abs=1e-3)
    assert found.range == pytest.approx(4.28)


def test_one_broken_search_does_not_move_the_robust_form():
    assert spread(PUBLISHED, logarithm=True).robust == 0
    values = [10, 11, 12, 13, 14]
    expected = 1.482602218505602 * math.log(12 / 11)
    assert spread(values, logarithm=True).robust == pytest.approx(expected)
    assert spread([*values[:4], 1e6], logarithm=True).robust == pytest.approx(expected)


def test_an_accuracy_is_not_logged():
    found = spread([0.30, 0.34, 0.36], logarithm=False)
    assert found.robust == pytest.approx(1.482602218505602 * 0.02)
    assert found.variance == pytest.approx(((0.1 / 3) ** 2 + (0.02 / 3) ** 2 + (0.08 / 3) ** 2) / 3)


@pytest.mark.parametrize("values", [[], [13.1], [13.1, math.nan], [13.1, math.inf]])
def test_what_has_no_spread_is_said(values):
    assert isinstance(spread(values, logarithm=True), NotEstimable)
