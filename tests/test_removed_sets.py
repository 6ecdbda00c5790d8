"""Removed sets are read, written and refused in the same words everywhere."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from depthprune.errors import UsageError
from depthprune.removed_sets import (
    check_removed,
    format_blocks,
    parse_blocks,
)


def test_numbers_and_ranges_are_read_sorted() -> None:
    assert parse_blocks("25,4,12-14") == (4, 12, 13, 14, 25)


def test_spaces_do_not_matter() -> None:
    assert parse_blocks(" 4 , 12 - 14 ") == (4, 12, 13, 14)


@pytest.mark.parametrize(
    "text", ["", "  ", ",", "4,", "a", "4;5", "-1", "1-", "1-2-3", "1.5", "\u0663"]
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"--protect.*expected block numbers"):
        parse_blocks(text, "--protect")


def test_a_range_that_runs_backwards_is_refused_with_the_right_one() -> None:
    with pytest.raises(UsageError, match="write 12-14"):
        parse_blocks("14-12")


def test_a_range_longer_than_any_model_is_refused_at_once() -> None:
    with pytest.raises(UsageError, match="longer than any model"):
        parse_blocks("0-999999999")


@pytest.mark.parametrize("text", ["4,4", "3-5,4"])
def test_a_block_named_twice_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="block 4 is named twice"):
        parse_blocks(text)


@given(st.sets(st.integers(0, 200), min_size=1))
def test_writing_and_reading_are_inverse(blocks: set[int]) -> None:
    assert parse_blocks(format_blocks(blocks)) == tuple(sorted(blocks))


def test_runs_of_three_are_written_as_ranges() -> None:
    assert format_blocks([25, 13, 4, 12, 14, 26]) == "4,12-14,25,26"


def test_a_set_that_fits_is_given_back_sorted() -> None:
    assert check_removed([3, 1], 6) == (1, 3)


@pytest.mark.parametrize(
    ("removed", "message"),
    [
        ([], "at least one block"),
        ([6], "block 6 is out of range; the model has 6 blocks, 0 to 5"),
        ([-1], "block -1 is out of range"),
        ([2, 2], "block 2 is named twice"),
        (range(6), "all 6 blocks would go"),
        ([True], "whole block numbers, got True"),
        (["2"], "whole block numbers, got '2'"),
    ],
)
def test_a_set_that_does_not_fit_is_refused(removed: list[int], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        check_removed(removed, 6)
