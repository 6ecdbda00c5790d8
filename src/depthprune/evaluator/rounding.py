"""How much of a loss is rounding: measured on a few windows when a run begins.

A search ranks sets by differences of losses, so what counts is by how much rounding changes such a
difference. The losses of the dense model and of two sets that lack one block, in the model's own
dtype and call shapes, are compared with those in float32; of a float32 model, with those of windows
alone in their calls. Over a calibration of N windows the part that falls either way shrinks by √N
and the part that all windows share does not: |mean| + sd / √N, as a share of the loss. Differences
below it are ties, whatever `--tolerance` says. What measuring it costs is no cost of the search.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from depthprune.calibration import Window
from depthprune.errors import EvaluationError, ModelError
from depthprune.evaluator.calls import Calls
from depthprune.evaluator.forward import BatchTooLargeError, Forward
from depthprune.evaluator.losses import Losses
from depthprune.evaluator.prefix_walk import RemovedSet
from depthprune.evaluator.runner import Runner
from depthprune.models.devices import DTYPES
from depthprune.models.widening import is_narrow, widened
from depthprune.progress import SILENT

if TYPE_CHECKING:
    from depthprune.evaluator.batches import Batch

_TOKENS, _WINDOWS = 1024, 4
"""Tokens and windows that are tried, at most; one window in any case."""


@dataclass(frozen=True)
class Rounding:
    """What rounding alone does to losses, on this machine, in this dtype.

    Attributes:
        share: By how much it changes a difference of two sets' losses over the whole calibration,
            as a share of the loss.
        window: By how much it changed one window's loss at most, in the objective's unit.
        against: What it was compared with: `float32`, or `calls of one window`.
        windows: How many were tried.
    """

    share: float
    window: float
    against: str
    windows: int


def measure_rounding(runner: Runner, order: Sequence[int]) -> Rounding | None:
    """Measure it.

    Args:
        runner: What computes the losses of a search.
        order: Which windows come first.

    Returns:
        None where it is not measured: of a streamed model, whose blocks would be read once more,
        or where memory holds no block in float32, or runs out.
    """
    model, windows = runner.model, runner.windows
    if model.streamed:
        return None
    places = _few(windows, order)
    heads = Losses(model, runner.objective, windows, runner.judged)  # whose cost is not counted
    apart = Calls(model, windows, 1, packs=False)
    narrow = is_narrow(DTYPES[model.dtype])
    wide = widened(model.module, model.anatomy.blocks.modules) if narrow else nullcontext()
    try:
        with runner.attention():
            ours = _losses(runner, heads, list(runner.calls.batches(places)))
        with wide:
            theirs = _losses(runner, heads, list(apart.alone(places)))
    except (ModelError, EvaluationError, BatchTooLargeError):
        return None
    against = "float32" if narrow else "calls of one window"
    return _compared(ours, theirs, runner.judged, places, len(windows), against)


def _few(windows: Sequence[Window], order: Sequence[int]) -> list[int]:
    places: list[int] = []
    tokens = 0
    for place in order[:_WINDOWS]:
        tokens += len(windows[place].tokens)
        if places and tokens > _TOKENS:
            break
        places.append(place)
    return places


def _sets(blocks: int) -> list[RemovedSet]:
    """The dense model, and sets that leave it late, so that they share most of its way."""
    return list(dict.fromkeys([(), (blocks // 2,), (max(0, blocks - 2),)]))


def _losses(
    runner: Runner, heads: Losses, batches: list[Batch]
) -> dict[RemovedSet, NDArray[np.float64]]:
    """Each set's losses, shape (components, windows); NaN where nothing was tried."""
    model = runner.model
    sets = _sets(model.blocks)
    losses = {removed: np.full(runner.judged.shape, np.nan) for removed in sets}
    with SILENT.step("", None, "") as step:
        for batch, found in Forward(model, heads, runner.memory).run(batches, sets, step):
            for removed, rows in found.items():
                losses[removed][:, list(batch.places)] = rows
    return losses


def _compared(
    ours: dict[RemovedSet, NDArray[np.float64]],
    theirs: dict[RemovedSet, NDArray[np.float64]],
    judged: NDArray[np.bool_],
    places: Sequence[int],
    windows: int,
    against: str,
) -> Rounding | None:
    share, window = 0.0, 0.0
    for component in range(len(judged)):
        inside = [place for place in places if judged[component, place]]
        errors = {
            removed: (ours[removed] - theirs[removed])[component, inside]
            for removed in ours
            if np.isfinite(ours[removed] - theirs[removed])[component, inside].all()
        }
        if not inside or () not in errors or len(errors) < 2:
            continue
        window = max(window, *(float(np.abs(each).max()) for each in errors.values()))
        for removed in errors:
            scale = float(np.abs(theirs[removed][component, inside]).mean())
            if removed and scale > 0:
                share = max(share, _of_mean(errors[removed] - errors[()], windows) / scale)
    return Rounding(share, window, against, len(places)) if math.isfinite(share) else None


def _of_mean(errors: NDArray[np.float64], windows: int) -> float:
    """What errors of a few windows make of the mean over many."""
    spread = float(errors.std(ddof=1)) if len(errors) > 1 else 0.0
    return abs(float(errors.mean())) + spread / math.sqrt(windows)
