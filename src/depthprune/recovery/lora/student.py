"""The pruned model as a student of the dense one, with one copy of the weights for both.

The student is the model with its removed blocks passed over and something trained in the kept ones,
adapters or copies of their parameters; the teacher is the same modules with every block, what is
trained out of the way and, where a linear recovery came
first, the original values in place of those that it changed. Blocks are called one by one, as in
every measurement here, and in evaluation mode, so what is trained is what is measured: no dropout
is ever on. What the teacher's last block gives for a training batch is kept, as far as memory
goes, since training batches come again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from depthprune.errors import EvaluationError
from depthprune.models.blocks.carried import State, hidden
from depthprune.models.blocks.replay import Inputs, outside_inference
from depthprune.models.loading import Model
from depthprune.recovery.lora.adapters import Adapters
from depthprune.recovery.lora.distillation_data import DistillationBatch, DistillationData
from depthprune.recovery.lora.divergence import divergence, losses
from depthprune.recovery.lora.unfrozen import Unfrozen

_KEPT_BYTES = 1 << 30
"""Of states that come again, the teacher's and those below all that is trained, held by the
processor."""


class Student(nn.Module):
    """The trainable part of a pruned model; calling it gives the loss of one training batch.

    Its parameters are those that are trained alone: the model itself is no part of it, so that a
    checkpoint holds them and nothing else.

    Args:
        model: The dense original, adapters in it if there are any.
        removed: Original block numbers.
        trained: Adapters of the kept blocks, or copies of parameters.
        read: What it reads.
        originals: Values of the parameters that the model has not now and the teacher has, by
            parameter.
        nll: Share of the text's own negative log-likelihood in the loss.
        checkpointing: Whether blocks are run again on the way back.
    """

    def __init__(
        self,
        model: Model,
        removed: Sequence[int],
        trained: Adapters | Unfrozen,
        read: DistillationData,
        originals: Mapping[nn.Parameter, Tensor],
        *,
        nll: float,
        checkpointing: bool,
    ) -> None:
        super().__init__()
        self.trained = nn.ParameterList(trained.parameters)
        self._trained = trained
        self._model = model
        self._kept = [b for b in range(model.blocks) if b not in set(removed)]
        self._distillation_data = read
        self._originals = originals
        self._nll = nll
        self._checkpointing = checkpointing
        self._dense: dict[int, Tensor] = {}
        self._below: dict[int, Tensor] = {}
        self._room = _KEPT_BYTES

    def forward(self, distil_batch: Tensor) -> Tensor:
        """The loss of one training batch, weighted such that the mean over all is the mixture's.

        Args:
            distil_batch: Its place among those that are trained on, a whole number.

        Raises:
            EvaluationError: If the loss is NaN or infinite.
        """
        place = int(distil_batch)
        read = self._distillation_data.trained[place]
        inputs = outside_inference(self._model.anatomy.record(read.tokens))
        dense = self._teacher(place, inputs)
        state = self._entering(place, inputs)
        for block in self._kept:
            if block >= self._trained.first:
                state = self._block(block, state, inputs)
        ours, theirs, targets = _predicting(hidden(state), dense, read)
        head, trained = self._model.anatomy.head, self._trained.head
        loss = divergence(head, ours, theirs, targets, self._nll, trained)
        _require_finite(loss.item())
        return loss * read.share * len(self._distillation_data.trained)

    def judged(self, kind: str) -> tuple[float, float]:
        """The loss as it is trained, and the text's own, on training batches that are held back.

        Args:
            kind: `choosing` or `held_out`.

        Raises:
            EvaluationError: If a loss is NaN or infinite.
        """
        total = own = 0.0
        read: tuple[DistillationBatch, ...] = getattr(self._distillation_data, kind)
        first = len(self._distillation_data.trained)
        if kind == "held_out":
            first += len(self._distillation_data.choosing)
        for place, distil_batch in enumerate(read):
            inputs = outside_inference(self._model.anatomy.record(distil_batch.tokens))
            dense = self._teacher(first + place, inputs)
            state = self._entering(first + place, inputs)
            for block in self._kept:
                if block >= self._trained.first:
                    with self._trained.in_place(block):
                        state = self._model.anatomy.call(block, state, inputs)
            head, trained = self._model.anatomy.head, self._trained.head
            kl, text = losses(head, *_predicting(hidden(state), dense, distil_batch), trained)
            total += distil_batch.share * ((1.0 - self._nll) * kl + self._nll * text)
            own += distil_batch.share * text
        _require_finite(total)
        return total, own

    @torch.no_grad()
    def _entering(self, place: int, inputs: Inputs) -> State:
        """The student's state before the lowest block that is trained."""
        if place in self._below:
            return self._below[place].to(self._model.device)
        state = inputs.states
        below = [block for block in self._kept if block < self._trained.first]
        for block in below:
            state = self._model.anatomy.with_gradient(block, state, inputs)
        if below and isinstance(state, Tensor):
            self._keep(self._below, place, state)
        return state

    def _keep(self, kept: dict[int, Tensor], place: int, state: Tensor) -> Tensor:
        """A state as the processor holds it, which is kept as long as there is room."""
        own = state.detach().to("cpu", copy=True)
        size = own.numel() * own.element_size()
        if size <= self._room:
            self._room -= size
            kept[place] = own
        return own

    def _block(self, block: int, state: State, inputs: Inputs) -> State:
        def call(block: int, state: State, inputs: Inputs) -> State:
            with self._trained.in_place(block):
                return self._model.anatomy.with_gradient(block, state, inputs)

        if not self._checkpointing:
            return call(block, state, inputs)
        again: State = checkpoint(call, block, state, inputs, use_reentrant=False)
        return again

    @torch.no_grad()
    def _teacher(self, place: int, inputs: Inputs) -> Tensor:
        """The dense model's states behind its last block."""
        if place in self._dense:
            return self._dense[place]
        state = inputs.states
        with self._trained.off(), self._as_it_was():
            for block in range(self._model.blocks):
                state = self._model.anatomy.with_gradient(block, state, inputs)
        return self._keep(self._dense, place, hidden(state))

    @contextmanager
    def _as_it_was(self) -> Iterator[None]:
        now = {parameter: parameter.data for parameter in self._originals}
        try:
            for parameter, value in self._originals.items():
                parameter.data = value
            yield
        finally:
            for parameter, value in now.items():
                parameter.data = value


def _predicting(
    states: Tensor, dense: Tensor, distil_batch: DistillationBatch
) -> tuple[Tensor, Tensor, Tensor]:
    """Both models' states at the positions that predict a token, and those tokens."""
    ours = states[:, :-1].flatten(0, 1)
    theirs = dense.to(states.device)[:, :-1].flatten(0, 1)
    return ours, theirs, distil_batch.tokens[:, 1:].flatten().to(states.device)


def _require_finite(loss: float) -> None:
    if not abs(loss) < float("inf"):
        raise EvaluationError(
            f"--recover: the loss became {loss}; lower lr=, load the model with --dtype "
            "float32, and if neither helps, check its weights"
        )
