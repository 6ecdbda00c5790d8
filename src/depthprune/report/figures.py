"""The figures: which blocks went, what each is worth, loss against k, and speed.

All are drawn on `matplotlib.figure.Figure` itself, without pyplot, so that no window system is
asked for and no figure stays behind in a registry. Hue never carries a meaning alone: what
was removed is hatched too, and series differ by marker and line as well as by colour.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Collection, Sequence
from typing import Any, ParamSpec

import matplotlib.style
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from depthprune.manifest import BlockScore, PathPoint, Speed, Spread
from depthprune.report import numbers
from depthprune.report.export import INK, KEPT, MUTED, PAPER, REMOVED, RULE, STYLE

_WIDTH = 7.2
_HATCH = "////"
_CELLS_A_ROW = 40
_P = ParamSpec("_P")


def own_style(draw: Callable[_P, Figure]) -> Callable[_P, Figure]:
    """Draw under matplotlib's defaults, whatever the user's matplotlibrc says."""

    @functools.wraps(draw)
    def drawn(*args: _P.args, **kwargs: _P.kwargs) -> Figure:
        with matplotlib.style.context(STYLE):
            return draw(*args, **kwargs)

    return drawn


@own_style
def mask_strip(blocks: int, removed: Collection[int], protect: Collection[int] = ()) -> Figure:
    """The blocks of the original model as numbered cells, first to last.

    Args:
        blocks: How many blocks the original has.
        removed: Those that went: hatched, and their numbers struck by a cross below.
        protect: Those the search had to keep: marked by a bar below.
    """
    columns = min(blocks, _CELLS_A_ROW)
    rows = math.ceil(blocks / columns)
    figure = Figure((_WIDTH, 0.44 * rows + 0.02), layout=None)
    axes = figure.add_axes((0.004, 0.0, 0.992, 1.0))
    axes.set(xlim=(0, columns), ylim=(2.0 * rows, 0))
    axes.axis("off")
    for block in range(blocks):
        row, column = divmod(block, columns)
        _cell(axes, column, 2.0 * row, gone=block in removed)
        _number(axes, column, 2.0 * row, block, min(9.0, 260 / columns), gone=block in removed)
        if block in removed:
            axes.text(column + 0.5, 2.0 * row + 1.62, "×", ha="center", va="center", color=REMOVED)
        elif block in protect:
            axes.plot([column + 0.25, column + 0.75], [2.0 * row + 1.6] * 2, color=MUTED, lw=2)
    return figure


def _cell(axes: Any, column: float, top: float, *, gone: bool) -> None:
    axes.add_patch(
        Rectangle(
            (column + 0.05, top + 0.08),
            0.9,
            1.2,
            facecolor=REMOVED if gone else KEPT,
            edgecolor=PAPER if gone else KEPT,
            hatch=_HATCH if gone else None,
            linewidth=0,
        )
    )


def _number(axes: Any, column: float, top: float, block: int, size: float, *, gone: bool) -> None:
    # Digits on a hatch are hard to read, so those of a removed block have a ground of their own.
    ground = {"boxstyle": "round,pad=0.16", "fc": PAPER, "ec": "none"} if gone else None
    axes.text(
        column + 0.5,
        top + 0.66,
        str(block),
        ha="center",
        va="center",
        fontsize=size,
        color=REMOVED if gone else PAPER,
        bbox=ground,
    )


@own_style
def block_bars(
    scores: Sequence[BlockScore], removed: Collection[int] = (), dense_loss: float | None = None
) -> Figure:
    """What removing each block alone adds to the loss, with standard errors.

    The axis ends where the few dearest blocks would flatten all others; their bars run off it and
    carry their value. A loss that is not finite is written in place of its bar.

    Args:
        scores: One a block.
        removed: Blocks to mark as removed.
        dense_loss: The loss of the whole model, named in the axis label.
    """
    figure = Figure((_WIDTH, 2.7), layout="constrained")
    axes = figure.add_subplot()
    finite = [score for score in scores if math.isfinite(score.increase)]
    low, high, clipped = _bar_limits(finite)
    for gone in (False, True):
        chosen = [score for score in finite if (score.block in removed) == gone]
        if chosen:
            _bars(axes, chosen, high, gone=gone)
    for score in scores:
        if not math.isfinite(score.increase):
            _above(axes, score.block, 0.0, numbers.fixed(score.increase, 0), len(scores))
        elif clipped and score.increase > high:
            places = 1 if abs(score.increase) < 10 else 0
            _above(axes, score.block, high, numbers.fixed(score.increase, places), len(scores))
            _break_mark(axes, score.block, high)
    axes.axhline(0, color=MUTED, lw=0.8)
    axes.set(xlim=(-0.7, max((score.block for score in scores), default=0) + 0.7), ylim=(low, high))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=16))
    axes.set_xlabel("block removed alone")
    axes.set_ylabel("increase in loss" + (f"\nover {dense_loss:.3f}" if dense_loss else ""))
    axes.grid(axis="y", color=RULE, lw=0.6)
    axes.set_axisbelow(True)
    if removed and finite:
        figure.legend(loc="outside upper right", ncols=2, frameon=False, fontsize=9)
    return figure


def _bar_limits(scores: Sequence[BlockScore]) -> tuple[float, float, bool]:
    errors = [score.increase_stderr for score in scores if math.isfinite(score.increase_stderr)]
    cap = numbers.axis_cap(score.increase for score in scores)
    highest = max((score.increase for score in scores), default=1.0)
    lowest = min((score.increase for score in scores), default=0.0)
    if cap is not None:
        return min(0.0, 1.1 * lowest), 1.12 * cap, True
    margin = max(errors, default=0.0)
    low = min(0.0, lowest - margin)
    return 1.05 * low, 1.05 * (max(0.0, highest) + margin) or 1.0, False


def _bars(axes: Any, scores: Sequence[BlockScore], high: float, *, gone: bool) -> None:
    places = [score.block for score in scores]
    heights = [min(score.increase, high) for score in scores]
    # A whisker on a bar that runs off the axis would be drawn at a height that is not its value.
    whiskers = [score.increase_stderr if score.increase <= high else math.nan for score in scores]
    axes.bar(
        places,
        heights,
        width=0.72,
        color=REMOVED if gone else KEPT,
        edgecolor=PAPER if gone else KEPT,
        hatch=_HATCH if gone else None,
        linewidth=0,
        label="removed" if gone else "kept",
    )
    axes.errorbar(places, heights, whiskers, fmt="none", ecolor=INK, elinewidth=1, capsize=2)


def _break_mark(axes: Any, block: int, high: float) -> None:
    for height in (0.86, 0.90):
        axes.plot(
            [block - 0.42, block + 0.42],
            [(height - 0.02) * high, (height + 0.02) * high],
            color=PAPER,
            lw=1.6,
        )


def _above(axes: Any, block: int, height: float, text: str, blocks: int) -> None:
    axes.annotate(
        text,
        (block, height),
        xytext=(0, 3),
        textcoords="offset points",
        ha="center",
        va="bottom",
        fontsize=8,
        rotation=90 if blocks > 36 else 0,
        annotation_clip=False,
    )


@own_style
def path_curve(
    path: Sequence[PathPoint],
    *,
    dense: float | None = None,
    held_out_dense: float | None = None,
    limit: float | None = None,
    chosen: int | None = None,
    objective: str | None = None,
) -> Figure:
    """Loss against the number of removed blocks along a search's nested path.

    Args:
        path: The sizes judged, in any order.
        dense: The whole model's loss on the calibration; drawn at k = 0 if `path` lacks it.
        held_out_dense: The same on the held-out windows.
        limit: The held-out loss that may not be passed, as a dashed line.
        chosen: The k that was taken.
        objective: Whose loss it is, where that is not the text's own.
    """
    figure = Figure((_WIDTH, 2.9), layout="constrained")
    axes = figure.add_subplot()
    points = sorted(path, key=lambda point: point.k)
    if points and points[0].k > 0 and dense is not None:
        whole = PathPoint(k=0, removed=[], loss=dense, held_out=held_out_dense)
        points.insert(0, whole)
    calibration = [(point.k, point.loss, 0.0) for point in points]
    held_out = [
        (point.k, point.held_out, point.held_out_stderr or 0.0)
        for point in points
        if point.held_out is not None
    ]
    _series(axes, calibration, "calibration", MUTED, "s--")
    _series(axes, held_out, "held out", KEPT, "o-")
    if limit is not None:
        label = f"limit {numbers.fixed(limit, 3)}"
        axes.axhline(limit, color=REMOVED, lw=1.2, ls=(0, (5, 3)), label=label)
    if chosen is not None:
        _chosen(axes, chosen)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=16))
    unit = "loss, nats a token" if objective in (None, "nll") else f"loss ({objective})"
    axes.set(xlabel="blocks removed, k", ylabel=unit)
    axes.grid(axis="y", color=RULE, lw=0.6)
    axes.legend(loc="upper left", frameon=False)
    return figure


def _chosen(axes: Any, k: int) -> None:
    axes.axvline(k, color=RULE, lw=9, zorder=0)
    axes.annotate(
        f"k = {k}",
        (k, 1),
        xycoords=("data", "axes fraction"),
        ha="center",
        va="bottom",
        annotation_clip=False,
    )


def _series(
    axes: Any, points: Sequence[tuple[int, float, float]], label: str, colour: str, line: str
) -> None:
    points = [point for point in points if math.isfinite(point[1])]
    if points:
        places, losses, errors = zip(*points, strict=True)
        axes.errorbar(
            places, losses, errors, label=label, color=colour, fmt=line, ms=4.5, capsize=3
        )


@own_style
def speed_bars(speed: Speed) -> Figure:
    """Prefill and decode, before and after: medians as bars, the range of the repeats as whiskers.

    The two panels have axes of their own, since prefill is many times faster than decode.
    """
    figure = Figure((_WIDTH, 1.35), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for axes, title, before, after in (
        (panels[0], "prefill", speed.prefill_before, speed.prefill_after),
        (panels[1], "decode", speed.decode_before, speed.decode_after),
    ):
        _speed_bar(axes, 1, before, MUTED)
        _speed_bar(axes, 0, after, KEPT)
        axes.set_title(f"{title}, tokens a second", loc="left", fontsize=9, color=INK)
        axes.set_yticks([1, 0], ["before", "after"])
        axes.tick_params(length=0)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=5))
        axes.grid(axis="x", color=RULE, lw=0.6)
        axes.set_axisbelow(True)
    return figure


def _speed_bar(axes: Any, place: int, value: Spread, colour: str) -> None:
    errors = [[max(0.0, value.median - value.low)], [max(0.0, value.high - value.median)]]
    axes.barh([place], [value.median], height=0.62, color=colour)
    axes.errorbar([value.median], [place], xerr=errors, fmt="none", ecolor=INK, capsize=3)
