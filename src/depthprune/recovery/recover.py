"""`dp.recover`: mending, without training, what removing blocks broke.

From the bottom up, for each run of removed blocks: with h the state that the kept block before the
run is given by the pruned model (so that what earlier runs left wrong is corrected too), find T
such that the block's MLP output, mapped by T, makes the state behind it what the dense model's is
behind the run; and write T into the block's down projection. Nothing is added to the model.

Both models are walked side by side, one block at a time, over all windows; of each only the states
at one place are held, and of the activations only sums. The closed form is least squares, as in
ReplaceMe (arXiv 2505.02819); fitting on the pruned model's own states, the ridge towards the
identity and the choice on other windows are ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from depthprune.calibration import Calibration
from depthprune.errors import CalibrationError, EvaluationError, ModelError
from depthprune.models.anatomy import Anatomy
from depthprune.models.loading import Model
from depthprune.models.removal import check_removed
from depthprune.models.replay import Inputs
from depthprune.progress import SILENT, Progress, Step
from depthprune.recovery.absorb import Absorber, CannotAbsorbError, find_absorber
from depthprune.recovery.fit import Fit, fit
from depthprune.recovery.fold import folded, swapped
from depthprune.recovery.sums import Sums
from depthprune.recovery.tokens import massive
from depthprune.recovery.windows import Batch, batches, require_enough

_CALL_TOKENS = {"cpu": 1024}
_CALL_TOKENS_ELSEWHERE = 16_384


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


@dataclass(frozen=True)
class Change:
    """T − I for one kept block, and where it is written.

    Attributes:
        absorber: The block and its weights.
        matrix: T − I, shape (width, width), float64.
    """

    absorber: Absorber
    matrix: Tensor


@dataclass(frozen=True)
class Recovery:
    """A recovered model: which weights replace which.

    Attributes:
        removed: The removed set.
        runs: What was done for each run, from the bottom up.
        weights: New values of parameters, by their dotted names in the model.
        changes: What those values were made of.
    """

    removed: tuple[int, ...]
    runs: tuple[RunRecovery, ...]
    weights: Mapping[str, Tensor]
    changes: tuple[Change, ...] = field(default=(), repr=False)


def recovered(model: Model, recovery: Recovery) -> AbstractContextManager[None]:
    """A context inside which the model has the recovered weights; afterwards its own again."""
    return swapped(model.module, recovery.weights)


@torch.no_grad()
def recover(
    model: Model,
    removed: Sequence[int],
    calibration: Calibration,
    *,
    progress: Progress = SILENT,
) -> Recovery:
    """Fit what recovers a model from which blocks are removed. The model itself is left as it is.

    Args:
        model: The dense original.
        removed: Original block numbers.
        calibration: Whose windows are fitted (three quarters of each source) and choose (the
            rest).
        progress: Where the work shows itself.

    Returns:
        The new weights, and what was done for each run.

    Raises:
        CalibrationError: If there are too few tokens for the model's width, or one window only.
        EvaluationError: If an activation is NaN or infinite.
        ModelError: If the model is quantized.
        UsageError: If the removed set does not fit the model.
    """
    gone = check_removed(removed, model.blocks)
    refuse_quantized(model)
    device = torch.device(model.device).type
    made = batches(calibration, _CALL_TOKENS.get(device, _CALL_TOKENS_ELSEWHERE))
    walk = _Walk(model.anatomy, made, [part.share for part in calibration.parts])
    require_enough(made, calibration, walk.width)
    tokens = sum(batch.tokens.numel() for batch in made)
    runs: list[RunRecovery] = []
    changes: list[Change] = []
    weights: dict[str, Tensor] = {}
    with (
        progress.step("recovering", tokens * block_runs(gone), "block-tokens") as step,
        ExitStack() as stack,
    ):
        walk.step = step
        for run in runs_of(gone):
            done, change = walk.pass_run(run, stack)
            runs.append(done)
            if change is not None:
                changes.append(change)
    for change in changes:
        weights |= new_weights(model.anatomy, change)
    return Recovery(gone, tuple(runs), weights, tuple(changes))


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


def runs_of(removed: Sequence[int]) -> list[tuple[int, ...]]:
    """Removed blocks as runs of neighbours, from the bottom up."""
    runs: list[tuple[int, ...]] = []
    for block in sorted(removed):
        if runs and runs[-1][-1] == block - 1:
            runs[-1] = (*runs[-1], block)
        else:
            runs.append((block,))
    return runs


def block_runs(removed: Sequence[int]) -> int:
    """How many blocks each token of the calibration is run through, if every run is fitted."""
    total, at = 0, 0
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
    number = change.absorber.block
    block = anatomy.blocks.modules[number]
    return {
        f"{anatomy.blocks.path}.{number}.{weight.name}": folded(
            block.get_parameter(weight.name).data, change.matrix, weight.axis
        )
        for weight in change.absorber.weights
    }


class _Walk:
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
                e = (self.dense[place].double() - output.double()).flatten(0, -2)
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
