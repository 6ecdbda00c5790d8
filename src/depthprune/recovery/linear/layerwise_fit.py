"""The dense and the pruned model walked side by side, and one run of removed blocks mended.

One block at a time over all windows: of each model only the states at one place are kept, in a
store that memory bounds, and of the activations only sums.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from depthprune.errors import CalibrationError, EvaluationError
from depthprune.evaluator.state_store import StateStore, StoredState
from depthprune.models.blocks.anatomy import Anatomy
from depthprune.models.blocks.carried import State, hidden
from depthprune.models.blocks.replay import Inputs
from depthprune.progress import ProgressStep
from depthprune.recovery.linear.fit import Fit, fit
from depthprune.recovery.linear.fold import swapped
from depthprune.recovery.linear.fold_target import (
    CannotFoldError,
    FoldTarget,
    find_fold_target,
)
from depthprune.recovery.linear.massive_activations import massive
from depthprune.recovery.linear.normal_equations import Sums, wide
from depthprune.recovery.result import Change, RunRecovery, new_weights
from depthprune.recovery.splits import FitBatch


@dataclass(frozen=True)
class RunFit:
    """What was done for a run, and what it changed.

    Attributes:
        done: In words and numbers.
        change: The map, if there is one.
        weights: The parameters with the map in them, by dotted name in the model.
    """

    done: RunRecovery
    change: Change | None = None
    weights: dict[str, Tensor] = field(default_factory=dict)


class Walk:
    """The dense and the pruned model, side by side, at the same place."""

    def __init__(
        self, anatomy: Anatomy, made: Sequence[FitBatch], shares: Sequence[float], store: StateStore
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

    def pass_run(self, run: tuple[int, ...]) -> RunFit:
        """Bring both models behind a run, the pruned one with what recovers it."""
        into = run[0] - 1
        while self.at < into:
            self._advance_both(self.at)
        for block in range(self.at, run[-1] + 1):
            self._through(block, self.dense)
        self.at = run[-1] + 1
        if into < 0:
            reason = "the run is at the very bottom, and no block before it could take its part"
            return RunFit(RunRecovery(run, None, reason))
        with self.anatomy.holding(into):
            passed = self._mended(run)
            with swapped(self.anatomy.module, passed.weights):
                self._through(into, self.pruned)
        return passed

    def _mended(self, run: tuple[int, ...]) -> RunFit:
        """What recovers a run, found while the block before it is held."""
        into = run[0] - 1
        try:
            if self.streams:
                raise CannotFoldError(f"block {into} works on several streams of states at once")
            target = find_fold_target(self.anatomy, into)
        except CannotFoldError as error:
            return RunFit(RunRecovery(run, into, str(error)))
        done, change = self._fit(run, target)
        if change is None:
            return RunFit(done)
        weights = new_weights(self.anatomy, change)
        if self.anatomy.stream is not None:
            weights = {name: weight.cpu() for name, weight in weights.items()}
        return RunFit(done, change, weights)

    def _fit(self, run: tuple[int, ...], target: FoldTarget) -> tuple[RunRecovery, Change | None]:
        apart = massive(*((hidden(s.get()) for s in each) for each in (self.pruned, self.dense)))
        fitted, choosing = self._sums(target, apart)
        found: Fit = fit(fitted, choosing, self.shares)
        why = None
        if not found.rank:
            why = f"the system is singular: the MLP of block {target.block} adds nothing to map"
        elif not found.strength:
            why = "on windows that were not fitted no change came nearer to the dense model"
        done = RunRecovery(
            blocks=run,
            into=target.block,
            why_not=why,
            ridge=found.ridge if found.strength else None,
            strength=found.strength,
            tokens=fitted.tokens,
            rank=found.rank,
            apart=int(sum(a.sum() for a, b in zip(apart, self.batches, strict=True)
                          if not b.chooses)),
            before=found.before,
            after=found.after,
        )  # fmt: skip
        return done, Change(target, found.change.cpu()) if found.strength else None

    def _sums(self, target: FoldTarget, apart: list[Tensor]) -> tuple[Sums, list[Sums]]:
        """The sums of the fitted windows, all sources weighted, and of each source's others."""
        into = target.block
        fitted = Sums.empty(self.width, self.device)
        choosing = [Sums.empty(self.width, self.device) for _ in self.shares]
        counts = [0] * len(self.shares)
        for batch, away in zip(self.batches, apart, strict=True):
            if not batch.chooses:
                counts[batch.part] += int((~away).sum())
        self._refuse_empty(counts)
        module = self.anatomy.blocks.modules[into]
        with target.watching(module) as added:
            for place, (batch, away) in enumerate(zip(self.batches, apart, strict=True)):
                output = hidden(self._call(into, place, self.pruned[place].get()))
                m = added()
                dense = hidden(self.dense[place].get()).to(output.device)
                e = (wide(dense) - wide(output)).flatten(0, -2)
                if not (m.isfinite().all() and e.isfinite().all()):
                    raise _not_finite(into)
                if batch.chooses:
                    choosing[batch.part].add(m[~away], e[~away])
                else:
                    weight = self.shares[batch.part] / counts[batch.part]
                    fitted.add(m[~away], e[~away], weight)
                    fitted.hold(m[away], weight)
        return fitted, choosing

    def _refuse_empty(self, counts: Sequence[int]) -> None:
        if not all(counts):
            raise CalibrationError(
                "recovery: a source has no token without massive activations to fit; give longer "
                "windows, by length="
            )

    def _advance_both(self, block: int) -> None:
        shared = self.pruned is self.dense or all(
            a is b for a, b in zip(self.pruned, self.dense, strict=True)
        )
        with self.anatomy.holding(block):
            self._through(block, self.dense)
            if shared:
                self.pruned = list(self.dense)
            else:
                self._through(block, self.pruned)
        self.at = block + 1

    def _through(self, block: int, states: list[StoredState]) -> None:
        """Bring states behind a block, each in the place of the one before it."""
        with self.anatomy.holding(block):
            for place, each in enumerate(states):
                behind = self._call(block, place, each.get())
                if not hidden(behind).isfinite().all():
                    raise _not_finite(block)
                states[place] = self.store.put(behind)
                del each  # or its room would be held while the next batch looks for some

    def _call(self, block: int, place: int, states: State) -> State:
        if self.step is not None:
            self.step.advance(self.batches[place].tokens.numel())
        return self.anatomy.call(block, states, self.inputs[place])


def _not_finite(block: int) -> EvaluationError:
    return EvaluationError(
        f"recovery: block {block} gives NaN or infinite activations; load the model with --dtype "
        "float32, and if that does not help, check its weights"
    )
