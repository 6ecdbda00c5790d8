"""Removed sets as text and as tuples, and which of them a model allows.

A removed set is a sorted tuple of original block numbers, written `4,12-14,25`. Everything a set
can have wrong is decided here, before any weight is read, so that every verb refuses the same
sets in the same words.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from itertools import groupby

from depthprune.errors import UsageError

_RANGE = re.compile(r"\s*(\d{1,9})\s*(?:-\s*(\d{1,9})\s*)?", re.ASCII)
_LARGEST_RANGE = 100_000


def parse_blocks(text: str, flag: str = "--remove") -> tuple[int, ...]:
    """Read a set of blocks such as `"4,12-14,25"`.

    Args:
        text: Block numbers and inclusive ranges, separated by commas.
        flag: The flag or argument the text came from, named in messages.

    Returns:
        The block numbers, sorted.

    Raises:
        UsageError: If the text is empty, is anything else, has a reversed range, or names a
            block twice.
    """
    if not text.strip():
        raise UsageError(f"{flag}: expected block numbers such as 4,12-14, got nothing")
    blocks: list[int] = []
    for part in text.split(","):
        blocks.extend(_parse_part(part, text, flag))
    _refuse_twice(blocks, flag)
    return tuple(sorted(blocks))


def _parse_part(part: str, text: str, flag: str) -> range:
    match = _RANGE.fullmatch(part)
    if match is None:
        raise UsageError(
            f"{flag} {text!r}: expected block numbers such as 4,12-14, got {part.strip()!r}; "
            "write numbers and ranges separated by commas"
        )
    first = int(match[1])
    last = first if match[2] is None else int(match[2])
    if last < first:
        raise UsageError(
            f"{flag} {text!r}: the range {part.strip()} runs backwards; write {last}-{first}"
        )
    if last - first >= _LARGEST_RANGE:
        raise UsageError(f"{flag} {text!r}: the range {part.strip()} is longer than any model")
    return range(first, last + 1)


def format_blocks(blocks: Iterable[int]) -> str:
    """Write a set of blocks as `parse_blocks` reads it, runs of three or more as ranges.

    Args:
        blocks: Block numbers, in any order.
    """
    runs = [
        [block for _, block in run]
        for _, run in groupby(enumerate(sorted(blocks)), lambda pair: pair[1] - pair[0])
    ]
    return ",".join(
        f"{run[0]}-{run[-1]}" if len(run) > 2 else ",".join(map(str, run)) for run in runs
    )


def check_removed(
    removed: Iterable[int], blocks: int, *, flag: str = "--remove"
) -> tuple[int, ...]:
    """Check a removed set against a model.

    Args:
        removed: Block numbers, in any order.
        blocks: How many blocks the model has.
        flag: The flag or argument the set came from, named in messages.

    Returns:
        The removed set, sorted.

    Raises:
        UsageError: If the set is empty, is the whole model, names a block twice, a block the
            model does not have, or something that is no whole number.
    """
    listed = list(removed)
    strange = [b for b in listed if isinstance(b, bool) or not hasattr(b, "__index__")]
    if strange:
        raise UsageError(f"{flag}: expected whole block numbers, got {strange[0]!r}")
    numbers = [block.__index__() for block in listed]
    if not numbers:
        raise UsageError(f"{flag}: expected at least one block to remove, got none")
    _refuse_twice(numbers, flag)
    outside = sorted(block for block in numbers if not 0 <= block < blocks)
    if outside:
        raise UsageError(
            f"{flag}: block {outside[0]} is out of range; the model has {blocks} blocks, "
            f"0 to {blocks - 1}"
        )
    if len(numbers) == blocks:
        raise UsageError(
            f"{flag}: all {blocks} blocks would go; leave at least one block in the model"
        )
    return tuple(sorted(numbers))


def _refuse_twice(blocks: Iterable[int], flag: str) -> None:
    twice = sorted(block for block, count in Counter(blocks).items() if count > 1)
    if twice:
        raise UsageError(f"{flag}: block {twice[0]} is named twice; name each block once")


def name_blocks(blocks: Iterable[int]) -> str:
    """Blocks in words: `"block 4"`, or `"blocks 4,12-14"`."""
    numbers = tuple(blocks)
    return f"block{'s' if len(numbers) > 1 else ''} {format_blocks(numbers)}"
