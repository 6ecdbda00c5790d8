"""What plainness costs: one matrix at each gap, which no checkpoint of the architecture has.

Two matrices are put where a run was removed, in hooks that are not saved:

- **free**, as of Ghosted Layers: the least squares of the dense model's state behind the run on the
  pruned model's state before it, with ridge and strength chosen as for `--recover linear`;
- **rotated**, LinearPatch's (arXiv 2505.24680) as it is before any training, H d Hᵀ: in the basis
  of a Hadamard matrix H each channel is scaled by d, its mean |state| behind the run over that
  before it, of all tokens, massive ones too, which H spreads over the channels. The symmetric
  matrix that its authors then train from there is left out.

Both are made on the same windows, from the bottom gap up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
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
from depthprune.recovery.splits import FitBatch, batches

Patches = dict[int, Tensor]
"""By the kept block before a gap: the matrix that is added to the identity."""

States = list[Tensor]
Kind = Callable[[list[FitBatch], list[float], States, States], Tensor]


@torch.no_grad()
def patches(model: Model, removed: Sequence[int], calibration: Calibration, kind: Kind) -> Patches:
    """Make a matrix for each gap, from the bottom up, each behind those below it."""
    anatomy = model.anatomy
    made = batches(calibration, 1024)
    shares = [part.share for part in calibration.parts]
    inputs = [anatomy.record(batch.tokens) for batch in made]
    dense = [hidden(each.states) for each in inputs]
    pruned, at, found = list(dense), 0, Patches()

    def through(block: int, states: States) -> States:
        pairs = zip(states, inputs, strict=True)
        return [hidden(anatomy.call(block, state, each)) for state, each in pairs]

    for run in runs_of(removed):
        for block in range(at, run[0]):
            dense, pruned = through(block, dense), through(block, pruned)
        for block in run:
            dense = through(block, dense)
        at = run[-1] + 1
        found[run[0] - 1] = kind(made, shares, pruned, dense)
        pruned = [_patched(state, found[run[0] - 1]) for state in pruned]
    return found


def free(made: list[FitBatch], shares: list[float], pruned: States, dense: States) -> Tensor:
    """Ghosted Layers' matrix, less the identity."""
    apart = massive(pruned, dense)
    sums = [[Sums.empty(pruned[0].shape[-1], pruned[0].device) for _ in shares] for _ in (0, 1)]
    counts = _counts(made, shares, apart)
    for batch, away, before, behind in zip(made, apart, pruned, dense, strict=True):
        x = wide(before).flatten(0, -2)
        e = wide(behind).flatten(0, -2) - x
        weight = 1.0 if batch.chooses else shares[batch.part] / counts[batch.part]
        sums[batch.chooses][batch.part].add(x[~away], e[~away], weight)
        if not batch.chooses:
            sums[0][batch.part].hold(x[away], weight)
    return fit(sums[0], sums[1], shares).change


def rotated(made: list[FitBatch], shares: list[float], pruned: States, dense: States) -> Tensor:
    """LinearPatch's matrix without training, less the identity."""
    everywhere = [torch.zeros(each.shape[:-1].numel(), dtype=torch.bool) for each in pruned]
    counts = _counts(made, shares, everywhere)
    turn = hadamard(pruned[0].shape[-1])
    before, behind = (torch.zeros(len(turn), dtype=torch.float64) for _ in range(2))
    for batch, low, high in zip(made, pruned, dense, strict=True):
        if not batch.chooses:
            weight = shares[batch.part] / counts[batch.part]
            for total, states in ((before, low), (behind, high)):
                total += weight * (wide(states).flatten(0, -2) @ turn).abs().sum(0)
    patch: Tensor = turn @ (behind / before - 1).diag() @ turn.T
    return patch


BOUNDS: dict[str, Kind] = {"LinearPatch's matrix": rotated, "free matrix": free}


def hadamard(width: int) -> Tensor:
    """An orthogonal matrix of entries ± 1/√width: of orders 2, 12 and 20 and their products."""
    if width == 1:
        return torch.ones(1, 1, dtype=torch.float64)
    for order in (12, 20, 2):
        if width % order == 0:
            base = _paley(order - 1) if order > 2 else torch.tensor([[1.0, 1.0], [1.0, -1.0]])
            return torch.kron(hadamard(width // order), base.double() / order**0.5)
    raise SystemExit(f"no Hadamard matrix of order {width} is known here")


def _paley(prime: int) -> Tensor:
    """Paley's first construction, for a prime that leaves 3 when divided by 4."""
    squares = {number * number % prime for number in range(1, prime)}
    made = torch.ones(prime + 1, prime + 1)
    made[1:, 0] = -1
    for row in range(prime):
        for column in range(prime):
            made[row + 1, column + 1] = (
                1 if row == column or (column - row) % prime in squares else -1
            )
    return made


def _counts(made: list[FitBatch], shares: list[float], apart: list[Tensor]) -> list[int]:
    counts = [0] * len(shares)
    for batch, away in zip(made, apart, strict=True):
        counts[batch.part] += 0 if batch.chooses else int((~away).sum())
    return counts


@contextmanager
def patched(model: Model, made: Patches) -> Iterator[None]:
    """Inside the context the blocks before gaps hand on what their matrices make of it."""

    def patch(matrix: Tensor) -> Any:
        def apply(module: nn.Module, args: Any, output: Any) -> Any:
            if isinstance(output, Tensor):
                return _patched(output, matrix)
            return (_patched(output[0], matrix), *output[1:])

        return apply

    with ExitStack() as stack:
        for block, matrix in made.items():
            module = model.anatomy.blocks.modules[block]
            stack.callback(module.register_forward_hook(patch(matrix)).remove)
        yield


def _patched(state: Tensor, matrix: Tensor) -> Tensor:
    by = matrix.to(state.device, torch.float32)
    return (state.float() + state.float() @ by.T).to(state.dtype)
