"""What a table of the page is: a caption, a head, and cells in words that sort by their values.

A cell that is not a number says why in words: nothing is left blank.
"""

from __future__ import annotations

from dataclasses import dataclass

from depthprune.report import numbers
from depthprune.study.answers import Estimate, Unsaid


@dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Attributes:
        text: As it is read.
        value: By which it is sorted; None for words.
    """

    text: str
    value: float | None = None


@dataclass(frozen=True)
class Sheet:
    """A table in words.

    Attributes:
        caption: What it is.
        head: The columns.
        rows: Cells, one a column; the first of a row names it.
    """

    caption: str
    head: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]


def number(value: float | Unsaid | None, places: int = 3, *, scale: float = 1.0) -> Cell:
    """A value as a cell; why there is none, where there is none."""
    if value is None:
        return Cell(numbers.DASH)
    if isinstance(value, Unsaid):
        return Cell(value.reason)
    return Cell(numbers.fixed(scale * value, places), value)


def interval(value: Estimate | Unsaid, scale: float = 1.0) -> Cell:
    """The two ends of an interval as a cell."""
    ends = value if isinstance(value, Unsaid) else value.interval
    if isinstance(ends, Unsaid):
        return Cell(ends.reason)
    low, high = (numbers.fixed(scale * end, 2 if scale > 1 else 3) for end in ends)
    return Cell(f"{low} to {high}")


def p_value(p: float | Unsaid) -> Cell:
    """A p value: three decimals, and `< 0.001` below."""
    if isinstance(p, float) and p < 0.001:
        return Cell("< 0.001", p)
    return number(p)
