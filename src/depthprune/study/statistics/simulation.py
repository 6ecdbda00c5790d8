"""Simulated cores: tables whose effects, noise and faults are planted.

They say what a design can show before it is run, and hold the statistics to what they promise:
`benchmarks/study_statistics.py` counts on them how often intervals cover and how often
noise is claimed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from depthprune.study.statistics.core import Core
from depthprune.study.statistics.data import ITEM_GROUPS, Floats, Ints, Response


@dataclass(frozen=True)
class Design:
    """A balanced study, and what is planted in its tables.

    Attributes:
        calibrations: How many.
        draws: Of each.
        searches: How many.
        sizes: How many k.
        objectives: How many.
        responses: How many, of one kind.
        luck: Standard deviation of what all cells of a draw share.
        own: Of what a cell has to itself.
        texts: Of what a cell's responses do not share.
        calibration: Standard deviation of the calibrations' level means.
        search: Of the searches'.
        together: Of what a calibration and a search do together.
        spread: The luck and own of each calibration are times this; None for 1.
        items: How many each response is judged on; 0 where results by item are not kept.
        item: Standard deviation of what a single item makes of a calibration and a search.
        item_own: Of what it makes of one draw's cells under a search, beside that.
        outlier: What one draw's cells (`draw`) or one cell (`cell`) are off by, in standard
            deviations of the luck.
    """

    calibrations: int = 5
    draws: int = 6
    searches: int = 3
    sizes: int = 2
    objectives: int = 2
    responses: int = 4
    luck: float = 1.0
    own: float = 0.5
    texts: float = 0.3
    calibration: float = 0.0
    search: float = 0.0
    together: float = 0.0
    items: int = 0
    item: float = 2.0
    item_own: float = 0.0
    spread: tuple[float, ...] | None = None
    outlier: tuple[str, float] | None = None

    def means(self, rng: np.random.Generator) -> Floats:
        """Level means, shape (calibrations, searches), with exactly the planted spread.

        Args:
            rng: Of the levels.
        """
        a = _spread(rng.standard_normal((self.calibrations, 1)), self.calibration)
        b = _spread(rng.standard_normal((1, self.searches)), self.search)
        both = rng.standard_normal((self.calibrations, self.searches))
        both -= both.mean(0) + both.mean(1, keepdims=True) - both.mean()
        return a + b + _spread(both, self.together)

    def core(self, rng: np.random.Generator, means: Floats | None = None) -> Core:
        """One table.

        Args:
            rng: Of the noise.
            means: By `means`; drawn anew by default.
        """
        shape = (self.searches, self.sizes * self.objectives, self.responses)
        units = self.calibrations * self.draws
        calibration = np.repeat(np.arange(self.calibrations), self.draws)
        scale = np.ones(self.calibrations) if self.spread is None else np.asarray(self.spread)
        values = self.luck * rng.standard_normal((units, 1, 1, 1))
        values = values + self.own * rng.standard_normal((units, *shape[:2], 1))
        values = values + self.texts * rng.standard_normal((units, *shape))
        values *= scale[calibration][:, None, None, None]
        if self.outlier is not None:
            what, size = self.outlier
            draw = int(rng.integers(units))
            cells = slice(None) if what == "draw" else int(rng.integers(self.searches))
            values[draw, cells] += size * self.luck
        means = self.means(rng) if means is None else means
        values += means[calibration][:, :, None, None]
        without = None
        if self.items:
            by_item = self._items(rng, calibration)[:, :, None]
            groups = np.array_split(np.arange(self.items), min(self.items, ITEM_GROUPS))
            total = by_item.sum(axis=-1)
            without = np.stack(
                [
                    values + (total - by_item[..., left].sum(axis=-1)) / (self.items - len(left))
                    for left in groups
                ]
            )
            values = values + by_item.mean(axis=-1)
        names = tuple(f"source {i}" for i in range(self.calibrations))
        return Core(
            values=3.5 + 0.05 * values,
            calibration=calibration,
            calibrations=names,
            sources=names,
            searches=tuple(f"search {i}" for i in range(self.searches)),
            blocks=tuple(
                (k, f"objective {o}") for k in range(self.sizes) for o in range(self.objectives)
            ),
            responses=tuple(Response(f"text {i}", "perplexity") for i in range(self.responses)),
            cells=np.arange(units * shape[0] * shape[1]),
            left_out={},
            without_items=None if without is None else 3.5 + 0.05 * without,
        )

    def _items(self, rng: np.random.Generator, calibration: Ints) -> Floats:
        """What each item makes of each draw and search."""
        shape = (self.searches, self.responses, self.items)
        found: Floats = self.item * rng.standard_normal((self.calibrations, *shape))[calibration]
        if self.item_own:
            found = found + self.item_own * rng.standard_normal((len(calibration), *shape))
        return found


def _spread(values: Floats, size: float) -> Floats:
    found = float(values.std(ddof=1)) if values.size > 1 else 0.0
    scaled: Floats = values * (size / found) if found else np.zeros_like(values)
    return scaled
