"""Sizes and shares are read in the usual spellings and nothing else."""

from __future__ import annotations

import pytest

from depthprune.cli.values import parse_share, parse_size
from depthprune.errors import UsageError


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1", 1),
        ("512", 512),
        ("4GB", 4 * 10**9),
        ("4 gb", 4 * 10**9),
        ("4g", 4 * 10**9),
        ("1.5k", 1500),
        ("512MiB", 512 * 2**20),
        ("2Ti", 2 * 2**40),
        ("1e9", 10**9),
    ],
)
def test_a_size_is_read_in_decimal_and_binary_units(text: str, size: int) -> None:
    assert parse_size(text, "--memory") == size


@pytest.mark.parametrize(
    "text", ["", "lots", "0", "-1", "4XB", "1.2.3G", "4iB", "GB", "nan", "inf"]
)
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_size(text, "--memory")
    assert str(caught.value) == (f"--memory: expected a size such as 4GB or 512MiB, got {text!r}")


@pytest.mark.parametrize(
    ("text", "share"),
    [("5%", 0.05), (" 2.5 % ", 0.025), (".5%", 0.005), ("0%", 0.0), ("250%", 2.5)],
)
def test_a_share_is_a_percentage(text: str, share: float) -> None:
    assert parse_share(text, "--max-increase") == pytest.approx(share)


@pytest.mark.parametrize("text", ["", "5", "0.05", "-5%", "%", "5%%", "five%", "1e1%", "."])
def test_what_is_no_percentage_is_refused(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_share(text, "--max-increase")
    assert str(caught.value) == f"--max-increase: expected a percentage such as 5%, got {text!r}"


def test_what_was_not_given_stays_so() -> None:
    assert parse_size(None, "--memory") is None
    assert parse_share(None, "--max-increase") is None
