"""What a recovery is: a change of some weights, and an account of each run of removed blocks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from depthprune.calibration import Calibration
from depthprune.models.blocks.anatomy import Anatomy
from depthprune.models.loading import Model
from depthprune.models.streaming.stream import Stream
from depthprune.recovery.delta import Delta, LowRank, Scaled
from depthprune.recovery.linear.fold import folded, swapped
from depthprune.recovery.linear.fold_target import FoldTarget
from depthprune.recovery.methods import Trained

_REFITTED = 6
"""How often a token is run through a block that is refitted: both models, and four stages."""


@dataclass(frozen=True)
class StudentPoint:
    """What a student was worth after some steps.

    Attributes:
        step: How many.
        trained: Mean loss of the steps since the last point; None before the first.
        choosing: Loss on the windows that choose the best step, nats a token.
        held_out: The same on held-out windows, which decide nothing.
        held_out_nll: The text's own negative log-likelihood there.
    """

    step: int
    trained: float | None
    choosing: float
    held_out: float
    held_out_nll: float


@dataclass(frozen=True)
class RunRecovery:
    """What was done for one run of removed blocks.

    Attributes:
        blocks: The run, original numbers.
        into: The kept block before it; None for a run at the very bottom.
        why_not: Why nothing was changed; None where something was.
        ridge: Of the fit, as a share of the mean square of the mapped activations.
        strength: How much of the fitted change was used, 0 to 1.
        tokens: How many were fitted, those apart left out.
        apart: Tokens with massive activations, among the fitted windows'.
        before: Root mean square, an element, of what the state behind the run lacked against the
            dense model's, on the windows that choose; None where nothing was fitted.
        after: The same with the change.
        factor: By which all below the run was multiplied; None where nothing was.
        rank: How many directions of the width the fitted tokens span; below the width the system
            is singular, and the other directions are left as they are.
    """

    blocks: tuple[int, ...]
    into: int | None
    why_not: str | None = None
    ridge: float | None = None
    strength: float = 0.0
    tokens: int = 0
    apart: int = 0
    before: float | None = None
    after: float | None = None
    rank: int | None = None
    factor: float | None = None


@dataclass(frozen=True)
class LayerRefit:
    """How one linear layer of a kept block was refitted.

    Attributes:
        block: Original number.
        layer: Dotted name of the module in the block.
        writes: Whether it was fitted to what the state behind the block lacked; otherwise to what
            the layer itself gives in the dense model.
        ridge: Of the fit, as a share of the mean square of what the layer is given.
        strength: How much of the fitted change was used, 0 to 1.
        tokens: How many were fitted, those apart left out.
        before: Root mean square, an element, of what was lacking, on the windows that choose.
        after: The same with the change.
        rank: How many directions of its inputs the fitted tokens span.
    """

    block: int
    layer: str
    writes: bool
    ridge: float | None
    strength: float
    tokens: int
    before: float
    after: float
    rank: int


@dataclass(frozen=True)
class Change:
    """T − I for one kept block, and where it is written.

    Attributes:
        target: The block and its weights.
        matrix: T − I, shape (width, width), float64, held by the processor.
    """

    target: FoldTarget
    matrix: Tensor


@dataclass(frozen=True)
class Training:
    """How adapters or the last blocks were trained: see `distil`.

    Attributes:
        settings: What was asked for.
        calibration: What was trained on and chose, the dense model's own text with it.
        points: The curve, from step 0.
        best: The step that was kept; 0 if none was better than no training.
        steps: How many were made.
        stopped: Whether it ended early.
        resumed: The step that the last run went on from.
        parameters: How many numbers were trained.
        tokens: How many were trained on, each as often as it was.
        folder: Where its checkpoints are, or were.
    """

    settings: Trained
    calibration: Calibration
    points: tuple[StudentPoint, ...]
    best: int
    steps: int
    stopped: bool
    resumed: int
    parameters: int
    tokens: int
    folder: Path


@dataclass(frozen=True)
class Recovery:
    """A recovered model: which weights replace which.

    Attributes:
        removed: The removed set.
        runs: What was done for each run, from the bottom up.
        weights: New values of parameters, by their dotted names in the model. A streamed model's
            are held by the processor: of each run one down projection, or its experts', and of each
            block that is refitted its linear layers.
        changes: What those values were made of.
        refits: What was done for each refitted layer, in turn.
        deltas: What refitting added to parameters, or scaled them by, by the same names.
        low_rank: What training added to parameters, likewise.
        training: How it went, if there was any.
        width: Of the hidden state.
    """

    removed: tuple[int, ...]
    runs: tuple[RunRecovery, ...]
    weights: Mapping[str, Tensor] = field(repr=False)
    changes: tuple[Change, ...] = field(default=(), repr=False)
    refits: tuple[LayerRefit, ...] = ()
    deltas: Mapping[str, Delta | Scaled] = field(default_factory=dict, repr=False)
    low_rank: Mapping[str, LowRank] = field(default_factory=dict, repr=False)
    training: Training | None = None
    width: int = 0


@contextmanager
def recovered(model: Model, recovery: Recovery) -> Iterator[None]:
    """A context inside which the model has the recovered weights; afterwards its own again.

    A streamed model is given them whenever it reads their blocks. An evaluator is of the weights
    that it was made with: inside, make another.
    """
    replaced = (
        swapped(model.module, recovery.weights, park=bool(recovery.low_rank))
        if model.stream is None
        else _streamed(model, model.stream, recovery.weights)
    )
    with replaced:
        model.mended.append(recovery.weights)
        try:
            yield
        finally:
            model.mended.pop()


@contextmanager
def _streamed(model: Model, stream: Stream, weights: Mapping[str, Tensor]) -> Iterator[None]:
    """What is read with the blocks is replaced there; what is held, in place."""
    inside = f"{stream.path}."
    blocks = {name: weight for name, weight in weights.items() if name.startswith(inside)}
    outer = {name: weight for name, weight in weights.items() if name not in blocks}
    with swapped(model.module, outer), stream.replacing(model.module, blocks):
        yield


def runs_of(removed: Sequence[int]) -> list[tuple[int, ...]]:
    """Removed blocks as runs of neighbours, from the bottom up."""
    runs: list[tuple[int, ...]] = []
    for block in sorted(removed):
        if runs and runs[-1][-1] == block - 1:
            runs[-1] = (*runs[-1], block)
        else:
            runs.append((block,))
    return runs


def blocks_behind(removed: Sequence[int], blocks: int, count: int) -> tuple[int, ...]:
    """The first kept blocks behind each run of removed ones.

    Args:
        removed: The removed set.
        blocks: Number of the model's blocks.
        count: How many behind each run, as far as there are so many.
    """
    gone = set(removed)
    found: set[int] = set()
    for run in runs_of(removed):
        found |= set([b for b in range(run[-1] + 1, blocks) if b not in gone][:count])
    return tuple(sorted(found))


def block_runs(removed: Sequence[int], reading: int = 0) -> int:
    """How many blocks each token of the calibration is run through, if every run is fitted.

    Args:
        removed: The removed set.
        reading: How many blocks behind gaps are refitted, each counted as often as is usual.
    """
    total, at = _REFITTED * reading, 0
    for run in runs_of(removed):
        below = run[0] - at
        # Up to the first run both models are one; the kept block is run once more to be fitted
        # and once more with its new weights.
        total += len(run) + below * (2 if at else 1) + ((1 if at else 2) if run[0] else 0)
        at = run[-1] + 1
    return total


def new_weights(anatomy: Anatomy, change: Change) -> dict[str, Tensor]:
    """The parameters of one block with a change written into them, by their names in the model.

    The block must have its own weights.
    """
    number = change.target.block
    block = anatomy.blocks.modules[number]
    return {
        f"{anatomy.blocks.path}.{number}.{weight.name}": folded(
            block.get_parameter(weight.name).data, change.matrix, weight.axis
        )
        for weight in change.target.weights
    }
