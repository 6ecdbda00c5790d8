"""What a study will cost, told before it runs.

Searches are rehearsed as they will run, with the plan's protected blocks and budget, and with what
each chosen block does alone; every set counts on every window, so racing takes less. Judging is an
upper bound: which sets will be chosen is not known, so every cell is taken to choose one of its
own, and none to share a block with another's. What finalists are judged on besides is not counted.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from depthprune.calibration import Calibration, Window, calibrate, require_positions
from depthprune.calibration.generated import Rehearsed
from depthprune.evaluator.rehearsal import (
    Rehearsal,
    TokenCosts,
    measure_speed,
)
from depthprune.models.loading import Model, load
from depthprune.objectives import parse_objective
from depthprune.progress import Progress
from depthprune.searches import search
from depthprune.study.estimable import require_items
from depthprune.study.grid import Cell, Grid


@dataclass(frozen=True)
class Spent:
    """Block-tokens and head-tokens, and seconds on this machine."""

    block_tokens: int = 0
    head_tokens: int = 0
    seconds: float = 0.0

    def __add__(self, other: Spent) -> Spent:
        return Spent(
            self.block_tokens + other.block_tokens,
            self.head_tokens + other.head_tokens,
            self.seconds + other.seconds,
        )

    @classmethod
    def at(cls, speed: TokenCosts, block_tokens: int, head_tokens: int) -> Spent:
        """With the seconds that a model of this speed takes."""
        seconds = block_tokens * speed.block_token + head_tokens * speed.head_token
        return cls(block_tokens, head_tokens, seconds)


@dataclass(frozen=True)
class Forecast:
    """What a study costs.

    Attributes:
        searching: All searches, every set on every window.
        judging: The most that judging what they choose can take.
    """

    searching: Spent
    judging: Spent


def forecast(grid: Grid, progress: Progress) -> Forecast:
    """Rehearse every search; cells that share a draw and an objective share what is paid for.

    Raises:
        DepthpruneError: If a model, a calibration or what is judged on cannot be read, or a search
            cannot run there.
    """
    searching, judging = Spent(), Spent()
    for name, cells in itertools.groupby(grid.cells, key=lambda cell: cell.model):
        of_model = list(cells)
        with progress.step(f"loading {name}", None, ""):
            model = load(grid.place(name), dtype=grid.plan.dtype, device=grid.plan.device)
        drawn = {
            each: calibrate(list(grid.calibrations[each].specs), Rehearsed(model))
            for each in dict.fromkeys(cell.calibration for cell in of_model)
        }
        for each in drawn.values():
            require_positions(model, each)
        speed = measure_speed(model, next(iter(drawn.values())).windows)
        searching += _searching(grid, model, speed, drawn, of_model)
        judging += _judging(grid, model, speed, of_model)
    return Forecast(searching, judging)


def _searching(
    grid: Grid,
    model: Model,
    speed: TokenCosts,
    drawn: Mapping[str, Calibration],
    cells: Sequence[Cell],
) -> Spent:
    total = Spent()
    protect, budget = grid.protect, grid.budget
    groups = itertools.groupby(cells, key=lambda c: (c.calibration, c.draw, c.objective))
    for (calibrated, _, objective), of_draw in groups:
        group = list(of_draw)
        rehearsal = Rehearsal.of(model, drawn[calibrated], parse_objective(objective))
        for cell in group:
            rehearsal.forget_asked()
            result = search(
                cell.search,
                rehearsal,
                k=cell.k,
                seed=cell.seed,
                protect=protect,
                budget=budget,
            )
            rehearsal.score([(), *((block,) for block in result.removed)])
        spent = Spent.at(speed, rehearsal.cost.block_tokens, rehearsal.cost.head_tokens)
        if budget is not None and budget.seconds is not None:
            # A rehearsal takes no time, so only the real search meets a limit of time.
            limit = budget.seconds * len(group)
            spent = Spent(spent.block_tokens, spent.head_tokens, min(spent.seconds, limit))
        total += spent
    return total


def _judging(grid: Grid, model: Model, speed: TokenCosts, cells: Sequence[Cell]) -> Spent:
    left = sum(model.blocks - cell.k for cell in cells)
    tokens = scored = 0
    for name, specs in (*grid.texts.items(), *grid.choices.items()):
        split = grid.split_of(specs)
        windows = calibrate(list(specs), Rehearsed(model), split=split).windows
        if name in grid.choices:
            require_items(grid.plan, name, len(windows))
        tokens += sum(map(_tokens, windows))
        scored += sum(int(window.scored.sum()) for window in windows)
    return Spent.at(speed, tokens * left, scored * len(cells))


def _tokens(window: Window) -> int:
    """Of an item the prompt once an option, as where options cannot share it."""
    if window.item is None:
        return len(window.tokens)
    return len(window.tokens) + window.item.spans[0][0] * (len(window.item.spans) - 1)
