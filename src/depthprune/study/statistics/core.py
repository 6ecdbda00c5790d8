"""The balanced core of a table: the largest full cross of draws, searches and k × objective in it.

Factors are only compared like with like where every draw saw every search under every objective:
then no factor's figure is of easier company than another's, draws of different calibrations have
the same composition and may be exchanged, and leaving one out takes the same from all. A grid with
gaps is cut down to such a cross, by what ran and never by what came of it: the level that lacks the
largest share of its cells goes, until none lacks any. What is left out is named.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from depthprune.study.statistics.data import (
    Floats,
    Ints,
    Response,
    StudyData,
    columns_of,
)
from depthprune.study.statistics.estimates import NotEstimable


@dataclass(frozen=True)
class Core:
    """A full cross of draws × searches × blocks of k and objective.

    Attributes:
        values: Log-perplexity or accuracy, shape (draws, searches, blocks, responses). Seeds of a
            search are averaged.
        calibration: Of each draw, a number from 0, shape (draws,).
        calibrations: Their names.
        sources: The source of each calibration.
        searches: Names.
        blocks: The k and the objective of each block.
        responses: What is measured.
        cells: The data's cells that are in it, shape (cells,).
        left_out: By factor, the levels that are not in it; draws only of calibrations that are.
        without_items: The values without each group of windows or items, shape (groups, draws,
            searches, blocks, responses); NaN where there is none.
    """

    values: Floats
    calibration: Ints
    calibrations: tuple[str, ...]
    sources: tuple[str, ...]
    searches: tuple[str, ...]
    blocks: tuple[tuple[int, str], ...]
    responses: tuple[Response, ...]
    cells: Ints
    left_out: Mapping[str, tuple[str, ...]]
    without_items: Floats | None = None

    @property
    def by_item(self) -> bool:
        """Whether every response was kept by window or item, so that their error is known."""
        without = self.without_items
        return without is not None and not np.isnan(without[:2]).any()

    @property
    def draws(self) -> Ints:
        """How many each calibration has, shape (calibrations,)."""
        return np.bincount(self.calibration, minlength=len(self.calibrations))

    @property
    def objectives(self) -> tuple[str, ...]:
        """Distinct objectives of the blocks."""
        return tuple(sorted({objective for _, objective in self.blocks}))

    def of(self, kind: str) -> Core:
        """The same with the responses of one kind only."""
        columns = columns_of(self.responses, kind)
        responses = tuple(self.responses[c] for c in columns)
        without = None if self.without_items is None else self.without_items[..., columns]
        return replace(
            self,
            values=self.values[..., columns],
            responses=responses,
            without_items=without,
        )

    def without_source(self, source: str) -> Core:
        """The same without every calibration on a source."""
        kept = [i for i, each in enumerate(self.sources) if each != source]
        inside = np.isin(self.calibration, kept)
        return replace(
            self,
            values=self.values[inside],
            without_items=None if self.without_items is None else self.without_items[:, inside],
            calibration=np.unique(self.calibration[inside], return_inverse=True)[1].reshape(-1),
            calibrations=tuple(self.calibrations[i] for i in kept),
            sources=tuple(self.sources[i] for i in kept),
        )


def core(data: StudyData) -> Core | NotEstimable:
    """The balanced core of one model's cells under one kind of calibration."""
    if not len(data.rows) or not data.responses:
        return NotEstimable("no cell has an evaluation that all cells share")
    unit, search, block = data.codes["unit"], data.codes["search"], data.joint("k", "objective")
    shape = (data.count("unit"), data.count("search"), int(block.max()) + 1)
    there = np.zeros(shape, dtype=np.bool_)
    there[unit, search, block] = True
    strata = np.zeros(shape[0], dtype=np.int64)
    strata[unit] = data.codes["calibration"]
    in_cross, searches, blocks = crossed(there)
    units = repeated(strata, in_cross)
    inside = np.isin(unit, units) & np.isin(search, searches) & np.isin(block, blocks)
    cells = np.flatnonzero(inside)
    place = tuple(
        np.searchsorted(kept, code[cells])
        for kept, code in ((units, unit), (searches, search), (blocks, block))
    )
    size = (len(units), len(searches), len(blocks))
    over_seeds = partial(_over_seeds, cells, np.ravel_multi_index(place, size), size)
    without = data.without_items
    names, calibration = np.unique(strata[units], return_inverse=True)
    source = {row.calibration.name: row.calibration.source for row in data.rows}
    first = {int(b): data.rows[i] for i, b in reversed(list(enumerate(block)))}
    calibrations = tuple(data.levels["calibration"][i] for i in names)
    kept_blocks = tuple((first[int(b)].k, first[int(b)].objective) for b in blocks)
    return Core(
        values=over_seeds(data.values),
        calibration=calibration.reshape(-1),
        calibrations=calibrations,
        sources=tuple(source[name] for name in calibrations),
        searches=tuple(data.levels["search"][i] for i in searches),
        blocks=kept_blocks,
        responses=data.responses,
        cells=cells,
        left_out={
            **_left_out(
                data, names, searches, kept_blocks, once=strata[np.setdiff1d(in_cross, units)]
            ),
            **_draws_left_out(data, names, units),
        },
        without_items=None if without is None else np.stack([over_seeds(w) for w in without]),
    )


def _over_seeds(cells: Ints, place: Ints, size: tuple[int, ...], values: Floats) -> Floats:
    """Means over what differs by the seed of the search alone, shape (*size, responses).

    Args:
        cells: Of the data.
        place: Where each stands in the core, counted along all its axes.
        size: Of those.
        values: Of all the data's cells, shape (cells, responses).
    """
    counts = np.bincount(place, minlength=math.prod(size))
    sums = np.zeros((len(counts), values.shape[1]))
    np.add.at(sums, place, values[cells])
    means: Floats = (sums / counts[:, None]).reshape(*size, -1)
    return means


def crossed(there: NDArray[np.bool_]) -> list[Ints]:
    """The levels of each axis that a full cross keeps.

    Args:
        there: Which cells there are, shape (draws, searches, blocks).
    """
    kept = [np.arange(size) for size in there.shape]
    while True:
        now = there[np.ix_(*kept)]
        if now.all():
            return kept
        worst: tuple[float, int, int] | None = None
        # Searches go before blocks and blocks before draws where they lack alike.
        for axis in (1, 2, 0):
            if len(kept[axis]) == 1:
                continue
            lacking = 1 - now.mean(axis=tuple(a for a in range(3) if a != axis))
            level = int(np.argmax(lacking))
            if worst is None or lacking[level] > worst[0] + 1e-12:
                worst = (float(lacking[level]), axis, level)
        if worst is None:
            return kept
        kept[worst[1]] = np.delete(kept[worst[1]], worst[2])


def repeated(strata: Ints, units: Ints) -> Ints:
    """The draws that are kept, but for those of calibrations that have one, if two have more.

    Args:
        strata: The calibration of every draw.
        units: The draws.
    """
    names, counts = np.unique(strata[units], return_counts=True)
    several = names[counts > 1]
    return units[np.isin(strata[units], several)] if len(several) > 1 else units


def _left_out(
    data: StudyData,
    calibrations: Ints,
    searches: Ints,
    blocks: Sequence[tuple[int, str]],
    once: Ints,
) -> dict[str, tuple[str, ...]]:
    kept = {
        "calibration": {data.levels["calibration"][i] for i in calibrations},
        "search": {data.levels["search"][i] for i in searches},
        "objective": {objective for _, objective in blocks},
        "k": {str(k) for k, _ in blocks},
    }
    found = {
        factor: tuple(level for level in data.levels[factor] if level not in names)
        for factor, names in kept.items()
    }
    alone = {data.levels["calibration"][i] for i in once}
    found["calibration"] = tuple(
        f"{name} (it has one complete draw)" if name in alone else name
        for name in found["calibration"]
    )
    there = dict.fromkeys((row.k, row.objective) for row in data.rows)
    found["objective"] += tuple(
        f"{objective} at k = {k}"
        for k, objective in sorted(there)
        if (k, objective) not in blocks and str(k) in kept["k"] and objective in kept["objective"]
    )
    return {factor: levels for factor, levels in found.items() if levels}


def _draws_left_out(data: StudyData, calibrations: Ints, units: Ints) -> dict[str, tuple[str, ...]]:
    kept = {data.levels["calibration"][i] for i in calibrations}
    inside = {data.levels["unit"][i] for i in units}
    found = {
        data.levels["unit"][unit]: f"{row.draw} of {row.calibration.name}"
        for unit, row in zip(data.codes["unit"], data.rows, strict=True)
        if row.calibration.name in kept
    }
    left = tuple(words for unit, words in found.items() if unit not in inside)
    return {"draw": left} if left else {}
