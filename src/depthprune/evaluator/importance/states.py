"""Importance by states: what a block, or a run of blocks, does to the states that go through it.

Only running sums are kept, and the states of the batch at hand: one for what compares a block's
input with its output, all of them where distant blocks are compared. Arithmetic on states is in
float32, sums in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from depthprune.evaluator.importance.passes import (
    Importance,
    Values,
    WeightedBatch,
    groups,
    passes,
)
from depthprune.evaluator.state_store import StateStore, StoredState
from depthprune.models.blocks.carried import hidden
from depthprune.models.loading import Model

_POSITIONS = 256


def block_influence(
    model: Model, batches: Sequence[WeightedBatch], store: StateStore
) -> Importance:
    """1 − mean cos(h_in, h_out) of each block: 0 for one that turns no state. Source: ShortGPT."""

    def compare(before: Tensor, behind: Tensor) -> Tensor:
        return 1 - torch.cosine_similarity(before.float(), behind.float(), dim=-1)

    return _one_pass(model, batches, store, compare)


def relative_magnitude(
    model: Model, batches: Sequence[WeightedBatch], store: StateStore
) -> Importance:
    """Mean ‖f(x)‖ / ‖x + f(x)‖ of each block, f(x) what it adds. Source: arXiv 2604.24938."""

    def compare(before: Tensor, behind: Tensor) -> Tensor:
        added = (behind.float() - before.float()).norm(dim=-1)
        answer: Tensor = added / behind.float().norm(dim=-1)
        return answer

    return _one_pass(model, batches, store, compare)


def _one_pass(
    model: Model,
    batches: Sequence[WeightedBatch],
    store: StateStore,
    compare: Callable[[Tensor, Tensor], Tensor],
) -> Importance:
    """The weighted mean of a comparison of each block's input with its output."""
    values = np.zeros(model.blocks)
    with torch.inference_mode():
        for block, batch, before, behind in passes(model, batches, store):
            found = compare(batch.at_positions(before), batch.at_positions(behind))
            values[block] += batch.shares @ found.cpu().double().numpy()
    return Importance(values, model.blocks * sum(batch.size for batch in batches))


def angular(model: Model, batches: Sequence[WeightedBatch], store: StateStore) -> Importance:
    """Mean arccos(cos(h_l, h_{l+n}))/π at [l, n]; NaN where there is no state l + n.

    h_l is the state before block l, h_N the one behind the last. Source: Gromov et al.
    """
    count = model.blocks + 1
    sums = np.zeros((count, count))
    for group in groups(model, batches):
        kept: dict[WeightedBatch, list[StoredState]] = {batch: [] for batch in group}
        with torch.inference_mode():
            for block, batch, before, behind in passes(model, group, store):
                if block == 0:
                    kept[batch].append(store.put(batch.at_positions(before)))
                kept[batch].append(store.put(batch.at_positions(behind)))
            for batch in group:
                sums += _angles(batch, [hidden(state.get()) for state in kept.pop(batch)])
    values = np.full((model.blocks, count), np.nan)
    for block in range(model.blocks):
        values[block, : count - block] = sums[block, block:]
        values[block, 0] = 0.0
    return Importance(values, model.blocks * sum(batch.size for batch in batches))


def _angles(batch: WeightedBatch, states: Sequence[Tensor]) -> Values:
    """The weighted sum of the angles between all pairs of states, shape (states, states)."""
    sums = np.zeros((len(states), len(states)))
    shares = torch.from_numpy(batch.shares)
    for first in range(0, len(shares), _POSITIONS):
        part = torch.stack([s[first : first + _POSITIONS].float() for s in states], dim=1)
        unit = torch.nn.functional.normalize(part, dim=-1)
        cosines = (unit @ unit.transpose(1, 2)).clamp(-1, 1)
        angles = (cosines.arccos() / torch.pi).cpu().double()
        sums += torch.einsum("p,pij->ij", shares[first : first + _POSITIONS], angles).numpy()
    return sums
