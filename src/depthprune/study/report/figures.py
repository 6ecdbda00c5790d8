"""The bars and points of a study: what moves what, variance, ranks, quality against cost.

They are drawn as `figures` draws. What is not called an effect is hatched and hollow, and the noise
floor is a dashed line with its name, so that neither rests on colour.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from depthprune.report import numbers
from depthprune.report.export import INK, KEPT, MUTED, PAPER, REMOVED, RULE
from depthprune.report.figures import own_style
from depthprune.study.report.maps import plain
from depthprune.study.statistics.data import Floats
from depthprune.study.statistics.estimates import IntervalEstimate, NotEstimable
from depthprune.study.statistics.quality import CostQuality
from depthprune.study.statistics.variance import DRAW, Decomposition

_WIDTH = 7.2
_REST = "unexplained"
_MARKERS = "osD^vPX*<>hp"


@dataclass(frozen=True)
class EffectBar:
    """A bar of `effect_bars`: what changing one thing does.

    Attributes:
        name: What is changed.
        estimate: How much it moves.
        claimed: Whether that may be called an effect.
        signed: Whether it is a difference of two bars, drawn as a point that may lie below 0.
    """

    name: str
    estimate: IntervalEstimate
    claimed: bool
    signed: bool = False


@own_style
def effect_bars(panels: Sequence[tuple[str, Sequence[EffectBar], float | None]]) -> Figure:
    """What changing each factor moves, as bars with intervals against the noise floor.

    Args:
        panels: For each measure the axis label, a bar a factor, and the noise floor or None.
    """
    names = list(dict.fromkeys(size.name for _, sizes, _ in panels for size in sizes))
    figure = Figure((_WIDTH, 0.75 + 0.36 * max(1, len(names))), layout="constrained")
    for axes, (label, sizes, floor) in zip(_row_of_axes(figure, len(panels)), panels, strict=True):
        for size in sizes:
            place = len(names) - 1 - names.index(size.name)
            if size.signed:
                fill = INK if size.claimed else PAPER
                value = [size.estimate.value]
                axes.plot(value, [place], "D", ms=6, color=INK, mfc=fill, zorder=4)
            else:
                _bar(axes, place, size.estimate.value, hollow=not size.claimed)
            ends = size.estimate.interval
            if not isinstance(ends, NotEstimable):
                axes.plot(ends, [place, place], color=INK, lw=1.2, solid_capstyle="butt", zorder=3)
        axes.set_yticks(range(len(names)), list(reversed(names)))
        _bar_axes(axes, label)
        if any(size.signed for size in sizes):
            axes.autoscale(axis="x")
            axes.axvline(0, color=RULE, lw=1.2, zorder=2)
        if floor is not None:
            _floor(axes, floor)
    return figure


@own_style
def variance_bars(panels: Sequence[tuple[str, Decomposition]]) -> Figure:
    """The share of the variance that each term explains, within a model and k.

    The draw's own share is no floor of the others: it is of many more degrees of freedom.

    Args:
        panels: For each measure its name and its decomposition.
    """
    names = list(dict.fromkeys(t.name for _, d in panels for t in d.terms if t.within is not None))
    names.sort(key=lambda name: (name != DRAW, " × " not in name), reverse=True)
    names.append(_REST)
    figure = Figure((_WIDTH, 0.75 + 0.27 * max(1, len(names))), layout="constrained")
    for axes, (label, found) in zip(_row_of_axes(figure, len(panels)), panels, strict=True):
        shares = {term.name: term.within for term in found.terms if term.within is not None}
        if found.residual_within is not None:
            shares[_REST] = found.residual_within
        for place, name in enumerate(reversed(names)):
            if name in shares:
                _bar(axes, place, 100 * shares[name], hollow=name in (DRAW, _REST))
                _beside(axes, 100 * shares[name], place, numbers.fixed(100 * shares[name], 1))
            else:
                _beside(axes, 0, place, "not estimated")
        axes.set_yticks(range(len(names)), list(reversed(names)))
        _bar_axes(axes, f"% of the variance of {label} (η²)")
        axes.set_xlim(0, 1.18 * max([1.0, *(100 * share for share in shares.values())]))
    return figure


def _beside(axes: Any, value: float, place: int, words: str) -> None:
    place_of = {"xytext": (5, 0), "textcoords": "offset points", "va": "center"}
    axes.annotate(words, (value, place), fontsize=8, **place_of)


def _row_of_axes(figure: Figure, count: int) -> list[Any]:
    axes = figure.subplots(1, max(1, count), sharey=True, squeeze=False)
    return list(axes[0][:count])


def _bar(axes: Any, place: int, value: float, *, hollow: bool) -> None:
    axes.barh(
        [place],
        [value],
        height=0.62,
        color=PAPER if hollow else KEPT,
        edgecolor=MUTED if hollow else KEPT,
        hatch="////" if hollow else None,
        linewidth=0.8,
    )


def _bar_axes(axes: Any, label: str) -> None:
    axes.tick_params(axis="y", length=0)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5))
    axes.grid(axis="x", color=RULE, lw=0.6)
    axes.set_axisbelow(True)
    axes.set_xlabel(label)
    axes.set_xlim(left=0)


def _floor(axes: Any, value: float) -> None:
    axes.axvline(value, color=REMOVED, lw=1.2, ls=(0, (5, 3)))
    axes.annotate(
        "noise floor",
        (value, 1),
        xycoords=("data", "axes fraction"),
        xytext=(3, 1),
        textcoords="offset points",
        fontsize=8,
        color=REMOVED,
        va="bottom",
        annotation_clip=False,
    )


@dataclass(frozen=True)
class RankPanel:
    """A panel of `rank_scatter`: the cells of one k and objective.

    Attributes:
        name: Which those are.
        perplexity: Their ranks among themselves, 1 the best, shape (cells,).
        accuracy: Likewise.
        searches: Of each cell.
    """

    name: str
    perplexity: Floats
    accuracy: Floats
    searches: Sequence[str]


@own_style
def rank_scatter(panels: Sequence[RankPanel]) -> Figure:
    """The rank of each cell by perplexity and by accuracy, a marker a search.

    Args:
        panels: One or more; ranks are compared inside each.
    """
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure((_WIDTH, 0.9 + 2.3 * rows), layout="constrained")
    names = list(dict.fromkeys(name for panel in panels for name in panel.searches))
    grid = figure.subplots(rows, columns, squeeze=False)
    for place in range(rows * columns):
        axes = grid[place // columns][place % columns]
        if place < len(panels):
            _ranks(axes, panels[place], names)
        else:
            axes.set_axis_off()
    figure.supxlabel("rank by perplexity, 1 the best", fontsize=9)
    figure.supylabel("rank by accuracy, 1 the best", fontsize=9)
    handles = {
        label: handle
        for axes in grid.flat
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(
        handles.values(), handles.keys(), loc="outside upper center", ncols=4, frameon=False,
        fontsize=8,
    )  # fmt: skip
    return figure


def _ranks(axes: Any, panel: RankPanel, names: Sequence[str]) -> None:
    most = max(len(panel.perplexity), 2)
    axes.plot([1, most], [1, most], color=RULE, lw=1.2, zorder=0)
    for i, name in enumerate(names):
        inside = np.asarray([each == name for each in panel.searches])
        if inside.any():
            axes.plot(
                panel.perplexity[inside],
                panel.accuracy[inside],
                _MARKERS[i % len(_MARKERS)],
                ms=4.5,
                color=(KEPT, REMOVED, MUTED, INK)[i % 4],
                fillstyle="full" if i % 2 == 0 else "none",
                label=plain(name),
            )
    axes.set_title(plain(panel.name), fontsize=9)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
    axes.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
    axes.grid(color=RULE, lw=0.6)
    axes.set_axisbelow(True)


@own_style
def cost_front(points: Sequence[CostQuality], *, perplexity: bool) -> Figure:
    """Mean quality of each search against its mean cost, and the Pareto front.

    Args:
        points: By `study.quality`.
        perplexity: Whether quality is a log-perplexity; else an accuracy.
    """
    figure = Figure((_WIDTH, 3.0), layout="constrained")
    axes = figure.add_subplot()

    def height(point: CostQuality) -> float:
        return float(np.exp(point.quality)) if perplexity else 100 * point.quality

    front = sorted((point for point in points if point.front), key=lambda point: point.cost)
    axes.plot(
        [point.cost for point in front], [height(point) for point in front], color=KEPT, lw=1.4
    )
    for point in points:
        axes.plot(
            [point.cost],
            [height(point)],
            "o" if point.front else "s",
            ms=6,
            color=KEPT if point.front else MUTED,
            fillstyle="full" if point.front else "none",
        )
        axes.annotate(
            plain(point.search),
            (point.cost, height(point)),
            xytext=(6, 4),
            textcoords="offset points",
            fontsize=8,
        )
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda cost, _: numbers.format_count(cost)))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.margins(x=0.14, y=0.14)
    axes.set_xlabel("block-tokens a search")
    axes.set_ylabel("perplexity" if perplexity else "accuracy, %")
    axes.grid(color=RULE, lw=0.6)
    axes.set_axisbelow(True)
    return figure
