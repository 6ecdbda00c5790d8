"""What plainness costs: one free matrix at each gap, which no checkpoint of the architecture has.

Ghosted Layers put a matrix where a run was removed: here the least squares of the dense model's
state behind the run on the pruned model's state before it, with ridge and strength chosen as for
`--recover linear`, on the same windows. LinearPatch's map (a scaling in a rotated basis) is one
such matrix too, so on these sums it cannot do better. The matrices are hooks, and are not saved.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from depthprune.calibration import Calibration
from depthprune.models.blocks.carried import hidden
from depthprune.models.loading import Model
from depthprune.recovery.linear.fit import fit
from depthprune.recovery.linear.massive_activations import massive
from depthprune.recovery.linear.normal_equations import Sums, wide
from depthprune.recovery.result import runs_of
from depthprune.recovery.splits import batches

Patches = dict[int, Tensor]
"""By the kept block before a gap: the matrix that is added to the identity."""


@torch.no_grad()
def free_matrices(model: Model, removed: Sequence[int], calibration: Calibration) -> Patches:
    """Fit a matrix for each gap, from the bottom up, each behind those below it."""
    anatomy = model.anatomy
    made = batches(calibration, 1024)
    shares = [part.share for part in calibration.parts]
    inputs = [anatomy.record(batch.tokens) for batch in made]
    dense = [hidden(each.states) for each in inputs]
    pruned, at, found = list(dense), 0, Patches()

    def through(block: int, states: list[Tensor]) -> list[Tensor]:
        pairs = zip(states, inputs, strict=True)
        return [hidden(anatomy.call(block, state, each)) for state, each in pairs]

    for run in runs_of(removed):
        for block in range(at, run[0]):
            dense, pruned = through(block, dense), through(block, pruned)
        for block in run:
            dense = through(block, dense)
        at = run[-1] + 1
        apart = massive(pruned, dense)
        sums = [[Sums.empty(pruned[0].shape[-1], pruned[0].device) for _ in shares] for _ in (0, 1)]
        counts = [0] * len(shares)
        for batch, away in zip(made, apart, strict=True):
            counts[batch.part] += 0 if batch.chooses else int((~away).sum())
        for batch, away, before, behind in zip(made, apart, pruned, dense, strict=True):
            x = wide(before).flatten(0, -2)
            e = wide(behind).flatten(0, -2) - x
            weight = 1.0 if batch.chooses else shares[batch.part] / counts[batch.part]
            sums[batch.chooses][batch.part].add(x[~away], e[~away], weight)
            if not batch.chooses:
                sums[0][batch.part].hold(x[away], weight)
        found[run[0] - 1] = fit(sums[0], sums[1], shares).change
        pruned = [_patched(state, found[run[0] - 1]) for state in pruned]
    return found


@contextmanager
def patched(model: Model, patches: Patches) -> Iterator[None]:
    """Inside the context the blocks before gaps hand on what their matrices make of it."""

    def patch(matrix: Tensor) -> Any:
        def apply(module: nn.Module, args: Any, output: Any) -> Any:
            if isinstance(output, Tensor):
                return _patched(output, matrix)
            return (_patched(output[0], matrix), *output[1:])

        return apply

    with ExitStack() as stack:
        for block, matrix in patches.items():
            module = model.anatomy.blocks.modules[block]
            stack.callback(module.register_forward_hook(patch(matrix)).remove)
        yield


def _patched(state: Tensor, matrix: Tensor) -> Tensor:
    by = matrix.to(state.device, torch.float32)
    return (state.float() + state.float() @ by.T).to(state.dtype)
