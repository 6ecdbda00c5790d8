import math

import pytest

from depthprune.study.statistics import formatting as fmt
from depthprune.study.statistics.estimates import IntervalEstimate, NotEstimable


@pytest.mark.parametrize(
    ("size", "measure", "expected"),
    [
        (IntervalEstimate(0.4362, 0.408, 0.4633, 9), "perplexity", "0.436 (0.408–0.463)"),
        (IntervalEstimate(0.0451, 0.0311, 0.0582, 9), "perplexity", "0.045 (0.031–0.058)"),
        (IntervalEstimate(0.0403, 0.034, 0.0471, 9), "accuracy", "4.0 points (3.4–4.7)"),
        (IntervalEstimate(12.3, 2.0, 21.9, 9), "perplexity", "12 (2–22)"),
        (IntervalEstimate(0.4362, NotEstimable("x"), NotEstimable("x"), 9), "perplexity", "0.436"),
        (IntervalEstimate(0.004, 0.004, 0.004, 9), "perplexity", "0.00400 (0.00400–0.00400)"),
        (IntervalEstimate(0.0, 0.0, 0.0, 9), "accuracy", "0.00 points (0.00–0.00)"),
        (IntervalEstimate(math.inf, NotEstimable("x"), NotEstimable("x"), 9), "perplexity", "inf"),
    ],
)
def test_a_size_is_written_to_what_its_interval_supports(size, measure, expected):
    assert fmt.sized(size, measure) == expected


def test_a_share_near_the_whole_shows_what_is_missing():
    assert [fmt.percent(x) for x in (0.12, 0.9996, -1e-9, 1.0)] == [
        "12.0%", "99.96%", "0.0%", "100.00%",
    ]  # fmt: skip


def test_a_sign_is_a_true_minus_and_nothing_has_none():
    assert [fmt.signed(x) for x in (0.351, -0.351, -0.001)] == ["+0.35", "−0.35", "0.00"]


def test_a_p_is_never_said_to_be_nothing():
    assert [fmt.p_value(p) for p in (0.214, 0.0214, 0.0014, 1e-9)] == [
        "p = 0.21", "p = 0.021", "p = 0.001", "p < 0.001",
    ]  # fmt: skip
