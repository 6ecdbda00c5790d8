"""Importance by gradients: how much the loss falls or grows with a gate on what a block adds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from depthprune.errors import ModelError
from depthprune.evaluator.importance.passes import Importance, WeightedBatch
from depthprune.evaluator.state_store import StateStore
from depthprune.models.blocks.carried import State, changed, hidden, rest_leaves
from depthprune.models.blocks.replay import Inputs, outside_inference
from depthprune.models.devices import wide_place
from depthprune.models.loading import Model
from depthprune.objectives.nll import token_nll

_HEAD_TOKENS = 256
RUNS = 4
"""A block is run, and again with its gradient, which costs as much as three runs: itself, and twice
backwards."""


def taylor(model: Model, batches: Sequence[WeightedBatch], store: StateStore) -> Importance:
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
    return Importance(np.abs(gates), model.blocks * tokens * RUNS)


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


def _head_gradient(model: Model, batch: WeightedBatch, final: Tensor) -> Tensor:
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
