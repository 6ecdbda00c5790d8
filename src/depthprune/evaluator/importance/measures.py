"""The measurements of the dense model that rank its blocks in one pass, by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from depthprune.calibration import Calibration
from depthprune.errors import unknown
from depthprune.evaluator.batches import Batch
from depthprune.evaluator.importance.passes import Importance, WeightedBatch
from depthprune.evaluator.importance.states import angular, block_influence, relative_magnitude
from depthprune.evaluator.importance.taylor import RUNS, taylor
from depthprune.evaluator.score import Weighting
from depthprune.evaluator.state_store import StateStore
from depthprune.models.loading import Model

MEASURES: dict[str, Callable[[Model, Sequence[WeightedBatch], StateStore], Importance]] = {
    "block-influence": block_influence,
    "relative-magnitude": relative_magnitude,
    "angular": angular,
    "taylor": taylor,
}
"""The measurements by name."""


def runs_of(name: str) -> int:
    """How often each block is run on each token for a measurement, or takes as long."""
    return RUNS if name == "taylor" else 1


def measure(
    model: Model,
    calibration: Calibration,
    name: str,
    batches: Iterable[Batch],
    memory: int | None = None,
) -> Importance:
    """Measure the dense model on a calibration.

    Args:
        model: The model.
        calibration: Its windows are run once.
        name: One of `MEASURES`.
        batches: All windows, laid out; the states behind every block are held for one batch, or for
            all where blocks are read from disk.
        memory: Bytes of states that may be held then; None for no limit.

    Raises:
        ModelError: If it takes gradients, and the model is streamed.
        UsageError: If there is no such measurement.
    """
    if name not in MEASURES:
        raise unknown("measurement", name, MEASURES)
    windows = calibration.windows
    weights = Weighting.of(calibration).weights()
    store = StateStore(memory if model.streamed else None)
    try:
        return MEASURES[name](model, [WeightedBatch(s, weights, windows) for s in batches], store)
    finally:
        store.close()
