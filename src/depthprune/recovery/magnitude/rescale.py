"""`--recover magnitude`: the state before each gap scaled to the size of the state behind it.

A removed run leaves the state before it where a larger one (as a rule) was expected. With α the
mean of |state| behind the run over that before it, all that writes into the residual stream below
the gap is multiplied by α: embeddings (`outer_scaling`), and in each block what attention and MLP
add (`block_scaling`). Norms make what the blocks read the same as before, so the state before the
gap is α times what it was, and nothing is fitted or trained (Prune&Comp, arXiv 2507.18212).

Sizes alone do not tell whether that helps: behind norms of its own a model may need the direction
of a state more than its size. So a run's scale is kept only if it lowers the loss on the windows
that choose by more than a standard error, which is ours.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from depthprune.calibration import Calibration, require_positions
from depthprune.errors import ModelError
from depthprune.evaluator import Evaluator, RemovedSet, increase
from depthprune.evaluator.memory import host_bytes
from depthprune.evaluator.state_store import StateStore, StoredState
from depthprune.models.blocks.carried import hidden
from depthprune.models.free_memory import available_memory
from depthprune.models.loading import Model
from depthprune.progress import SILENT, Progress
from depthprune.recovery.delta import Scaled
from depthprune.recovery.linear.layerwise_fit import Walk
from depthprune.recovery.linear.massive_activations import massive
from depthprune.recovery.linear.normal_equations import wide
from depthprune.recovery.magnitude.block_scaling import block_scaling
from depthprune.recovery.magnitude.outer_scaling import outer_scaling
from depthprune.recovery.methods import Linear
from depthprune.recovery.recover import call_tokens, refuse_quantized
from depthprune.recovery.result import Recovery, RunRecovery, recovered, runs_of
from depthprune.recovery.splits import FitBatch, batches, choosing
from depthprune.removed_sets import check_removed


@torch.no_grad()
def rescale(
    model: Model,
    removed: Sequence[int],
    calibration: Calibration,
    *,
    progress: Progress = SILENT,
) -> Recovery:
    """Scale what is below each run of removed blocks. The model itself is left as it is.

    Args:
        model: The dense original.
        removed: Original block numbers.
        calibration: On whose windows states are measured (three quarters of each source) and
            scales judged (the rest, by their negative log-likelihood).
        progress: Where the work shows itself.

    Returns:
        The scaled weights, and each run's factor; none where scaling is no gain.

    Raises:
        EvaluationError: If an activation is NaN or infinite.
        ModelError: If the model is quantized, or something cannot be scaled.
        UsageError: If the removed set does not fit the model.
    """
    gone = check_removed(removed, model.blocks)
    refuse_quantized(model)
    require_positions(model, calibration)
    scaling = Scaling(model)
    return _judged(scaling, gone, measured(model, gone, calibration, progress), calibration)


class Scaling:
    """The weights that scale a model's states, each proved once, for any factors.

    Args:
        model: The dense original, which is left as it is.

    Raises:
        ModelError: If its embeddings or its head cannot be scaled.
    """

    def __init__(self, model: Model) -> None:
        self.model = model
        self._outer = outer_scaling(model.anatomy)
        self._blocks: dict[int, Mapping[str, float]] = {}

    @torch.no_grad()
    def by(self, gone: RemovedSet, runs: Sequence[RunRecovery]) -> Recovery:
        """All below each run multiplied by its factor.

        Raises:
            ModelError: If a block below cannot be scaled.
        """
        model, anatomy = self.model, self.model.anatomy
        deltas: dict[str, Scaled] = {}
        weights: dict[str, Tensor] = {}
        kept = [block for block in range(model.blocks) if block not in gone]
        for block, scale in _scales(runs, kept).items():
            if block < 0:
                for name, (offset, divided) in self._outer.items():
                    deltas[name] = Scaled(1 / scale if divided else scale, offset)
                    weights[name] = deltas[name].added_to(model.module.get_parameter(name).data)
                continue
            with anatomy.holding(block):
                for inner, offset in self._offsets(block).items():
                    name = f"{anatomy.blocks.path}.{block}.{inner}"
                    deltas[name] = Scaled(scale, offset)
                    weight = deltas[name].added_to(model.module.get_parameter(name).data)
                    weights[name] = weight.cpu() if anatomy.stream is not None else weight
        return Recovery(gone, tuple(runs), weights, deltas=deltas)

    def _offsets(self, block: int) -> Mapping[str, float]:
        if block not in self._blocks:
            self._blocks[block] = block_scaling(self.model.anatomy, block)
        return self._blocks[block]


def _judged(
    scaling: Scaling, gone: RemovedSet, runs: Sequence[RunRecovery], calibration: Calibration
) -> Recovery:
    """From the bottom up, each run's scale where it lowers the loss on the windows that choose."""
    evaluator = Evaluator(scaling.model, choosing(calibration), "nll")
    best = evaluator.score([gone])[0].require_finite()
    kept = [replace(run, strength=0.0, factor=None) for run in runs]
    for place, run in enumerate(runs):
        tried = [*kept[:place], run, *kept[place + 1 :]]
        context = partial(recovered, scaling.model, scaling.by(gone, tried))
        found = evaluator.score_changed(gone, context)
        above, stderr = increase(found, best)
        # Windows that are too few have no error.
        if above < (-stderr if math.isfinite(stderr) else 0.0):
            kept, best = tried, found
            continue
        why = (
            f"scaling all below by {run.factor:.3f} changes the loss on the windows that choose by "
            f"{above:+.4f} ± {stderr:.4f} nats a token, which is no gain"
        )
        kept[place] = replace(kept[place], why_not=why)
    return scaling.by(gone, kept)


def _scales(runs: Sequence[RunRecovery], kept: Sequence[int]) -> dict[int, float]:
    """What each kept block's additions are multiplied by; -1 stands for the embeddings."""
    scales = {
        block: math.prod(
            run.factor for run in runs if run.factor is not None and block < run.blocks[0]
        )
        for block in (-1, *kept)
    }
    return {block: scale for block, scale in scales.items() if scale != 1.0}


@torch.no_grad()
def measured(
    model: Model, gone: RemovedSet, calibration: Calibration, progress: Progress = SILENT
) -> tuple[RunRecovery, ...]:
    """The factor of each run, from the dense model's states before and behind it.

    Raises:
        EvaluationError: If an activation is NaN or infinite.
        ModelError: If the model has several streams of states.
    """
    shares = [part.share for part in calibration.parts]
    store = StateStore(int(available_memory(torch.device(model.device)) / 2), host_bytes(model))
    made = batches(calibration, call_tokens(model))
    tokens = sum(batch.tokens.numel() for batch in made)
    runs = []
    try:
        walk = Walk(model.anatomy, made, shares, store, Linear(refit="none"))
        if walk.streams:
            raise ModelError(
                "--recover magnitude: the blocks work on several streams of states at once; pass "
                "--recover linear"
            )
        with progress.step("measuring states", tokens * (gone[-1] + 1), "block-tokens") as step:
            walk.step = step
            for run in runs_of(gone):
                walk.pass_dense(run[0])
                before = list(walk.dense)
                walk.pass_dense(run[-1] + 1)
                apart = massive(*((hidden(s.get()) for s in each) for each in (before, walk.dense)))
                weights = walk.weights_of(apart)
                sizes = [_size(states, apart, made, weights) for states in (before, walk.dense)]
                runs.append(
                    RunRecovery(
                        run,
                        run[0] - 1 if run[0] else None,
                        strength=1.0,
                        tokens=sum(int((~away).sum()) for away in apart),
                        apart=sum(int(away.sum()) for away in apart),
                        factor=sizes[1] / sizes[0],
                    )
                )
    finally:
        store.close()
    return tuple(runs)


def _size(
    states: Sequence[StoredState],
    apart: Sequence[Tensor],
    made: Sequence[FitBatch],
    weights: Sequence[float],
) -> float:
    """Mean of |state| over the fitted tokens that are not apart, the sources by their shares."""
    total = 0.0
    for state, away, batch in zip(states, apart, made, strict=True):
        if not batch.chooses:
            rows = wide(hidden(state.get())).flatten(0, -2)
            total += weights[batch.part] * rows[~away.to(rows.device)].abs().mean(-1).sum().item()
    return total
