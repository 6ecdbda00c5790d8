"""The dense and the pruned model walked side by side, and one run of removed blocks mended.

One block at a time over all windows: of each model only the states at one place are held, and of
the activations only sums.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext

from torch import Tensor

from depthprune.errors import CalibrationError, EvaluationError
from depthprune.models.anatomy import Anatomy
from depthprune.models.replay import Inputs
from depthprune.progress import Step
from depthprune.recovery.absorb import Absorber, CannotAbsorbError, find_absorber
from depthprune.recovery.fit import Fit, fit
from depthprune.recovery.fold import swapped
from depthprune.recovery.result import Change, RunRecovery, new_weights
from depthprune.recovery.sums import Sums, wide
from depthprune.recovery.tokens import massive
from depthprune.recovery.windows import Batch


class Walk:
    """The dense and the pruned model, side by side, at the same place."""

    def __init__(self, anatomy: Anatomy, made: Sequence[Batch], shares: Sequence[float]) -> None:
        self.anatomy = anatomy
        self.batches = made
        self.shares = shares
        self.step: Step | None = None
        self.at = 0
        inputs = [anatomy.record(batch.tokens) for batch in made]
        self.dense = [each.states for each in inputs]
        self.pruned = list(self.dense)
        self.width = int(self.dense[0].shape[-1])
        # Only the number of rows is read of it; the states themselves would be held twice.
        self.inputs = [
            Inputs(each.states.new_empty((len(each.states), 0, 0)), each.calls) for each in inputs
        ]

    def pass_run(self, run: tuple[int, ...], stack: ExitStack) -> tuple[RunRecovery, Change | None]:
        """Bring both models behind a run, and the pruned one's weights up to date."""
        into = run[0] - 1
        while self.at < into:
            self._advance_both(self.at)
        before = self.pruned
        for block in range(self.at, run[-1] + 1):
            self.dense = self._through(block, self.dense)
        self.at = run[-1] + 1
        if into < 0:
            reason = "the run is at the very bottom, and no block before it could take its part"
            return RunRecovery(run, None, reason), None
        with _holding(self.anatomy, into):
            try:
                absorber = find_absorber(self.anatomy, into)
            except CannotAbsorbError as error:
                self.pruned = self._through(into, before)
                return RunRecovery(run, into, str(error)), None
            done, change = self._fit(run, before, absorber)
            if change is not None:
                weights = new_weights(self.anatomy, change)
                stack.enter_context(swapped(self.anatomy.module, weights))
            self.pruned = self._through(into, before)
        return done, change

    def _fit(
        self, run: tuple[int, ...], before: list[Tensor], absorber: Absorber
    ) -> tuple[RunRecovery, Change | None]:
        apart = massive(before, self.dense)
        fitted, choosing = self._sums(before, absorber, apart)
        found: Fit = fit(fitted, choosing, self.shares)
        why = None
        if not found.strength:
            why = "on windows that were not fitted no change came nearer to the dense model"
        done = RunRecovery(
            blocks=run,
            into=absorber.block,
            why_not=why,
            ridge=found.ridge if found.strength else None,
            strength=found.strength,
            tokens=fitted.tokens,
            apart=int(sum(a.sum() for a, b in zip(apart, self.batches, strict=True)
                          if not b.chooses)),
            before=found.before,
            after=found.after,
        )  # fmt: skip
        return done, Change(absorber, found.change) if found.strength else None

    def _sums(
        self, before: list[Tensor], absorber: Absorber, apart: list[Tensor]
    ) -> tuple[Sums, list[Sums]]:
        """The sums of the fitted windows, all sources weighted, and of each source's others."""
        into = absorber.block
        device = self.dense[0].device
        fitted = Sums.empty(self.width, device)
        choosing = [Sums.empty(self.width, device) for _ in self.shares]
        counts = [0] * len(self.shares)
        for batch, away in zip(self.batches, apart, strict=True):
            if not batch.chooses:
                counts[batch.part] += int((~away).sum())
        self._refuse_empty(counts)
        module = self.anatomy.blocks.modules[into]
        with absorber.watching(module) as added:
            for place, (batch, away) in enumerate(zip(self.batches, apart, strict=True)):
                output = self._call(into, place, before[place])
                m = added()
                dense = self.dense[place].to(output.device)
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
        self.dense, before = self._through(block, self.dense), self.pruned
        self.pruned = list(self.dense) if shared else self._through(block, before)
        self.at = block + 1

    def _through(self, block: int, states: list[Tensor]) -> list[Tensor]:
        with _holding(self.anatomy, block):
            answers = [self._call(block, place, each) for place, each in enumerate(states)]
        if not all(bool(each.isfinite().all()) for each in answers):
            raise _not_finite(block)
        return answers

    def _call(self, block: int, place: int, states: Tensor) -> Tensor:
        if self.step is not None:
            self.step.advance(self.batches[place].tokens.numel())
        return self.anatomy.call(block, states, self.inputs[place])


def _not_finite(block: int) -> EvaluationError:
    return EvaluationError(
        f"recovery: block {block} gives NaN or infinite activations; load the model with --dtype "
        "float32, and if that does not help, check its weights"
    )


def _holding(anatomy: Anatomy, block: int) -> AbstractContextManager[None]:
    """The block's weights in memory, for a model whose blocks are read when they are needed."""
    holding = getattr(anatomy, "holding", None)
    return nullcontext() if holding is None else holding(block)
