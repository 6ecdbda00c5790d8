import math

import pytest

from depthprune.study.report.table_model import (
    TableCell,
    TextTable,
    interval,
    latex,
    markdown,
    number,
    p_value,
)
from depthprune.study.statistics.estimates import IntervalEstimate, NotEstimable

SHEET = TextTable(
    "What_it is",
    ("Search", "σ² of 5%"),
    (
        (TableCell("one-shot"), TableCell("0.25", 0.25)),
        (TableCell("a|b & <c>"), TableCell("− 1", -1.0)),
    ),
)


def test_markdown_by_hand():
    assert markdown(SHEET) == (
        "What\\_it is\n\n"
        "| Search | σ² of 5% |\n"
        "|---|---:|\n"
        "| one-shot | 0.25 |\n"
        "| a\\|b \\& \\<c\\> | − 1 |\n"
    )


def test_latex_by_hand():
    assert latex(SHEET) == (
        "\\begin{table}\n\\centering\n\\caption{What\\_it is}\n\\begin{tabular}{lr}\n\\toprule\n"
        "Search & $\\sigma$$^2$ of 5\\% \\\\\n\\midrule\n"
        "one-shot & 0.25 \\\\\na\\textbar{}b \\& $<$c$>$ & $-$ 1 \\\\\n"
        "\\bottomrule\n\\end{tabular}\n\\end{table}\n"
    )


def test_a_command_in_a_name_is_not_run():
    text_table = TextTable("x", ("\\input{/etc/passwd}",), ())
    assert r"\textbackslash{}input\{/etc/passwd\}" in latex(text_table)


def test_a_name_in_brackets_is_no_argument_of_the_row_before():
    text_table = TextTable(
        "x", ("a",), ((TableCell("b"),), (TableCell("[c]"),), (TableCell("*d"),))
    )
    assert "b \\\\\n{[}c{]} \\\\\n{*}d \\\\\n" in latex(text_table)


def test_a_bar_is_a_bar_in_latex():
    assert r"a\textbar{}b" in latex(TextTable("x", ("a|b",), ()))


def test_a_line_break_does_not_end_a_row():
    text_table = TextTable("x", ("a",), ((TableCell("two\nlines"),),))
    assert "| two lines |" in markdown(text_table)


@pytest.mark.parametrize(
    ("cell", "text", "value"),
    [
        (number(0.12345), "0.123", 0.12345),
        (number(0.12345, 1, scale=100), "12.3", 12.345),
        (number(None), "–", None),
        (number(NotEstimable("one draw only")), "one draw only", None),
        (number(math.inf), "∞", math.inf),
        (p_value(0.0004), "< 0.001", 0.0004),
        (p_value(0.25), "0.250", 0.25),
        (p_value(NotEstimable("not tested")), "not tested", None),
        (interval(IntervalEstimate(0.2, 0.1, 0.3, 9)), "0.100 to 0.300", None),
        (interval(IntervalEstimate(0.2, NotEstimable("one draw"), 0.3, 9)), "one draw", None),
        (interval(NotEstimable("no pairs")), "no pairs", None),
    ],
)
def test_cells_are_words_that_sort_by_their_value(cell, text, value):
    assert (cell.text, cell.value) == (text, value)
