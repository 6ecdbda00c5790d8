"""Measurements of the dense model that rank its blocks in one pass.

Each is a mean over the positions whose states predict scored tokens (of a text window, all but the
last), windows and sources weighted as in the loss. Only running sums are kept, and the states of
the batch at hand: one state for what compares a block's input with its output, all of them where
distant blocks are compared or gradients are taken. Where blocks are read from disk all batches go
through a block before the next is read, and past the memory their states wait in a file.
Arithmetic on states is in float32, sums in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from depthprune.calibration import Calibration, Window
from depthprune.errors import ModelError, unknown
from depthprune.evaluator.batches import Batch
from depthprune.evaluator.score import Weighting
from depthprune.evaluator.state_store import StateStore, StoredState
from depthprune.models.blocks.carried import (
    State,
    changed,
    hidden,
    rest_leaves,
)
from depthprune.models.blocks.replay import Inputs, outside_inference
from depthprune.models.devices import wide_place
from depthprune.models.loading import Model
from depthprune.objectives.nll import token_nll

Values = NDArray[np.float64]

_HEAD_TOKENS = 256
_POSITIONS = 256
_BACKWARD = 3
"""A block run again with its gradient costs as much as three runs: itself, and twice backwards."""


@dataclass(frozen=True)
class Importance:
    """A measurement and what it cost.

    Attributes:
        values: Shape (blocks,); of `angular`, (blocks, blocks + 1).
        block_tokens: Tokens times blocks.
    """

    values: Values
    block_tokens: int


def measure(
    model: Model,
    calibration: Calibration,
    name: str,
    batches: Iterable[Batch],
    memory: int | None = None,
) -> Importance:
    """Measure the dense model on a calibration.

    Args:
        model: The model.
        calibration: Its windows are run once.
        name: One of `MEASURES`.
        batches: All windows, laid out; the states behind every block are held for one batch, or for
            all where blocks are read from disk.
        memory: Bytes of states that may be held then; None for no limit.

    Raises:
        ModelError: If it takes gradients, and the model is streamed.
        UsageError: If there is no such measurement.
    """
    if name not in MEASURES:
        raise unknown("measurement", name, MEASURES)
    windows = calibration.windows
    weights = Weighting.of(calibration).weights()
    store = StateStore(memory if model.streamed else None)
    try:
        return MEASURES[name](model, [_Weighted(s, weights, windows) for s in batches], store)
    finally:
        store.close()


class _Weighted:
    """A batch, and what each of its positions counts."""

    def __init__(self, batch: Batch, weights: Values, windows: Sequence[Window]) -> None:
        self.batch = batch
        self.size = batch.size
        self._weights = weights
        self._windows = windows

    @property
    def shares(self) -> Values:
        """Of each position that predicts a scored token in the mean over all, shape (scored,)."""
        parts = [
            np.full(count, self._weights[place] / count)
            for place, count in zip(self.batch.places, self.batch.counts, strict=True)
        ]
        return np.concatenate(parts)

    @property
    def loss_shares(self) -> Values:
        """Of each scored token in the NLL, where an item's wrong options count nothing."""
        parts = []
        for place, count in zip(self.batch.places, self.batch.counts, strict=True):
            item = self._windows[place].item
            counts = np.ones(count)
            if item is not None:
                ends = np.cumsum([last - first for first, last in item.spans])
                counts[:] = 0.0
                counts[ends[item.answer] - _length(item.spans[item.answer]) : ends[item.answer]] = 1
            parts.append(self._weights[place] * counts / counts.sum())
        return np.concatenate(parts)

    def at_positions(self, state: State) -> Tensor:
        """The states that predict scored tokens, shape (scored, width); streams side by side."""
        batch, states = self.batch, hidden(state)
        at = states[batch.rows.to(states.device), batch.columns.to(states.device)]
        return at.flatten(1)


def _length(span: tuple[int, int]) -> int:
    return span[1] - span[0]


def _groups(model: Model, batches: Sequence[_Weighted]) -> list[list[_Weighted]]:
    """Batches that go through a block together."""
    return [list(batches)] if model.streamed else [[batch] for batch in batches]


def _recorded(
    model: Model, batches: Sequence[_Weighted], store: StateStore
) -> tuple[list[Inputs], list[StoredState]]:
    """What blocks are called with, and the states before the first."""
    inputs: list[Inputs] = []
    states: list[StoredState] = []
    known: list[Tensor] = []
    for batch in batches:
        found = model.anatomy.record(batch.batch.tokens, batch.batch.arguments)
        states.append(store.put(found.states))
        inputs.append(found.lean(known))
    return inputs, states


def _passes(
    model: Model, batches: Sequence[_Weighted], store: StateStore
) -> Iterator[tuple[int, _Weighted, State, State]]:
    """Run batches through the model: each block with each batch's states before and behind it."""
    for group in _groups(model, batches):
        inputs, states = _recorded(model, group, store)
        for block in range(model.blocks):
            with model.anatomy.holding(block):
                for place, batch in enumerate(group):
                    before = states[place].get()
                    behind = model.anatomy.call(block, before, inputs[place])
                    states[place] = store.put(behind)
                    yield block, batch, before, behind


def _one_pass(
    model: Model,
    batches: Sequence[_Weighted],
    store: StateStore,
    compare: Callable[[Tensor, Tensor], Tensor],
) -> Importance:
    """The weighted mean of a comparison of each block's input with its output."""
    values = np.zeros(model.blocks)
    with torch.inference_mode():
        for block, batch, before, behind in _passes(model, batches, store):
            found = compare(batch.at_positions(before), batch.at_positions(behind))
            values[block] += batch.shares @ found.cpu().double().numpy()
    return Importance(values, model.blocks * sum(batch.size for batch in batches))


def block_influence(model: Model, batches: Sequence[_Weighted], store: StateStore) -> Importance:
    """1 − mean cos(h_in, h_out) of each block: 0 for one that turns no state. Source: ShortGPT."""

    def compare(before: Tensor, behind: Tensor) -> Tensor:
        return 1 - torch.cosine_similarity(before.float(), behind.float(), dim=-1)

    return _one_pass(model, batches, store, compare)


def relative_magnitude(model: Model, batches: Sequence[_Weighted], store: StateStore) -> Importance:
    """Mean ‖f(x)‖ / ‖x + f(x)‖ of each block, f(x) what it adds. Source: arXiv 2604.24938."""

    def compare(before: Tensor, behind: Tensor) -> Tensor:
        added = (behind.float() - before.float()).norm(dim=-1)
        answer: Tensor = added / behind.float().norm(dim=-1)
        return answer

    return _one_pass(model, batches, store, compare)


def angular(model: Model, batches: Sequence[_Weighted], store: StateStore) -> Importance:
    """Mean arccos(cos(h_l, h_{l+n}))/π at [l, n]; NaN where there is no state l + n.

    h_l is the state before block l, h_N the one behind the last. Source: Gromov et al.
    """
    count = model.blocks + 1
    sums = np.zeros((count, count))
    for group in _groups(model, batches):
        kept: dict[_Weighted, list[StoredState]] = {batch: [] for batch in group}
        with torch.inference_mode():
            for block, batch, before, behind in _passes(model, group, store):
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


def _angles(batch: _Weighted, states: Sequence[Tensor]) -> Values:
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


def taylor(model: Model, batches: Sequence[_Weighted], store: StateStore) -> Importance:
    """|∂L/∂g_i| of each block at a gate g_i = 1 on what it adds, L the NLL of the dense model.

    With h_{i+1} = h_i + g_i · f_i(h_i), ∂L/∂g_i = Σ ⟨∂L/∂h_{i+1}, f_i(h_i)⟩ over all positions. The
    states before each block are kept for one batch; going backwards each block is run again for its
    own gradient, so that no more than one block's activations are held.

    Raises:
        ModelError: If the model is streamed.
    """
    if model.streamed:
        raise ModelError(
            f"{model.source.name}: taylor takes gradients, for which a streamed model keeps no "
            "weights; load it whole without --stream, or take another search"
        )
    gates = np.zeros(model.blocks)
    for batch in batches:
        inputs = outside_inference(model.anatomy.record(batch.batch.tokens, batch.batch.arguments))
        states = [inputs.states]
        with torch.no_grad():
            for block in range(model.blocks):
                with model.anatomy.holding(block):
                    states.append(model.anatomy.with_gradient(block, states[-1], inputs))
        gradient = _Gradient(_head_gradient(model, batch, hidden(states[-1])))
        for block in reversed(range(model.blocks)):
            behind, before = states.pop(), changed(states[-1], Tensor.detach)
            gates[block] += _slope(gradient.hidden, hidden(behind), hidden(before))
            with model.anatomy.holding(block), torch.enable_grad():
                gradient = gradient.before(model, block, before, inputs)
    tokens = sum(batch.size for batch in batches)
    return Importance(np.abs(gates), model.blocks * tokens * (1 + _BACKWARD))


def _slope(gradient: Tensor, behind: Tensor, before: Tensor) -> float:
    """⟨∂L/∂h, h − h'⟩ over all positions, in float64."""
    place = wide_place(gradient.device)
    g, after, ahead = (tensor.to(place).double() for tensor in (gradient, behind, before))
    return float((g * (after - ahead)).sum())


@dataclass(frozen=True)
class _Gradient:
    """∂L of a state: of its hidden states, and of what is carried beside them, by path."""

    hidden: Tensor
    rest: Mapping[str, Tensor] = field(default_factory=dict)

    def before(self, model: Model, block: int, state: State, inputs: Inputs) -> _Gradient:
        """That of the state before a block, for which the block is run again.

        Args:
            model: The model.
            block: Original block number.
            state: Before it, without gradients.
            inputs: As recorded.
        """
        state = changed(state, lambda t: t.requires_grad_() if t.is_floating_point() else t)
        behind = model.anatomy.with_gradient(block, state, inputs)
        ends = {"": hidden(behind)} | rest_leaves(behind)
        slopes = {"": self.hidden, **self.rest}
        paths = [path for path in slopes if path in ends and ends[path].requires_grad]
        starts = {"": hidden(state)} | rest_leaves(state)
        starts = {path: tensor for path, tensor in starts.items() if tensor.is_floating_point()}
        found = torch.autograd.grad(
            [ends[path] for path in paths],
            list(starts.values()),
            [slopes[path] for path in paths],
            allow_unused=True,
        )
        rest = {p: g for p, g in zip(starts, found, strict=True) if p and g is not None}
        own = found[0]
        return _Gradient(torch.zeros_like(hidden(state)) if own is None else own, rest)


def _head_gradient(model: Model, batch: _Weighted, final: Tensor) -> Tensor:
    """∂L/∂h of the states behind the last block, a few positions of the head at a time."""
    shares = torch.from_numpy(batch.loss_shares).float().to(final.device)
    rows, columns = (each.to(final.device) for each in (batch.batch.rows, batch.batch.columns))
    at = final[rows, columns]
    parts: list[Tensor] = []
    for first in range(0, len(at), _HEAD_TOKENS):
        part = slice(first, first + _HEAD_TOKENS)
        states = at[part].detach().requires_grad_()
        with torch.enable_grad():
            logits = model.anatomy.head.with_gradient(states.unsqueeze(0))[0]
            targets = batch.batch.targets[part].to(logits.device)
            loss = (token_nll(logits, targets) * shares[part].to(logits.device)).sum()
            parts += torch.autograd.grad(loss, states)
    gradient = torch.zeros_like(final)
    # The last state of a prompt predicts the first token of every option.
    return gradient.index_put_((rows, columns), torch.cat(parts), accumulate=True)


MEASURES: dict[str, Callable[[Model, Sequence[_Weighted], StateStore], Importance]] = {
    "block-influence": block_influence,
    "relative-magnitude": relative_magnitude,
    "angular": angular,
    "taylor": taylor,
}
"""The measurements by name."""
