import math

import pytest

from depthprune.manifest import DrawRecord, Estimate
from depthprune.report import numbers


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0"),
        (512, "512"),
        (134_515_008, "134.5M"),
        (113_278_464, "113.3M"),
        (6_738_415_616, "6.738B"),
        (999_960, "1M"),
    ],
)
def test_a_count_has_four_digits(count, text):
    assert numbers.format_count(count) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(12, "12 bytes"), (269_000_000, "269 MB"), (226_584_320, "226.6 MB"), (4e15, "4 PB")],
)
def test_bytes_are_decimal(count, text):
    assert numbers.format_bytes(int(count)) == text


@pytest.mark.parametrize(
    ("value", "stderr", "text"),
    [
        (24.661, 0.6123, "24.66 ± 0.61"),
        (3.20512, 0.0412, "3.205 ± 0.041"),
        (3.2, 0.0996, "3.20 ± 0.10"),
        (812.3, 43.2, "812 ± 43"),
        (-0.0412, 0.0123, "−0.041 ± 0.012"),
        (-0.0004, 0.21, "0.00 ± 0.21"),
        (2.5, 0.0, "2.500"),
        (2.5, math.nan, "2.500"),
        (math.nan, 0.1, "NaN"),
        (math.inf, math.inf, "∞"),
    ],
)
def test_a_value_is_rounded_to_two_digits_of_its_error(value, stderr, text):
    assert numbers.with_error(value, stderr) == text


def test_an_increase_carries_its_sign():
    assert numbers.with_error(0.6427, 0.0181, sign=True) == "+0.643 ± 0.018"


def test_perplexity_has_its_error_by_the_delta_method():
    estimate = Estimate(loss=3.0, stderr=0.04, windows=4, tokens=400, perplexity=math.exp(3.0))
    value, stderr = numbers.perplexity(estimate)
    assert value == pytest.approx(math.exp(3.0))
    assert stderr == pytest.approx(math.exp(3.0) * 0.04)


def test_an_objective_without_perplexity_has_none():
    assert numbers.perplexity(Estimate(loss=0.2, stderr=0.1, windows=4, tokens=400)) is None


def test_a_ratio_of_perplexities_does_not_overflow():
    assert numbers.perplexity_ratio(2000.0, 0.1)[0] == math.inf


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.84, "0.8 s"), (84.2, "84 s"), (250.4, "4 min 10 s"), (7_512.0, "2 h 5 min")],
)
def test_a_duration_is_read_at_a_glance(seconds, text):
    assert numbers.duration(seconds) == text


def test_neighbouring_blocks_are_written_as_a_run():
    assert numbers.block_list([26, 3, 4, 12, 13, 14]) == "3, 4, 12–14, 26"
    assert numbers.block_list([]) == "none"


@pytest.mark.parametrize(("after", "text"), [(84, "−16%"), (122.4, "+22%"), (99.6, "−0.4%")])
def test_a_change_is_in_percent(after, text):
    assert numbers.change(100, after) == text


def test_a_few_huge_values_cap_the_axis():
    assert numbers.axis_cap([9.8, *[0.1] * 12, 0.2]) == 0.2


def test_like_values_need_no_cap():
    assert numbers.axis_cap([0.1, 0.2, 0.15, 0.3, math.nan]) is None


def test_values_that_are_mostly_huge_are_drawn_whole():
    assert numbers.axis_cap([9.0, 8.0, 7.0, 9.0, 0.1, 0.1, 0.1, 0.1]) is None


def test_evaluations_are_whole_or_have_one_decimal() -> None:
    assert numbers.evaluations(165.0) == "165"
    assert numbers.evaluations(1074.09375) == "1,074.1"


def test_further_draws_are_told_in_a_line() -> None:
    draws = [
        DrawRecord(repetition=i, removed=[1], loss=3.0, loss_of_first=loss, jaccard=overlap)
        for i, loss, overlap in ((1, 3.1, 1.0), (2, 3.3, 0.5))
    ]
    words = "1 of 2 further draws chose the same blocks; mean overlap (Jaccard) 0.75"
    assert numbers.draws_words(draws, None) == words
    first = Estimate(loss=3.2, stderr=0.5, windows=2, tokens=62)
    assert numbers.draws_words(draws, first) == (
        f"{words}; loss without the removed blocks 3.20 ± 0.10 (standard deviation between 3 draws)"
    )
    unknown = [draws[0].model_copy(update={"loss_of_first": math.inf})]
    assert "loss" not in numbers.draws_words(unknown, first)
