"""The dense and the pruned model, walked side by side: both at the same place, on all windows.

Of each model only the states at one place are kept, in a store that memory bounds.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from depthprune.errors import CalibrationError, EvaluationError
from depthprune.evaluator.state_store import StateStore, StoredState
from depthprune.models.blocks.anatomy import Anatomy
from depthprune.models.blocks.carried import State, hidden
from depthprune.models.blocks.replay import Inputs
from depthprune.progress import ProgressStep
from depthprune.recovery.splits import FitBatch


class SideBySide:
    """Both models' states before one block.

    Args:
        anatomy: Of the model.
        made: All windows.
        shares: Weight of each source.
        store: Where states are kept.
    """

    def __init__(
        self,
        anatomy: Anatomy,
        made: Sequence[FitBatch],
        shares: Sequence[float],
        store: StateStore,
    ) -> None:
        self.anatomy = anatomy
        self.store = store
        self.batches = made
        self.shares = shares
        self.step: ProgressStep | None = None
        self.at = 0
        self.dense: list[StoredState] = []
        self.inputs: list[Inputs] = []
        known: list[Tensor] = []
        for batch in made:
            inputs = anatomy.record(batch.tokens)
            states = inputs.states
            self.dense.append(store.put(states))
            self.inputs.append(inputs.lean(known))
        self.pruned = list(self.dense)
        self.streams = hidden(states).dim() > 3
        self.device = hidden(states).device
        self.width = int(hidden(states).shape[-1])

    def along(self, states: Sequence[StoredState], first: int, last: int) -> list[StoredState]:
        """The same states behind some kept blocks, up to `last`, which they are before."""
        moved = list(states)
        for block in range(first, last):
            self.through(block, moved)
        return moved

    def pass_dense(self, block: int) -> None:
        """Bring the dense model alone before a block."""
        while self.at < block:
            self.through(self.at, self.dense)
            self.at += 1

    def weights_of(self, apart: Sequence[Tensor]) -> list[float]:
        """What a fitted token of each source counts.

        Raises:
            CalibrationError: If a source has none that is not apart.
        """
        counts = [0] * len(self.shares)
        for batch, away in zip(self.batches, apart, strict=True):
            if not batch.chooses:
                counts[batch.part] += int((~away).sum())
        if not all(counts):
            raise CalibrationError(
                "recovery: a source has no token without massive activations to fit; give longer "
                "windows, by length="
            )
        return [share / count for share, count in zip(self.shares, counts, strict=True)]

    def fitted_apart(self, apart: Sequence[Tensor]) -> int:
        """How many tokens of the fitted windows are apart."""
        pairs = zip(apart, self.batches, strict=True)
        return int(sum(away.sum() for away, batch in pairs if not batch.chooses))

    def require_finite(self, block: int, *values: Tensor) -> None:
        """Refuse activations that are not finite.

        Raises:
            EvaluationError: Naming the block.
        """
        if not all(value.isfinite().all() for value in values):
            raise _not_finite(block)

    def refitting(self, place: int) -> None:
        """Count a batch that a refit has run through its block."""
        if self.step is not None:
            self.step.advance(self.batches[place].tokens.numel())

    def advance_both(self, block: int) -> None:
        """Bring both models behind a kept block."""
        shared = self.pruned is self.dense or all(
            a is b for a, b in zip(self.pruned, self.dense, strict=True)
        )
        with self.anatomy.holding(block):
            self.through(block, self.dense)
            if shared:
                self.pruned = list(self.dense)
            else:
                self.through(block, self.pruned)
        self.at = block + 1

    def through(self, block: int, states: list[StoredState]) -> None:
        """Bring states behind a block, each in the place of the one before it."""
        with self.anatomy.holding(block):
            for place, each in enumerate(states):
                behind = self.call(block, place, each.get())
                if not hidden(behind).isfinite().all():
                    raise _not_finite(block)
                states[place] = self.store.put(behind)
                del each  # or its room would be held while the next batch looks for some

    def call(self, block: int, place: int, states: State) -> State:
        """Run a batch through a block."""
        if self.step is not None:
            self.step.advance(self.batches[place].tokens.numel())
        return self.anatomy.call(block, states, self.inputs[place])


def _not_finite(block: int) -> EvaluationError:
    return EvaluationError(
        f"recovery: block {block} gives NaN or infinite activations; load the model with --dtype "
        "float32, and if that does not help, check its weights"
    )
