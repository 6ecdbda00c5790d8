"""`dp.recover`: mending, without training, what removing blocks broke.

From the bottom up, for each run of removed blocks: with h the state that the kept block before the
run is given by the pruned model (so that what earlier runs left wrong is corrected too), find T
such that the block's MLP output, mapped by T, makes the state behind it what the dense model's is
behind the run; and write T into the block's down projection. Nothing is added to the model.

Both models are walked side by side, one block at a time, over all windows; of each only the states
at one place are kept (those that memory does not hold, in a file), and of the activations only
sums. So a streamed model reads each block once, and the one before a run once more. The closed form
is least squares, as in ReplaceMe (arXiv 2505.02819); fitting on the pruned model's own states, the
ridge towards the identity and the choice on other windows are ours.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch

from depthprune.calibration import Calibration, require_positions
from depthprune.errors import ModelError
from depthprune.evaluator.memory import host_bytes
from depthprune.evaluator.prefix_walk import RemovedSet
from depthprune.evaluator.state_store import StateStore
from depthprune.models.blocks.carried import hidden
from depthprune.models.free_memory import available_memory
from depthprune.models.loading import Model
from depthprune.progress import SILENT, Progress
from depthprune.recovery.linear.layerwise_fit import FittedBlock, Walk
from depthprune.recovery.linear.write_back import unwritten
from depthprune.recovery.methods import Linear
from depthprune.recovery.result import Recovery, block_runs, blocks_behind, runs_of
from depthprune.recovery.splits import batches, require_enough
from depthprune.removed_sets import check_removed

_CALL_TOKENS = {"cpu": 1024}
_CALL_TOKENS_ELSEWHERE = 16_384
_SHARE = 0.5
"""Of the memory that is free, for the states of both models."""


@torch.no_grad()
def recover(
    model: Model,
    removed: Sequence[int],
    calibration: Calibration,
    method: Linear | None = None,
    *,
    progress: Progress = SILENT,
) -> Recovery:
    """Fit what recovers a model from which blocks are removed. The model itself is left as it is.

    Args:
        model: The dense original.
        removed: Original block numbers.
        calibration: Whose windows are fitted (three quarters of each source) and choose (the
            rest).
        method: What is fitted; the defaults if None.
        progress: Where the work shows itself.

    Returns:
        The new weights, and what was done for each run.

    Raises:
        CalibrationError: If there are too few tokens for the model's width, or one window only, or
            a window is longer than the model has positions for.
        EvaluationError: If an activation is NaN or infinite.
        ModelError: If the model is quantized.
        UsageError: If the removed set does not fit the model, or more blocks are to be refitted
            than it has.
    """
    method = method or Linear()
    reading = blocks_behind(removed, model.blocks, method.behind(model.blocks))
    gone = check_removed(removed, model.blocks)
    with walking(model, calibration, method, reading) as walk:
        return _recovered(walk, gone, progress)


@contextmanager
def walking(
    model: Model, calibration: Calibration, method: Linear, reading: Sequence[int] = ()
) -> Iterator[Walk]:
    """A walk before the first block, whose states may lie in a file until it is left.

    Args:
        model: The dense original.
        calibration: Whose windows are fitted and choose.
        method: What is fitted.
        reading: Kept blocks behind gaps, all of whose layers are refitted.

    Raises:
        DepthpruneError: As `recover` does, before anything is fitted.
    """
    refuse_quantized(model)
    require_positions(model, calibration)
    device = torch.device(model.device)
    made = batches(calibration, call_tokens(model))
    store = StateStore(int(available_memory(device) * _SHARE), host_bytes(model))
    try:
        walk = Walk(model.anatomy, made, [part.share for part in calibration.parts], store,
                    method, reading, partial(unwritten, model))  # fmt: skip
        require_enough(made, calibration, walk.width)
        yield walk
    finally:
        store.close()


def _recovered(walk: Walk, gone: RemovedSet, progress: Progress) -> Recovery:
    """Bring a walk behind all runs and all that is refitted, and keep what recovers each."""
    tokens = sum(batch.tokens.numel() for batch in walk.batches)
    passed: list[FittedBlock] = []
    total = tokens * block_runs(gone, len(walk.reading))
    with progress.step("recovering", total, "block-tokens") as step:
        walk.step = step
        for run in runs_of(gone):
            passed += walk.pass_run(run)
        passed += walk.pass_to(max(walk.reading, default=-1) + 1)
    return recovery_of(walk, passed)


def recovery_of(walk: Walk, passed: Sequence[FittedBlock]) -> Recovery:
    """What was fitted for all runs of a set, from the bottom up, as one recovery."""
    runs = tuple(each.run for each in passed if each.run is not None)
    return Recovery(
        tuple(block for run in runs for block in run.blocks),
        runs,
        {name: weight for each in passed for name, weight in each.weights.items()},
        tuple(each.change for each in passed if each.change is not None),
        refits=tuple(refit for each in passed for refit in each.refits),
        deltas={name: delta for each in passed for name, delta in each.deltas.items()},
        width=walk.width,
    )


def call_tokens(model: Model) -> int:
    """About how many tokens go through a block at a time."""
    return _CALL_TOKENS.get(torch.device(model.device).type, _CALL_TOKENS_ELSEWHERE)


def require_tokens(model: Model, calibration: Calibration) -> None:
    """Refuse a calibration that is too small, as `recover` would, but before anything is spent.

    Raises:
        CalibrationError: Saying how many tokens it takes.
    """
    made = batches(calibration, 1)
    width = int(hidden(model.anatomy.record(made[0].tokens[:1]).states).shape[-1])
    require_enough(made, calibration, width)


def refuse_quantized(model: Model) -> None:
    """Refuse a model whose weights are not plain numbers.

    Raises:
        ModelError: If it is quantized, saying what can be done.
    """
    config: Any = model.module.config
    refuse_quantized_config(model.source.name, config.to_dict())
    if any(not p.is_floating_point() for p in model.module.parameters()):
        raise _quantized(model.source.name)


def refuse_quantized_config(name: str, config: Mapping[str, Any]) -> None:
    """The same, from the config alone, before weights are loaded.

    Raises:
        ModelError: If the config says that the weights are quantized.
    """
    if config.get("quantization_config") or config.get("compression_config"):
        raise _quantized(name)


def _quantized(name: str) -> ModelError:
    return ModelError(
        f"{name}: its weights are quantized, and recovery multiplies them; recover the "
        "unquantized model and quantize the result, or prune without --recover"
    )
