"""The shaded figures of a study: masks, overlap and transfer.

A shade is the colour of the blocks at an opacity, over whatever the page's ground is, so that it
reads in light and dark; each cell that has room also carries its number. Cells are shapes and not
pixels, so that they take the page's colours and stay sharp.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.collections import PatchCollection
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from depthprune.report import numbers
from depthprune.report.export import INK, KEPT, PAPER, REMOVED, RULE
from depthprune.report.figures import own_style
from depthprune.study.panel import Floats
from depthprune.study.transfer import Transfer

_WIDTH = 7.2
_ROW = 0.19
_NUMBERS_UP_TO = 16
_LONGEST = 44


def plain(label: str) -> str:
    """A label as it is to be read: no formula between dollars, nothing unprintable, not endless."""
    shown = "".join(c if c.isprintable() else " " for c in label)
    shown = shown if len(shown) <= _LONGEST else shown[: _LONGEST - 1] + "…"
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
    figure = Figure((_WIDTH, 0.55 + _ROW * rows), layout="constrained")
    axes = _cells(figure, shares)
    axes.set_yticks(np.arange(rows) + 0.5, [plain(each) for each in labels], fontsize=7.5)
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
    figure = Figure((_WIDTH, side + 0.9), layout="constrained")
    axes = _cells(figure, matrix)
    _numbers(axes, matrix, [[numbers.fixed(v, 2) for v in row] for row in matrix], matrix)
    words = [plain(label) for label in labels]
    axes.set_yticks(np.arange(count) + 0.5, words, fontsize=7.5)
    axes.set_xticks(np.arange(count) + 0.5, words, fontsize=7.5, rotation=45, ha="right")
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
    shades = 0.9 * gaps / max(float(gaps.max()), 1e-12)
    figure = Figure((_WIDTH, 0.9 + 0.36 * rows), layout="constrained")
    axes = _cells(figure, shades)
    values = np.exp(matrix.mean) if perplexity else 100 * matrix.mean
    words = [[numbers.fixed(v, 1) for v in row] for row in values]
    _numbers(axes, shades, words, shades)
    for row, column in np.argwhere(matrix.same):
        frame = Rectangle((column + 0.06, row + 0.06), 0.88, 0.88, fill=False)
        frame.set(edgecolor=REMOVED, linewidth=2.0)
        axes.add_patch(frame)
    axes.set_yticks(np.arange(rows) + 0.5, [plain(each) for each in matrix.calibrations])
    axes.set_xticks(np.arange(columns) + 0.5, [plain(each) for each in matrix.evaluations])
    axes.set_xlabel("judged on, " + ("perplexity" if perplexity else "accuracy in %"))
    axes.set_ylabel("calibrated on")
    return figure


def _cells(figure: Figure, shades: Floats) -> Any:
    axes = figure.add_subplot()
    rows, columns = shades.shape
    places = list(np.ndindex(rows, columns))
    known = [(row, column) for row, column in places if shades[row, column] > 0]
    strengths = [min(1.0, float(shades[place])) for place in known]
    # One collection each, since thousands of single shapes take seconds to draw.
    for where, colour, alpha in ((places, RULE, [0.35]), (known, KEPT, strengths)):
        shapes = [Rectangle((c + 0.03, r + 0.05), 0.94, 0.9) for r, c in where]
        colours = [to_rgba(colour, each) for each in alpha]
        if shapes:
            axes.add_collection(PatchCollection(shapes, facecolor=colours, linewidth=0))
    axes.set(xlim=(0, columns), ylim=(rows, 0))
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    return axes


def _numbers(axes: Any, values: Floats, words: Sequence[Sequence[str]], shades: Floats) -> None:
    if max(values.shape) > _NUMBERS_UP_TO:
        return
    size = 8.0 if values.shape[1] <= 12 else 6.5
    for row, column in np.ndindex(*values.shape):
        if np.isfinite(values[row, column]):
            colour = PAPER if shades[row, column] > 0.55 else INK
            place = (column + 0.5, row + 0.5)
            text = words[row][column]
            axes.text(*place, text, ha="center", va="center", fontsize=size, color=colour)
