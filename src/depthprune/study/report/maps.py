"""The shaded figures of a study: masks, overlap and transfer.

A shade is a colour at an opacity, over whatever the page's ground is, so that it reads in light and
dark; each cell that has room also carries its number. Under a number a shade goes to 0.55 and no
further, where ink still has a contrast of 4.5 to 1 in both. Cells are shapes and not pixels, so
that they take the page's colours and stay sharp.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.collections import PatchCollection
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from depthprune.report import numbers
from depthprune.report.export import INK, KEPT, REMOVED, RULE
from depthprune.report.figures import own_style
from depthprune.study.statistics.data import Floats
from depthprune.study.statistics.transfer import Transfer

_WIDTH = 7.2
_ROW = 0.19
_NUMBERS_UP_TO = 16
_LONGEST = 44
_LONGEST_MASK = 56


_STRONGEST = 0.55


def shortened(name: str, longest: int) -> str:
    """A name of at least 9 characters and at most so many, cut in its middle."""
    longest = max(9, longest)
    if len(name) <= longest:
        return name
    end = (longest - 1) // 2
    return f"{name[: longest - 1 - end]}…{name[-end:]}"


def plain(label: str, longest: int = _LONGEST) -> str:
    """A label as it is to be read: no formula between dollars, nothing unprintable, not endless.

    What is too long is cut in its middle, since names of one study differ mostly at their ends.
    """
    shown = shortened("".join(c if c.isprintable() else " " for c in label), longest)
    # matplotlib leaves a label that starts with an underscore out of a legend.
    return ("\N{ZERO WIDTH SPACE}" if shown.startswith("_") else "") + shown.replace("$", r"\$")


@own_style
def mask_map(labels: Sequence[str], shares: Floats) -> Figure:
    """Which blocks each configuration removes; a shade is the share of its draws.

    Args:
        labels: The configurations, top to bottom.
        shares: Shape (configurations, blocks), from 0 to 1.
    """
    rows, blocks = shares.shape
    figure = Figure((_WIDTH, 0.85 + _ROW * rows), layout="constrained")
    axes = _cells(figure, shares, REMOVED)
    words = [plain(each, _LONGEST_MASK) for each in labels]
    axes.set_yticks(np.arange(rows) + 0.5, words, fontsize=7.5)
    key = [
        (RULE, 0.35, "stays"),
        (REMOVED, 0.5, "goes in half of the draws"),
        (REMOVED, 1.0, "in all"),
    ]
    patches = [Patch(facecolor=to_rgba(c, alpha), label=label) for c, alpha, label in key]
    figure.legend(handles=patches, loc="outside upper right", ncols=3, frameon=False, fontsize=7.5)
    step = 1 if blocks <= 36 else 4
    axes.set_xticks(np.arange(0, blocks, step) + 0.5, range(0, blocks, step), fontsize=7)
    axes.set_xlabel("block")
    return figure


@own_style
def jaccard_map(labels: Sequence[str], matrix: Floats) -> Figure:
    """How far the sets of every two configurations agree.

    Args:
        labels: The configurations.
        matrix: Mean Jaccard indices, shape (configurations, configurations); NaN is left blank.
    """
    count = len(labels)
    side = min(_WIDTH - 1.6, 1.2 + 0.42 * count)
    figure = Figure((_WIDTH, side + 0.3), layout="constrained")
    axes = _cells(figure, _STRONGEST * matrix)
    _numbers(axes, [[numbers.fixed(v, 2) for v in row] for row in matrix], matrix)
    # A number stands for its row's name, which would not fit below a column.
    words = [f"{plain(label)}  {i}" for i, label in enumerate(labels, start=1)]
    axes.set_yticks(np.arange(count) + 0.5, words, fontsize=7.5)
    axes.set_xticks(np.arange(count) + 0.5, range(1, count + 1), fontsize=7.5)
    return figure


@own_style
def transfer_map(matrix: Transfer, *, perplexity: bool) -> Figure:
    """Chosen on the row, judged on the column; a shade is how far from the column's best.

    Args:
        matrix: By `study.transfer`.
        perplexity: Whether its means are log-perplexities; else accuracies.
    """
    rows, columns = matrix.mean.shape
    loss = matrix.mean if perplexity else -matrix.mean
    gaps = loss - loss.min(axis=0)
    shades = _STRONGEST * gaps / max(float(gaps.max()), 1e-12)
    figure = Figure((_WIDTH, 0.9 + 0.36 * rows), layout="constrained")
    axes = _cells(figure, shades)
    values = np.exp(matrix.mean) if perplexity else 100 * matrix.mean
    words = [[numbers.fixed(v, 1) for v in row] for row in values]
    _numbers(axes, words, shades)
    for row, column in np.argwhere(matrix.same):
        frame = Rectangle((column + 0.06, row + 0.06), 0.88, 0.88, fill=False)
        frame.set(edgecolor=REMOVED, linewidth=2.0)
        axes.add_patch(frame)
    axes.set_yticks(np.arange(rows) + 0.5, [plain(each) for each in matrix.calibrations])
    axes.set_xticks(np.arange(columns) + 0.5, [plain(each) for each in matrix.evaluations])
    axes.set_xlabel("judged on, " + ("perplexity" if perplexity else "accuracy in %"))
    axes.set_ylabel("calibrated on")
    return figure


def _cells(figure: Figure, shades: Floats, hue: str = KEPT) -> Any:
    axes = figure.add_subplot()
    rows, columns = shades.shape
    places = list(np.ndindex(rows, columns))
    known = [(row, column) for row, column in places if shades[row, column] > 0]
    strengths = [min(1.0, float(shades[place])) for place in known]
    # One collection each, since thousands of single shapes take seconds to draw.
    for where, colour, alpha in ((places, RULE, [0.35]), (known, hue, strengths)):
        shapes = [Rectangle((c + 0.03, r + 0.05), 0.94, 0.9) for r, c in where]
        colours = [to_rgba(colour, each) for each in alpha]
        if shapes:
            axes.add_collection(PatchCollection(shapes, facecolor=colours, linewidth=0))
    axes.set(xlim=(0, columns), ylim=(rows, 0))
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    return axes


def _numbers(axes: Any, words: Sequence[Sequence[str]], values: Floats) -> None:
    if max(values.shape) > _NUMBERS_UP_TO:
        return
    size = 8.0 if values.shape[1] <= 12 else 6.5
    for row, column in np.ndindex(*values.shape):
        if np.isfinite(values[row, column]):
            place = (column + 0.5, row + 0.5)
            text = words[row][column]
            axes.text(*place, text, ha="center", va="center", fontsize=size, color=INK)
