"""What calibration, objective and search move, against the noise floor, in every part of a table.

A table is taken apart by model and by kind of calibration: the blocks of one model are not those
of another, and text and choices calibrations share no objective. Each part is judged on every
response, and `noise.claimed` decides over all of these tests together, so that a table with many
texts is no likelier to find something in noise than one with a single text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from depthprune.study import noise
from depthprune.study.answers import Estimate, Unsaid
from depthprune.study.panel import Floats, Ints, Panel, panel
from depthprune.study.table import Row
from depthprune.study.variance import Decomposition, decompose

FACTORS = ("calibration", "objective", "search")
MEASURES = ("perplexity", "accuracy")
Place: TypeAlias = tuple[str, str]


@dataclass(frozen=True)
class Effect:
    """What changing one factor does to one measure.

    Attributes:
        size: Mean absolute difference, all else equal, in log-perplexity or in accuracy.
        p: Holm's adjusted p of each response, by name; empty where there is no test.
        claimed: The responses on which it may be called an effect.
        untested: Why there is no test, if there is none.
        between: The levels that were tested, where others were run too.
        stands: Whether the measure as a whole may be called moved: an effect on some response, and
            the mean of all of them above their noise floor.
    """

    size: Estimate
    p: dict[str, float]
    claimed: tuple[str, ...]
    untested: Unsaid | None = None
    between: tuple[str, ...] = ()
    stands: bool = False


@dataclass(frozen=True)
class Part:
    """One model under one kind of calibration.

    Attributes:
        model: Its name.
        kind: `text` or `choices`.
        panel: Its cells.
        effects: By factor and measure.
        floors: By measure: what two draws of one configuration differ by.
        more: By measure: how much more the calibration moves than the search.
        variance: By measure.
    """

    model: str
    kind: str
    panel: Panel
    effects: dict[Place, Effect | Unsaid]
    floors: dict[str, Estimate | Unsaid]
    more: dict[str, Estimate | Unsaid]
    variance: dict[str, Decomposition | Unsaid]

    @property
    def measures(self) -> tuple[str, ...]:
        """The measures that all cells share."""
        return tuple(each for each in MEASURES if len(self.panel.columns(each)))


@dataclass(frozen=True)
class Evidence:
    """What a claim rests on, for each factor and response, shape (factors, responses).

    Attributes:
        p: Of the test; 1 where there is none.
        size: What the factor moves.
        floor: What the draw moves; infinite where it is not known.
        untested: Why a factor has no test.
        between: The levels that were tested of a factor that has others too.
    """

    p: Floats
    size: Floats
    floor: Floats
    untested: dict[str, Unsaid]
    between: dict[str, tuple[str, ...]]


def evidence(of: Panel) -> Evidence:
    """Tests, sizes and floors of all factors on all responses of a panel.

    Args:
        of: One model's cells under one kind of calibration.
    """
    shape = (len(FACTORS), len(of.responses))
    p, size, floor = np.ones(shape), np.zeros(shape), np.full(shape, np.inf)
    untested: dict[str, Unsaid] = {}
    between: dict[str, tuple[str, ...]] = {}
    draws = noise.moved(of, "draw")
    if not isinstance(draws, Unsaid):
        floor[:] = draws.mean
    for i, factor in enumerate(FACTORS):
        moves, test = noise.moved(of, factor), noise.tested(of, factor)
        if isinstance(moves, Unsaid):
            untested[factor] = moves
        elif isinstance(draws, Unsaid):
            untested[factor] = draws
        elif isinstance(test, Unsaid):
            untested[factor] = test
        else:
            p[i], size[i] = test.p, moves.mean
            if len(test.levels) < of.count(factor):
                between[factor] = test.levels
    return Evidence(p, size, floor, untested, between)


def analyse(rows: Sequence[Row]) -> list[Part]:
    """Every model and kind of calibration in a table, with claims over all of them together."""
    places = sorted({(row.model, row.calibration.kind) for row in rows if row.error is None})
    panels = [panel(rows, model=model, kind=kind) for model, kind in places]
    found = [evidence(each) for each in panels]
    tested = [np.asarray([factor not in each.untested for factor in FACTORS]) for each in found]
    p, size, floor = (
        _joined([getattr(each, name)[mask] for each, mask in zip(found, tested, strict=True)])
        for name in ("p", "size", "floor")
    )
    adjusted, claims = noise.holm(p), noise.claimed(p, size, floor)
    parts, start = [], 0
    for (model, kind), each, own, mask in zip(places, panels, found, tested, strict=True):
        end = start + own.p[mask].size
        told, may = np.ones_like(own.p), np.zeros(own.p.shape, dtype=np.bool_)
        told[mask] = adjusted[start:end].reshape(own.p[mask].shape)
        may[mask] = claims[start:end].reshape(own.p[mask].shape)
        parts.append(_part(model, kind, each, own, told, may))
        start = end
    return parts


def _joined(arrays: Sequence[Floats]) -> Floats:
    return np.concatenate([np.zeros(0), *(array.ravel() for array in arrays)])


def _part(
    model: str, kind: str, of: Panel, own: Evidence, adjusted: Floats, claims: NDArray[np.bool_]
) -> Part:
    moves = {factor: noise.moved(of, factor) for factor in ("draw", *FACTORS)}
    part = Part(model, kind, of, {}, {}, {}, {})
    for measure in part.measures:
        columns = of.columns(measure)
        part.floors[measure] = _size(moves["draw"], columns)
        part.variance[measure] = decompose(of, columns)
        part.more[measure] = _more(moves["calibration"], moves["search"], columns)
        for i, factor in enumerate(FACTORS):
            size, untested = _size(moves[factor], columns), own.untested.get(factor)
            if isinstance(size, Unsaid):
                part.effects[factor, measure] = size
                continue
            names = {of.responses[column].name: column for column in columns}
            told = tuple(name for name, c in names.items() if claims[i, c])
            floor = part.floors[measure]
            part.effects[factor, measure] = Effect(
                size=size,
                p={} if untested else {name: float(adjusted[i, c]) for name, c in names.items()},
                claimed=told,
                untested=untested,
                between=own.between.get(factor, ()),
                stands=bool(told) and isinstance(floor, Estimate) and size.value > floor.value,
            )
    return part


def _size(moves: noise.Moved | Unsaid, columns: Ints) -> Estimate | Unsaid:
    return moves if isinstance(moves, Unsaid) else noise.interval(moves, columns)


def _more(
    calibration: noise.Moved | Unsaid, search: noise.Moved | Unsaid, columns: Ints
) -> Estimate | Unsaid:
    if isinstance(calibration, Unsaid):
        return calibration
    if isinstance(search, Unsaid):
        return search
    return noise.interval(calibration, columns, minus=search)
