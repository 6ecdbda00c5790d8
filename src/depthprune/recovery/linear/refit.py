"""Refitting the linear layers of one block, stage by stage, on what the pruned model feeds in.

A reader is refitted to give what it gives in the dense model on the dense model's states; a writer,
to add what the state behind the block lacks. Each stage is fitted with the stages before it already
changed, so what they left wrong is corrected too. A writer with an RMS norm behind it is refitted
together with that (`behind_norm.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from depthprune.errors import ModelError
from depthprune.evaluator.state_store import StoredState
from depthprune.models.blocks.carried import State, hidden
from depthprune.models.devices import wide_place
from depthprune.models.free_memory import available_memory
from depthprune.recovery.delta import Delta
from depthprune.recovery.linear.behind_norm import NormedRows, fit_normed
from depthprune.recovery.linear.fit import fit_layers
from depthprune.recovery.linear.fold import swapped
from depthprune.recovery.linear.normal_equations import Sums, wide
from depthprune.recovery.linear.side_by_side import SideBySide
from depthprune.recovery.linear.stages import Layer, Norm, Stage
from depthprune.recovery.result import LayerRefit

Rows = tuple[Tensor, Tensor]
"""For some tokens what a stage is given, and what its outputs lack, both float64."""


class _Enough(Exception):
    """What a stage gives has been seen; the rest of the block need not run."""


class BlockRefit:
    """One block's stages, refitted in turn.

    Args:
        walk: Where both models are, before the block.
        block: Original number; its weights must be in memory.
        apart: Which tokens are left as they are, one tensor a batch.
        before: The dense model's states before the block; None where no reader is refitted.
        behind: The dense model's states that the block's writers are to reach.
    """

    def __init__(
        self,
        walk: SideBySide,
        block: int,
        apart: Sequence[Tensor],
        before: Sequence[StoredState] | None,
        behind: Sequence[StoredState],
    ) -> None:
        self._walk = walk
        self._block = block
        self._apart = apart
        self._weights = walk.weights_of(apart)
        self._before = before
        self._behind = behind
        self.apart = walk.fitted_apart(apart)
        self._module = walk.anatomy.blocks.modules[block]
        self.values: dict[str, Tensor] = {}
        self.deltas: dict[str, Delta] = {}
        self.done: list[LayerRefit] = []

    def refit(self, stage: Stage) -> None:
        """Refit a stage's layers; what was done for each is kept in `done`."""
        if stage.norm is not None:
            self._refit_normed(stage, stage.norm)
            return
        fitted, choosing = self._sums(stage)
        outputs = [layer.outputs for layer in stage.layers]
        made = fit_layers(fitted, choosing, self._walk.shares, outputs)
        for layer, found in zip(stage.layers, made, strict=True):
            if found.strength:
                self._change(layer, found.change)
            self.done.append(
                LayerRefit(
                    block=self._block,
                    layer=layer.module,
                    writes=stage.scale is not None,
                    ridge=found.ridge if found.strength else None,
                    strength=found.strength,
                    tokens=sum(each.tokens for each in fitted),
                    before=found.before,
                    after=found.after,
                    rank=found.rank,
                )
            )

    def _refit_normed(self, stage: Stage, norm: Norm) -> None:
        (layer,) = stage.layers
        self._require_room(layer, layer.inputs, layer.outputs)
        name = f"{norm.module}.weight"
        own = wide(self._module.get_parameter(name).data)
        offset = round((norm.gain.to(own) - own).mean().item())
        rows = partial(self._normed_rows, stage)
        gain = wide(self._now(name)) + offset
        found = fit_normed(rows, layer.inputs, self._walk.shares, gain)
        if found.kept:
            across = found.turn if layer.turned else found.turn[:, None]
            change = found.fit.change.T if layer.turned else found.fit.change
            self._replace(layer.weight, across * wide(self._now(layer.weight)) + change)
            if (bias := f"{layer.module}.bias") in dict(self._module.named_parameters()):
                self._replace(bias, found.turn * wide(self._now(bias)))
            self._replace(name, found.gain - offset)
        self.done.append(
            LayerRefit(
                block=self._block,
                layer=layer.module,
                writes=True,
                ridge=found.fit.ridge if found.kept else None,
                strength=found.fit.strength if found.kept else 0.0,
                tokens=found.tokens,
                before=found.fit.before,
                after=found.fit.after if found.kept else found.fit.before,
                rank=found.fit.rank,
            )
        )

    def _normed_rows(self, stage: Stage) -> Iterator[NormedRows]:
        """All tokens at a writer with a norm behind it, a batch at a time."""
        walk = self._walk
        for place, (batch, apart) in enumerate(zip(walk.batches, self._apart, strict=True)):
            pruned = walk.pruned[place].get()
            with swapped(self._module, self.values):
                given, (output,), rest = self._watched(stage, place, pruned, early=False)
            walk.refitting(place)
            behind = hidden(self._behind[place].get()).to(rest[0].device)
            lacks = (wide(behind) - wide(rest[0])).flatten(0, -2) / (stage.scale or 1.0)
            walk.require_finite(self._block, given, lacks)
            present, away = wide(rest[1]).flatten(0, -2), apart.to(given.device)
            yield NormedRows(
                batch.part,
                batch.chooses,
                self._weights[batch.part],
                given[~away],
                output[~away],
                present[~away],
                (present + lacks)[~away],
                given[away],
            )

    def _now(self, name: str) -> Tensor:
        """A parameter as it is by now."""
        changed = self.values.get(name)
        return self._module.get_parameter(name).data if changed is None else changed

    def _replace(self, name: str, value: Tensor) -> None:
        weight = self._module.get_parameter(name).data
        self.deltas[name] = Delta((value - wide(weight)).float().cpu().contiguous())
        self.values[name] = self.deltas[name].added_to(weight).to(weight.device)

    def _change(self, layer: Layer, change: Tensor) -> None:
        matrix = (change.T if layer.turned else change).float().cpu().contiguous()
        if layer.weight in self.deltas:
            matrix = matrix + self.deltas[layer.weight].matrix
        delta = Delta(matrix)
        weight = self._module.get_parameter(layer.weight).data
        self.deltas[layer.weight] = delta
        self.values[layer.weight] = delta.added_to(weight).to(weight.device)

    def _sums(self, stage: Stage) -> tuple[list[Sums], list[Sums]]:
        """The sums of the windows that are fitted, and of the others, each source apart."""
        walk = self._walk
        inputs = stage.layers[0].inputs
        outputs = sum(layer.outputs for layer in stage.layers)
        self._require_room(stage.layers[0], inputs, outputs)
        made = [[Sums.empty(inputs, walk.device, outputs) for _ in walk.shares] for _ in (0, 1)]
        fitted, choosing = made
        for place, (batch, apart) in enumerate(zip(walk.batches, self._apart, strict=True)):
            given, lacking = self._rows(stage, place)
            walk.refitting(place)
            walk.require_finite(self._block, given, lacking)
            away = apart.to(given.device)
            if batch.chooses:
                choosing[batch.part].add(given[~away], lacking[~away])
            else:
                weight = self._weights[batch.part]
                fitted[batch.part].add(given[~away], lacking[~away], weight)
                fitted[batch.part].hold(given[away], weight)
        return fitted, choosing

    def _require_room(self, layer: Layer, inputs: int, outputs: int) -> None:
        """Refuse sums that memory does not hold: of each source two, and a decomposition's."""
        device = wide_place(self._walk.device)
        sources = len(self._walk.shares)
        needed = 8 * ((2 * sources + 8) * inputs**2 + (2 * sources + 3) * inputs * outputs)
        free = int(available_memory(torch.device(device)))
        if needed > free:
            raise ModelError(
                f"recovery: refitting {layer.module} of block {self._block}, of {inputs:,} inputs, "
                f"takes {needed / 2**30:.1f} GiB of sums, and {free / 2**30:.1f} GiB are free; "
                "pass --recover linear:fit=outputs,refit=none, which takes sums of the width alone"
            )

    def _rows(self, stage: Stage, place: int) -> Rows:
        pruned = self._walk.pruned[place].get()
        if stage.scale is None:
            assert self._before is not None
            with swapped(self._module, self.values):
                given, ours, _ = self._watched(stage, place, pruned, early=True)
            # The dense model's weights are in their place again.
            _, theirs, _ = self._watched(stage, place, self._before[place].get(), early=True)
            return given, torch.cat(theirs, -1) - torch.cat(ours, -1)
        with swapped(self._module, self.values):
            given, _, rest = self._watched(stage, place, pruned, early=False)
        behind = hidden(self._behind[place].get()).to(rest[0].device)
        return given, (wide(behind) - wide(rest[0])).flatten(0, -2) / stage.scale

    def _watched(
        self, stage: Stage, place: int, states: State, *, early: bool
    ) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """What a stage is given and gives; and the block's output and that of the norm."""
        given: list[Tensor] = []
        outputs: list[Tensor] = []
        rest: list[Tensor] = []

        def note(module: nn.Module, args: Any, output: Tensor) -> None:
            if not given:
                given.append(wide(args[0]).flatten(0, -2))
            outputs.append(wide(output).flatten(0, -2))
            if early and len(outputs) == len(stage.layers):
                raise _Enough

        with ExitStack() as stack:
            for layer in stage.layers:
                module = self._module.get_submodule(layer.module)
                stack.callback(module.register_forward_hook(note).remove)
            if stage.norm is not None:
                norm = self._module.get_submodule(stage.norm.module)
                keep = lambda _, __, output: rest.append(output.clone())  # noqa: E731
                stack.callback(norm.register_forward_hook(keep).remove)
            try:
                anatomy, inputs = self._walk.anatomy, self._walk.inputs[place]
                rest.insert(0, hidden(anatomy.call(self._block, states, inputs)))
            except _Enough as enough:
                # As of `Recorder.recording`: nothing that these frames hold is to outlive them.
                enough.__traceback__ = None
        return given[0], outputs, rest
