"""What a table of the page is: a caption, a head, and cells in words that sort by their values.

A cell that is not a number says why in words: nothing is left blank. The same tables can be had
as Markdown and LaTeX.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from depthprune.report import numbers
from depthprune.study.statistics.estimates import IntervalEstimate, NotEstimable


@dataclass(frozen=True)
class TableCell:
    """A cell of a table.

    Attributes:
        text: As it is read.
        value: By which it is sorted; None for words.
    """

    text: str
    value: float | None = None


@dataclass(frozen=True)
class TextTable:
    """A table in words.

    Attributes:
        caption: What it is.
        head: The columns.
        rows: Cells, one a column; the first of a row names it.
    """

    caption: str
    head: tuple[str, ...]
    rows: tuple[tuple[TableCell, ...], ...]


DASH = TableCell(numbers.DASH)
"""Where there is no value."""


def markdown(text_table: TextTable) -> str:
    """A table as GitHub's Markdown, its caption above it; what others wrote is escaped."""

    def line(cells: Sequence[str]) -> str:
        return f"| {' | '.join(_MARKDOWN.sub(_escape, ' '.join(c.split())) for c in cells)} |"

    rule = "|" + "|".join("---:" if right else "---" for right in _numeric(text_table)) + "|"
    lines = [line(text_table.head), rule]
    lines += [line([cell.text for cell in row]) for row in text_table.rows]
    return f"{_MARKDOWN.sub(_escape, text_table.caption)}\n\n" + "\n".join(lines) + "\n"


def latex(text_table: TextTable) -> str:
    """A table as LaTeX's `table` with rules of `booktabs`; what others wrote is escaped."""

    def line(cells: Sequence[str]) -> str:
        return " & ".join(_tex(cell) for cell in cells) + r" \\"

    columns = "".join("r" if right else "l" for right in _numeric(text_table))
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{_tex(text_table.caption)}}}",
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            line(text_table.head),
            r"\midrule",
            *[line([cell.text for cell in row]) for row in text_table.rows],
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


_MARKDOWN = re.compile(r"[\\`*_\[\]<>|&~#$]")
_TEX = {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "−": "$-$", "×": r"$\times$", "²": "$^2$", "σ": r"$\sigma$", "ρ": r"$\rho$", "τ": r"$\tau$",
    "η": r"$\eta$", "ω": r"$\omega$", "±": r"$\pm$", "∞": r"$\infty$", "–": "--",
    "<": "$<$", ">": "$>$", "|": r"\textbar{}",
    # Behind the end of a row these would be its argument and its star.
    "[": "{[}", "]": "{]}", "*": "{*}",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
}  # fmt: skip


def _escape(found: re.Match[str]) -> str:
    return f"\\{found.group()}"


def _tex(text: str) -> str:
    return "".join(_TEX.get(sign, sign) for sign in " ".join(text.split()))


def _numeric(text_table: TextTable) -> list[bool]:
    """Which columns hold a number in some row."""
    return [
        any(row[column].value is not None for row in text_table.rows)
        for column in range(len(text_table.head))
    ]


def number(value: float | NotEstimable | None, places: int = 3, *, scale: float = 1.0) -> TableCell:
    """A value as a cell; why there is none, where there is none."""
    if value is None:
        return DASH
    if isinstance(value, NotEstimable):
        return TableCell(value.reason)
    return TableCell(numbers.fixed(scale * value, places), scale * value)


def interval(value: IntervalEstimate | NotEstimable, scale: float = 1.0) -> TableCell:
    """The two ends of an interval as a cell."""
    ends = value if isinstance(value, NotEstimable) else value.interval
    if isinstance(ends, NotEstimable):
        return TableCell(ends.reason)
    low, high = (numbers.fixed(scale * end, 2 if scale > 1 else 3) for end in ends)
    return TableCell(f"{low} to {high}")


def p_value(p: float | NotEstimable) -> TableCell:
    """A p value: three decimals, and `< 0.001` below."""
    if isinstance(p, float) and p < 0.001:
        return TableCell("< 0.001", p)
    return number(p)
