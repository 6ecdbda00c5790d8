"""What `--for` chose, in the words that page, card and terminal share.

The first sentence answers what a person asks: which calibration, and was it worth it. A difference
is said only where its interval is all on one side of nothing; all of it is of data that decided
nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from depthprune.manifest import Manifest, TargetJudged, TargetRecord, TargetSet
from depthprune.report import numbers
from depthprune.report.export import INK, KEPT, MUTED, PAPER, REMOVED, RULE, svg
from depthprune.report.figures import own_style
from depthprune.report.summary import source_labels

_OTHERS = {"default": "the default calibration", "task": "calibrating on the task itself"}


def judged_as(record: TargetRecord, what: str) -> TargetJudged | None:
    """A set that was judged, by what it is."""
    return next((each for each in record.judged if each.what == what), None)


def target_name(record: TargetRecord) -> str:
    """What is to be kept, without folders and keys."""
    return " and ".join(source_labels([goal.spec for goal in record.goals]))


def first_sentence(record: TargetRecord) -> str:
    """Which calibration won, and by how much over the two that it had to beat."""
    chosen, found = judged_as(record, "chosen"), []
    for what, name in _OTHERS.items():
        other = judged_as(record, what)
        if other is None or chosen is None:
            continue
        if other.removed == chosen.removed:
            found.append(f"{name} gives the same blocks")
        else:
            found.append(_difference(other, name))
    loss = "" if chosen is None else f" ({_loss(chosen)})"
    words = "; ".join(found)
    return (
        f"Of the calibrations tried for {target_name(record)}, {_quoted(record.chosen)} won{loss}"
        f"{': on data that decided nothing, ' + words if words else ''}."
    )


def _quoted(name: str) -> str:
    row, _, draw = name.rpartition(", draw ")
    return f"“{row}” (draw {draw})" if row else f"“{name}”"


def _difference(other: TargetJudged, name: str) -> str:
    size = numbers.with_error(abs(other.above), other.above_stderr)
    interval = f"95% interval {_signed(-other.high)} to {_signed(-other.low)}"
    if other.low > 0:
        return f"its loss is {size} lower than {name} gives ({interval})"
    if other.high < 0:
        return f"its loss is {size} higher than {name} gives ({interval})"
    return f"its loss cannot be told apart from what {name} gives ({interval})"


def _signed(value: float) -> str:
    return numbers.fixed(value, 3, sign=True)


def _loss(judged: TargetJudged) -> str:
    loss = numbers.with_error(judged.loss.loss, judged.loss.stderr)
    if judged.accuracy is None:
        return f"loss {loss}"
    return f"loss {loss}, {_percent(judged)} answered right"


def _percent(judged: TargetJudged) -> str:
    share, stderr = judged.accuracy or 0.0, judged.accuracy_stderr or 0.0
    return f"{numbers.with_error(100 * share, 100 * stderr)}%"


@dataclass(frozen=True)
class JudgedLine:
    """A set that was judged, in words."""

    name: str
    removed: str
    loss: str
    accuracy: str
    above: str
    interval: str


_NAMES = {
    "chosen": "chosen",
    "default": "default calibration",
    "task": "the task itself",
    "whole": "whole model",
}


def judged_lines(record: TargetRecord) -> list[JudgedLine]:
    """What was judged, the chosen set first."""
    return [
        JudgedLine(
            name=_NAMES[each.what],
            removed=numbers.block_list(each.removed) if each.removed else "none",
            loss=numbers.with_error(each.loss.loss, each.loss.stderr),
            accuracy="" if each.accuracy is None else _percent(each),
            above=_above(each, sign=True),
            interval="" if each.what == "chosen" else _interval(each),
        )
        for each in record.judged
    ]


def _above(each: TargetJudged, *, sign: bool) -> str:
    if each.what == "chosen":
        return ""
    return numbers.with_error(each.above, each.above_stderr, sign=sign)


def _interval(each: TargetJudged) -> str:
    return f"{_signed(each.low)} to {_signed(each.high)}"


@dataclass(frozen=True)
class SetLine:
    """A set that was looked at, in words."""

    calibration: str
    search: str
    removed: str
    loss: str
    windows: str
    general: str
    state: str


def set_lines(record: TargetRecord, removed: Sequence[int]) -> list[SetLine]:
    """Every set that was looked at, the best on the target first."""
    ranked = sorted(record.sets, key=lambda each: (each.removed != list(removed), each.loss))
    return [
        SetLine(
            calibration=each.calibration,
            search=_search_words(each),
            removed=numbers.block_list(each.removed),
            loss=numbers.with_error(each.loss, each.stderr),
            windows=f"{each.windows:,}",
            general=numbers.fixed(each.general, 3),
            state=_state(each, removed),
        )
        for each in ranked
    ]


def _search_words(each: TargetSet) -> str:
    return each.search if each.share == 1 else f"{each.search}, {100 * each.share:.0f}% of windows"


def _state(each: TargetSet, removed: Sequence[int]) -> str:
    if each.removed == list(removed):
        return "chosen"
    if each.refused:
        return "refused"
    return "tied" if each.tied else "worse"


def choice_words(record: TargetRecord) -> str:
    """How the choice was made, and what the winner gave where it was chosen and where judged."""
    words, chosen = _choice_among(record), judged_as(record, "chosen")
    there = numbers.with_error(record.choosing.loss, record.choosing.stderr)
    whole = numbers.with_error(record.whole.loss, record.whole.stderr)
    words = f"{words[0].upper()}{words[1:]}. There its loss is {there} (the whole model's {whole})"
    if chosen is not None:
        judged = numbers.with_error(chosen.loss.loss, chosen.loss.stderr)
        words += f", and {judged} on the part that judges"
    return f"{words}."


def _choice_among(record: TargetRecord) -> str:
    raced = sum(not each.refused for each in record.sets)
    sets = f"{len(record.sets)} sets"
    if refused := len(record.sets) - raced:
        sets += f", of which {refused} {'was' if refused == 1 else 'were'} refused,"
    if record.ties > 1:
        return (
            f"{record.ties} of {sets} cannot be told apart on the part that chooses, and of those "
            "within a standard error of the best the one that loses least on the default text was "
            "taken"
        )
    if raced > 1:
        return f"of {sets} one is surely the best on the part that chooses"
    return f"of {sets} one was left to take" if refused else "only one set was found"


def target_svg(manifest: Manifest) -> str | None:
    """The portfolio as a figure, or None where there is none."""
    record = manifest.target
    if record is None or not record.sets:
        return None
    best = min(record.sets, key=lambda each: each.loss)
    return svg(
        portfolio_figure(record, manifest.removed),
        "Loss on the target against loss on general text, a point a set",
        f"{len(record.sets)} sets; the lowest loss on the target is {best.loss:.3f}. The values "
        "are in the table that follows.",
    )


_MARKERS = "os^Dv<>Phpx*"


@own_style
def portfolio_figure(record: TargetRecord, removed: Sequence[int]) -> Figure:
    """Loss on the target against loss on general text, a point a set, the winner marked.

    Calibrations differ by marker; what was tied is filled, what is worse is not.
    """
    figure = Figure((7.2, 3.6), layout="constrained")
    axes = figure.add_subplot()
    points = [s for s in record.sets if math.isfinite(s.loss) and math.isfinite(s.general)]
    names = list(dict.fromkeys(_row(each.calibration) for each in points))
    for number, name in enumerate(names):
        for tied in (True, False):
            inside = [s for s in points if _row(s.calibration) == name and s.tied == tied]
            if not inside:
                continue
            axes.scatter(
                [each.loss for each in inside],
                [each.general for each in inside],
                marker=_MARKERS[number % len(_MARKERS)],
                s=34,
                facecolor=KEPT if tied else PAPER,
                edgecolor=KEPT if tied else MUTED,
                linewidth=1.1,
                zorder=3,
            )
        axes.scatter([], [], marker=_MARKERS[number % len(_MARKERS)], facecolor=PAPER,
                     edgecolor=INK, linewidth=1.1, s=34, label=_short(name))  # fmt: skip
    won = next((each for each in points if each.removed == list(removed)), None)
    if won is not None:
        axes.scatter([won.loss], [won.general], s=190, facecolor="none", edgecolor=REMOVED,
                     linewidth=1.8, zorder=4, label="chosen")  # fmt: skip
    axes.set(
        xlabel=f"loss on the target ({record.objective})",
        ylabel="loss on held-out default text\n(nats a token)",
    )
    axes.grid(color=RULE, lw=0.6)
    axes.set_axisbelow(True)
    figure.legend(loc="outside right upper", frameon=False, fontsize=8.5)
    return figure


_LONGEST = 22
"""Characters of a name beside the figure, which a longer one would push off its page."""


def _short(name: str) -> str:
    """A calibration's name as the legend has it: a file's own, cut where it is long."""
    label = source_labels([name])[0]
    return label if len(label) <= _LONGEST else f"{label[: _LONGEST - 1]}…"


def _row(calibration: str) -> str:
    """A calibration's name without its draw."""
    return calibration.rpartition(", draw ")[0] or calibration
