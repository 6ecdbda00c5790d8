"""The dense and the pruned model walked side by side, and one run of removed blocks recovered.

One block at a time over all windows: of each model only the states at one place are kept (of the
dense one, where readers are refitted, those before the block besides), in a store that memory
bounds, and of the activations only sums.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from torch import Tensor

from depthprune.evaluator.state_store import StateStore, StoredState
from depthprune.models.blocks.anatomy import Anatomy
from depthprune.models.blocks.carried import hidden
from depthprune.recovery.delta import Delta
from depthprune.recovery.linear.fit import Fit, fit
from depthprune.recovery.linear.fold import swapped
from depthprune.recovery.linear.fold_target import (
    CannotFoldError,
    FoldTarget,
    find_fold_target,
)
from depthprune.recovery.linear.massive_activations import massive
from depthprune.recovery.linear.normal_equations import Sums, wide
from depthprune.recovery.linear.refit import BlockRefit
from depthprune.recovery.linear.side_by_side import SideBySide
from depthprune.recovery.linear.stages import Stage, find_stages
from depthprune.recovery.methods import Linear
from depthprune.recovery.result import Change, LayerRefit, RunRecovery, new_weights
from depthprune.recovery.splits import FitBatch

T = TypeVar("T")


@dataclass
class FittedBlock:
    """What was done for a run or behind it, and what it changed.

    Attributes:
        run: What was done for the run; None for a block behind one.
        change: The map of what the kept block adds, if there is one.
        refits: What was done for each refitted layer.
        weights: New values of parameters, by dotted name in the model.
        deltas: What refitting added to parameters, by the same names.
    """

    run: RunRecovery | None = None
    change: Change | None = None
    refits: list[LayerRefit] = field(default_factory=list)
    weights: dict[str, Tensor] = field(default_factory=dict)
    deltas: dict[str, Delta] = field(default_factory=dict)


class Walk(SideBySide):
    """Both models, the pruned one with what recovers it.

    Args:
        anatomy: Of the model.
        made: All windows.
        shares: Weight of each source.
        store: Where states are kept.
        method: What is fitted.
        reading: Kept blocks behind gaps, all of whose layers are refitted.
        unwritten: Says which of a block's parameters no checkpoint could be given; they are left
            as they are.
    """

    def __init__(
        self,
        anatomy: Anatomy,
        made: Sequence[FitBatch],
        shares: Sequence[float],
        store: StateStore,
        method: Linear,
        reading: Sequence[int] = (),
        unwritten: Callable[[int, Collection[str]], Collection[str]] = lambda _, __: (),
    ) -> None:
        super().__init__(anatomy, made, shares, store)
        self.unwritten = unwritten
        self.method = method
        self.reading = frozenset(reading)

    def pass_run(self, run: tuple[int, ...]) -> list[FittedBlock]:
        """Bring both models behind a run, the pruned one with what recovers it."""
        into = run[0] - 1
        passed = self.pass_to(into)
        if into >= 0:
            return [*passed, self._fit_block(into, run)]
        for block in run:
            self.through(block, self.dense)
        self.at = run[-1] + 1
        return [*passed, _at_the_bottom(run)]

    def branch(
        self, run: tuple[int, ...], states: Sequence[StoredState], behind: Sequence[StoredState]
    ) -> tuple[FittedBlock, list[StoredState]]:
        """Fit what writes before a run, from wherever both models were last.

        Args:
            run: Removed blocks.
            states: The pruned model's before the kept block below the run.
            behind: The dense model's behind the run.

        Returns:
            What was fitted, and the pruned model's states behind the run.
        """
        if run[0] == 0:
            return _at_the_bottom(run), list(states)
        self.pruned, self.dense = list(states), list(behind)
        with self.anatomy.holding(run[0] - 1):
            fitted = self._refitted(run[0] - 1, run, None)
        return fitted, self.pruned

    def pass_to(self, block: int) -> list[FittedBlock]:
        """Bring both models before a block."""
        passed = []
        while self.at < block:
            if self.at in self.reading:
                passed.append(self._fit_block(self.at))
            else:
                self.advance_both(self.at)
        return passed

    def _fit_block(self, block: int, run: tuple[int, ...] = ()) -> FittedBlock:
        """Bring both models behind a kept block, the dense one behind a run besides."""
        before = list(self.dense) if block in self.reading else None
        if not run:
            with self.anatomy.holding(block):
                self.through(block, self.dense)
                return self._refitted(block, run, before)
        for each in (block, *run):
            self.through(each, self.dense)
        with self.anatomy.holding(block):
            return self._refitted(block, run, before)

    def _refitted(
        self, block: int, run: tuple[int, ...], before: Sequence[StoredState] | None
    ) -> FittedBlock:
        """Refit a block that is held, and bring the pruned model behind it."""
        fitted = FittedBlock()
        target, why = self._target(block)
        stages = self._stages(block, target, reads=before is not None, ends=bool(run))
        if stages:
            refit = BlockRefit(self, block, self._apart(), before, self.dense)
            for stage in stages:
                refit.refit(stage)
            fitted.refits = refit.done
            fitted.deltas = self._named(block, refit.deltas)
            fitted.weights = self._named(block, refit.values)
            if run and _covers(stages[-1], target):
                fitted.run = _as_run(run, refit, stages[-1])
        if run and fitted.run is None:
            fitted.run = RunRecovery(run, block, why)
            if target is not None:
                with swapped(self.anatomy.module, fitted.weights):
                    fitted.run, fitted.change = self._fit(run, target)
            if fitted.change is not None:
                fitted.weights |= new_weights(self.anatomy, fitted.change)
        self.at = (run[-1] if run else block) + 1
        with swapped(self.anatomy.module, fitted.weights):
            self.through(block, self.pruned)
        if self.anatomy.stream is not None:
            fitted.weights = {name: weight.cpu() for name, weight in fitted.weights.items()}
        return fitted

    def _target(self, block: int) -> tuple[FoldTarget | None, str | None]:
        """What a map of what a block adds last would be written into, or why there is nothing."""
        if self.streams:
            return None, f"block {block} works on several streams of states at once"
        try:
            return find_fold_target(self.anatomy, block), None
        except CannotFoldError as error:
            return None, str(error)

    def _stages(
        self, block: int, target: FoldTarget | None, *, reads: bool, ends: bool
    ) -> list[Stage]:
        """What is refitted of a block, in turn: all of it, or what it adds last alone."""
        if self.streams:
            return []
        stages = find_stages(self.anatomy, block, target.terms if target else ())
        mapped = {weight.name for weight in target.weights} if target and ends else set()

        def wanted(stage: Stage) -> bool:
            last = ends and stage is stages[-1] and _covers(stage, target)
            if last:
                return self.method.fit == "inputs" or stage.norm is not None
            if mapped & {layer.weight for layer in stage.layers}:
                return False
            return reads or (stage.scale is not None and self.method.refit != "none")

        chosen = [stage for stage in stages if wanted(stage)]
        names = {name for stage in chosen for name in stage.weights}
        fixed = set(self.unwritten(block, names)) if names else set()
        chosen = [left for stage in chosen if (left := stage.without(fixed)) is not None]
        # What attention and MLP add is solved for together, by turns: the MLP answers to attention.
        together = not reads and len(chosen) > 1 and chosen[-1] is stages[-1]
        return [chosen[-1], *chosen] if together else chosen

    def _named(self, block: int, values: Mapping[str, T]) -> dict[str, T]:
        """The same by dotted names in the model."""
        return {f"{self.anatomy.blocks.path}.{block}.{name}": v for name, v in values.items()}

    def _apart(self) -> list[Tensor]:
        return massive(*((hidden(s.get()) for s in each) for each in (self.pruned, self.dense)))

    def _fit(self, run: tuple[int, ...], target: FoldTarget) -> tuple[RunRecovery, Change | None]:
        apart = self._apart()
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
            tokens=sum(each.tokens for each in fitted),
            rank=found.rank,
            apart=self.fitted_apart(apart),
            before=found.before,
            after=found.after,
        )
        return done, Change(target, found.change.cpu()) if found.strength else None

    def _sums(self, target: FoldTarget, apart: list[Tensor]) -> tuple[list[Sums], list[Sums]]:
        """The sums of the fitted windows, and of the others, each source apart."""
        into = target.block
        fitted, choosing = (
            [Sums.empty(self.width, self.device) for _ in self.shares] for _ in (0, 1)
        )
        weights = self.weights_of(apart)
        module = self.anatomy.blocks.modules[into]
        with target.watching(module) as added:
            for place, (batch, away) in enumerate(zip(self.batches, apart, strict=True)):
                output = hidden(self.call(into, place, self.pruned[place].get()))
                m = added()
                dense = hidden(self.dense[place].get()).to(output.device)
                e = (wide(dense) - wide(output)).flatten(0, -2)
                self.require_finite(into, m, e)
                if batch.chooses:
                    choosing[batch.part].add(m[~away], e[~away])
                else:
                    weight = weights[batch.part]
                    fitted[batch.part].add(m[~away], e[~away], weight)
                    fitted[batch.part].hold(m[away], weight)
        return fitted, choosing


def _at_the_bottom(run: tuple[int, ...]) -> FittedBlock:
    reason = "the run is at the very bottom, and no block before it could take its part"
    return FittedBlock(RunRecovery(run, None, reason))


def _covers(stage: Stage, target: FoldTarget | None) -> bool:
    """Whether a stage is all that a block adds last."""
    if stage.scale is None:
        return False
    (layer,) = stage.layers
    own = {layer.weight, f"{layer.module}.bias"}
    return target is None or {weight.name for weight in target.weights} <= own


def _as_run(run: tuple[int, ...], refit: BlockRefit, stage: Stage) -> RunRecovery:
    """What was done for a run by the layers that write in the block before it."""
    done = refit.done[-1]
    writers = [each for each in refit.done if each.writes]
    changed = [each for each in writers if each.strength]
    why = None
    if not done.rank:
        why = f"the system is singular: {done.layer} of block {done.block} is given zeros alone"
    elif not changed:
        why = "on windows that were not fitted no change came nearer to the dense model"
    # Behind a norm, what a layer lacks is no state.
    scale = None if stage.norm is not None else abs(stage.scale or 1.0)
    told = max(writers, key=lambda each: each.strength)
    return RunRecovery(
        blocks=run,
        into=done.block,
        why_not=why,
        ridge=told.ridge,
        strength=told.strength,
        tokens=done.tokens,
        apart=refit.apart,
        before=None if scale is None else scale * writers[0].before,
        after=None if scale is None else scale * done.after,
        rank=done.rank,
    )
