"""What calibration, objective and search move in every part of a table, and what may be said of it.

A table is taken apart by model and by kind of calibration: the blocks of one model are not those
of another, and text and choices calibrations share no objective. Everything said of a part is of
its own balanced core and of nothing else in the table: its tests are joint over texts, searches
and k, one a factor and measure. Holm (1979) keeps the chance of any false claim on a factor in the
part. Interactions come second: they are adjusted among themselves, and claimed only where some
factor was.

That two things matter alike is claimed only where their difference lies within a margin stated
beforehand, in the plan; that no difference was found is no proof of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np

from depthprune.study.plan import Margin
from depthprune.study.statistics import noise
from depthprune.study.statistics.core import Core, core
from depthprune.study.statistics.data import StudyData, data
from depthprune.study.statistics.estimates import IntervalEstimate, NotEstimable
from depthprune.study.statistics.gains import Gain, gain
from depthprune.study.statistics.intervals import ALPHA
from depthprune.study.statistics.joint import (
    FACTORS,
    INTERACTIONS,
    holm,
    joint_tests,
)
from depthprune.study.statistics.noise import Difference
from depthprune.study.statistics.standings import Standing, standings
from depthprune.study.statistics.variance import Decomposition, decompose
from depthprune.study.table import Row

MEASURES = ("perplexity", "accuracy")
RequiredType: TypeAlias = tuple[str, str]

__all__ = ["FACTORS", "INTERACTIONS", "MEASURES", "Effect", "StudyPart", "analyse"]


@dataclass(frozen=True)
class Effect:
    """What changing one factor does to one measure.

    Attributes:
        size: Mean absolute difference of two cells that differ in the factor and in the draw, in
            log-perplexity or in accuracy.
        p: Of the joint test, adjusted for all tests of the part; or why there is none.
    """

    size: IntervalEstimate
    p: float | NotEstimable

    @property
    def claimed(self) -> bool:
        """Whether it may be called an effect."""
        return not isinstance(self.p, NotEstimable) and self.p < ALPHA


@dataclass(frozen=True)
class StudyPart:
    """One model under one kind of calibration.

    Attributes:
        model: Its name.
        kind: `text` or `choices`.
        data: Its cells.
        core: Its balanced core, on which all of the following rests.
        effects: By factor and measure.
        interactions: Adjusted p, by interaction and measure.
        floors: By measure: what two draws of one configuration differ by.
        more: By measure: how much more the calibration moves than the search.
        without: By measure and source: the same without every calibration on that source.
        gains: By measure: of each search on the cheapest, on the same draws.
        variance: By measure.
        standings: By measure: which calibrations may be the best.
        margin: What counts as alike.
    """

    model: str
    kind: str
    data: StudyData
    core: Core | NotEstimable
    effects: dict[RequiredType, Effect | NotEstimable]
    interactions: dict[RequiredType, float | NotEstimable]
    floors: dict[str, IntervalEstimate | NotEstimable]
    more: dict[str, Difference | NotEstimable]
    without: dict[str, dict[str, IntervalEstimate]]
    gains: dict[str, tuple[Gain, ...]]
    variance: dict[str, Decomposition | NotEstimable]
    standings: dict[str, tuple[Standing, ...] | NotEstimable]
    margin: Margin

    @property
    def compared(self) -> StudyData:
        """The cells of the core; all, where there is none."""
        return self.data if isinstance(self.core, NotEstimable) else self.data.take(self.core.cells)

    @property
    def measures(self) -> tuple[str, ...]:
        """The measures that all cells share."""
        return tuple(each for each in MEASURES if len(self.data.columns(each)))


def analyse(rows: Sequence[Row], margin: Margin | None = None) -> list[StudyPart]:
    """Every model and kind of calibration in a table.

    Args:
        rows: Of the table.
        margin: What counts as alike, as the plan states it.
    """
    places = sorted({(row.model, row.calibration.kind) for row in rows if row.error is None})
    return [
        _part(model, kind, data(rows, model=model, kind=kind), margin or Margin())
        for model, kind in places
    ]


def only_tested(rows: Sequence[Row], margin: Margin) -> StudyPart:
    """One model under one kind of calibration, with its effects and tests and nothing else.

    Args:
        rows: Its cells; at least one.
        margin: What counts as alike.
    """
    return _tested(rows[0].model, rows[0].calibration.kind, data(rows), margin)


def _part(model: str, kind: str, of: StudyData, margin: Margin) -> StudyPart:
    part = _tested(model, kind, of, margin)
    if isinstance(part.core, NotEstimable):
        return part
    inside = of.take(part.core.cells)
    for measure in part.measures:
        whole, lower = part.core.of(measure), measure == "perplexity"
        part.without[measure] = _without_each_source(whole)
        part.gains[measure] = _gains(of, whole, lower_is_better=lower)
        part.standings[measure] = standings(whole, lower_is_better=lower)
        part.variance[measure] = decompose(inside, inside.columns(measure))
    return part


def _tested(model: str, kind: str, of: StudyData, margin: Margin) -> StudyPart:
    whole = core(of)
    part = StudyPart(model, kind, of, whole, {}, {}, {}, {}, {}, {}, {}, {}, margin)
    if not isinstance(whole, NotEstimable):
        for measure in part.measures:
            _test(part, measure, whole.of(measure))
        _adjust(part)
    return part


def _test(part: StudyPart, measure: str, of: Core) -> None:
    """Fill in a part's effects on one measure, with the tests' own p."""
    part.floors[measure] = noise.moved(of, "draw")
    tests = joint_tests(of)
    for factor in FACTORS:
        size = noise.moved(of, factor)
        part.effects[factor, measure] = (
            size if isinstance(size, NotEstimable) else Effect(size, tests[factor])
        )
    part.interactions.update({(name, measure): tests[name] for name in INTERACTIONS})
    part.more[measure] = noise.difference(of)


def _without_each_source(of: Core) -> dict[str, IntervalEstimate]:
    sources = tuple(dict.fromkeys(of.sources))
    if len(sources) < 3:
        return {}
    found = {source: noise.difference(of.without_source(source)) for source in sources}
    return {name: d.estimate for name, d in found.items() if isinstance(d, Difference)}


def _gains(of: StudyData, inside: Core, *, lower_is_better: bool) -> tuple[Gain, ...]:
    """Of every search on the one that costs least (by name, where costs were not kept)."""
    if len(inside.searches) < 2:
        return ()
    costs: dict[str, list[float]] = {name: [] for name in inside.searches}
    for row in of.rows:
        if row.search in costs and row.cost is not None:
            costs[row.search].append(float(row.cost.evaluations))
    cheapest = min(inside.searches, key=lambda name: (float(np.mean(costs[name] or [0.0])), name))
    return tuple(
        gain(inside, name, cheapest, lower_is_better=lower_is_better)
        for name in inside.searches
        if name != cheapest
    )


def _adjust(part: StudyPart) -> None:
    """The tests' p adjusted within the part: see the module."""
    first: dict[RequiredType, float] = {}
    for place, effect in part.effects.items():
        if isinstance(effect, Effect) and not isinstance(effect.p, NotEstimable):
            first[place] = effect.p
    second = {k: p for k, p in part.interactions.items() if not isinstance(p, NotEstimable)}
    adjusted = _holm(first)
    gate = min(adjusted.values(), default=0.0)
    adjusted |= {place: max(gate, p) for place, p in _holm(second).items()}
    for place, p in adjusted.items():
        tested = part.effects.get(place)
        if isinstance(tested, Effect):
            part.effects[place] = replace(tested, p=p)
        else:
            part.interactions[place] = p
    differences: dict[RequiredType, float] = {}
    for name, more in part.more.items():
        if isinstance(more, Difference) and not isinstance(more.p, NotEstimable):
            differences["difference", name] = more.p
    for (_, name), p in _holm(differences).items():
        more = part.more[name]
        if isinstance(more, Difference):
            part.more[name] = replace(more, p=p)


def _holm(tests: dict[RequiredType, float]) -> dict[RequiredType, float]:
    if not tests:
        return {}
    values = holm(np.asarray(list(tests.values()), dtype=np.float64))
    return {place: float(p) for place, p in zip(tests, values, strict=True)}
