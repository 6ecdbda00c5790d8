"""What a study will cost, told before it runs."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from depthprune.calibration import Calibration, calibrate
from depthprune.evaluator.plan import Rehearsal, measure_speed
from depthprune.models.loading import Model, load
from depthprune.objectives import parse_objective
from depthprune.progress import Progress
from depthprune.search import search
from depthprune.study.grid import Cell, Grid


@dataclass(frozen=True)
class Forecast:
    """Block-tokens and head-tokens of all searches, exact, and seconds on this machine."""

    block_tokens: int
    head_tokens: int
    seconds: float


def forecast(grid: Grid, progress: Progress) -> Forecast:
    """Rehearse every search; cells that share a draw and an objective share what is paid for.

    Raises:
        DepthpruneError: If a model or a calibration cannot be read.
    """
    blocks = heads = 0
    seconds = 0.0
    drawn: dict[tuple[str, str], Calibration] = {}
    for name, of_model in itertools.groupby(grid.cells, key=lambda cell: cell.model):
        with progress.step(f"loading {name}", None, ""):
            model = load(grid.place(name), dtype=grid.plan.dtype, device=grid.plan.device)
        speed = None
        groups = itertools.groupby(of_model, key=lambda c: (c.calibration, c.draw, c.objective))
        for (calibrated, _, objective), cells in groups:
            key = (name, calibrated)
            if key not in drawn:
                drawn[key] = calibrate(list(grid.calibrations[calibrated].specs), model)
            speed = speed or measure_speed(model, drawn[key].windows[0])
            rehearsal = _rehearsed(model, drawn[key], objective, list(cells))
            blocks += rehearsal.cost.block_tokens
            heads += rehearsal.cost.head_tokens
        if speed is not None:
            seconds = blocks * speed.block_token + heads * speed.head_token
    return Forecast(blocks, heads, seconds)


def _rehearsed(
    model: Model, calibration: Calibration, objective: str, cells: list[Cell]
) -> Rehearsal:
    rehearsal = Rehearsal.of(model, calibration, parse_objective(objective))
    for cell in cells:
        search(cell.search, rehearsal, k=cell.k, seed=cell.seed)
    return rehearsal
