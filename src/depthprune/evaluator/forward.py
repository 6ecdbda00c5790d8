"""Running batches of windows through the blocks, and going on when memory runs out.

Where the model is in memory, batches are run one after the other, each through all blocks. Where
its blocks are read from disk, all batches advance together behind one reading of each block. States
of different prefixes never share a call: how many there are follows what is asked for, and a
product rounds by the shape of its call (see `calls`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from traceback import clear_frames
from typing import TypeAlias

import torch
from torch import Tensor

from depthprune.errors import EvaluationError
from depthprune.evaluator.batches import Batch
from depthprune.evaluator.losses import Found, Losses
from depthprune.evaluator.memory import host_bytes
from depthprune.evaluator.prefix_walk import (
    RemovedSet,
    block_runs,
    in_order,
    split_to_fit,
    walk,
)
from depthprune.evaluator.state_store import StateStore, StoredState
from depthprune.models.blocks.anatomy import MissingError
from depthprune.models.blocks.carried import (
    State,
    hidden,
    with_hidden,
)
from depthprune.models.blocks.replay import Inputs
from depthprune.models.devices import plain_products
from depthprune.models.free_memory import give_back_memory, out_of_memory
from depthprune.models.loading import Model
from depthprune.progress import ProgressStep

Changed: TypeAlias = Callable[[], AbstractContextManager[None]]
"""Gives a context inside which the model has other weights."""


class BatchTooLargeError(Exception):
    """Memory ran out with two states of a batch on which windows share the call.

    Attributes:
        places: The windows of the batch.
    """

    def __init__(self, places: tuple[int, ...]) -> None:
        super().__init__()
        self.places = places


class Forward:
    """Runs batches through a model for many sets.

    Args:
        model: The model.
        losses: Makes losses of final states.
        budget: Bytes that hidden states may take.

    Attributes:
        block_tokens: Tokens times blocks run so far.
    """

    def __init__(self, model: Model, losses: Losses, budget: int) -> None:
        self.block_tokens = 0
        self._model = model
        self._losses = losses
        self._budget = budget

    def planned(
        self, batches: Sequence[Batch], sets: Sequence[RemovedSet], changed: Changed | None = None
    ) -> int:
        """Block-tokens that `run` will spend, if memory does not run out."""
        total = 0
        for group in self._groups(batches):
            size = sum(batch.size for batch in group)
            walks = self._walks(group, sets)
            parts = [part for walk in walks for part, _ in _parts(walk, changed)]
            total += sum(size * block_runs(part, self._model.blocks) for part in parts)
        return total

    def asked(self, size: int, sets: Sequence[RemovedSet], changed: Changed | None = None) -> int:
        """The same of so many tokens where memory never makes it walk a prefix twice."""
        walked = list(dict.fromkeys([(), *sets] if self._losses.compares else sets))
        parts = _parts(walked, changed)
        return size * sum(block_runs(part, self._model.blocks) for part, _ in parts)

    def run(
        self,
        batches: Sequence[Batch],
        sets: Sequence[RemovedSet],
        step: ProgressStep,
        changed: Changed | None = None,
    ) -> Iterator[tuple[Batch, Found]]:
        """Run all sets on all batches.

        Args:
            batches: Windows.
            sets: Removed sets.
            step: Advanced by block-tokens.
            changed: Weights for all sets but the dense model, with which they may be compared.

        Yields:
            A batch with the losses of some of the sets; all have come when it ends.

        Raises:
            BatchTooLargeError: If memory runs out with one batch and two states.
            EvaluationError: The same, if one window is alone on the batch.
        """
        waiting = list(reversed(self._groups(batches)))
        while waiting:
            group = waiting.pop()
            try:
                yield from self._group(group, sets, step, changed)
            except (torch.OutOfMemoryError, RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
                # What did not fit is held by the frames that it was made in.
                clear_frames(error.__traceback__)
                if self._model.stream is not None:
                    self._model.stream.use_one_buffer()
                waiting.extend(reversed(self._smaller(group, error)))

    def _groups(self, batches: Sequence[Batch]) -> list[list[Batch]]:
        """Batches that advance together."""
        return [list(batches)] if self._model.streamed and batches else [[s] for s in batches]

    def _walks(
        self, batches: Sequence[Batch], sets: Sequence[RemovedSet]
    ) -> list[list[RemovedSet]]:
        """Sets that are walked together; the dense model is among each, if it is compared with."""
        beside: list[RemovedSet] = [()] if self._losses.compares else []
        others = [removed for removed in sets if removed not in beside]
        if self._model.streamed:
            return [[*beside, *in_order(others, self._model.blocks)]]
        size = sum(batch.size * self._state_bytes(batch) for batch in batches)
        return split_to_fit(others, self._model.blocks, self._budget // size, beside)

    def _group(
        self,
        batches: Sequence[Batch],
        sets: Sequence[RemovedSet],
        step: ProgressStep,
        changed: Changed | None,
    ) -> Iterator[tuple[Batch, Found]]:
        store = (
            StateStore(self._budget, host_bytes(self._model))
            if self._model.streamed
            else StateStore()
        )
        try:
            yield from self._walked(batches, sets, store, step, changed)
        finally:
            store.close()

    def _walked(
        self,
        batches: Sequence[Batch],
        sets: Sequence[RemovedSet],
        store: StateStore,
        step: ProgressStep,
        changed: Changed | None,
    ) -> Iterator[tuple[Batch, Found]]:
        inputs, start = recorded(self._model, batches, store)
        wanted = set(sets)
        for members in self._walks(batches, sets):
            finals: list[tuple[RemovedSet, tuple[StoredState, ...]]] = []
            head = None
            for part, context in _parts(members, changed):
                if context is None:
                    finals += self._finals(part, batches, inputs, start, store, step)
                    continue
                with context():
                    # Embeddings and the head may be among what is changed.
                    own = recorded(self._model, batches, store)
                    finals += self._finals(part, batches, *own, store, step)
                    head = self._model.anatomy.head.as_it_is(context)
            for place, batch in enumerate(batches):
                with self._losses.changed(head):
                    found = self._losses.losses(batch, _released(finals, place))
                yield batch, {removed: row for removed, row in found.items() if removed in wanted}

    def _finals(
        self,
        sets: list[RemovedSet],
        batches: Sequence[Batch],
        inputs: Sequence[Inputs],
        start: Sequence[StoredState],
        store: StateStore,
        step: ProgressStep,
    ) -> list[tuple[RemovedSet, tuple[StoredState, ...]]]:
        """Each set with its states behind the last block, of every batch."""

        def advance(
            block: int, states: list[tuple[StoredState, ...]]
        ) -> list[tuple[StoredState, ...]]:
            if not states:
                return []
            columns = []
            with self._model.anatomy.holding(block):
                for place, (batch, each) in enumerate(zip(batches, inputs, strict=True)):
                    column = [state[place] for state in states]
                    columns.append(self._advance(block, batch, each, column, store))
                    step.advance(batch.size * len(states))
            return list(zip(*columns, strict=True))

        return list(walk(sets, self._model.blocks, tuple(start), advance))

    def _advance(
        self, block: int, batch: Batch, inputs: Inputs, states: list[StoredState], store: StateStore
    ) -> list[StoredState]:
        """One block on the states of one batch."""
        answers = [store.put(self._called(block, state.get(), inputs)) for state in states]
        self.block_tokens += batch.size * len(states)
        return answers

    def _called(self, block: int, state: State, inputs: Inputs) -> State:
        """A block on the state of a batch; what cannot be computed is not a number."""
        try:
            with plain_products():
                return self._model.anatomy.call(block, state, inputs)
        except MissingError:
            return with_hidden(state, torch.full_like(hidden(state), torch.nan))

    def _state_bytes(self, batch: Batch) -> int:
        return self._model.anatomy.state_bytes(batch.tokens.shape[1])

    def _smaller(self, batches: list[Batch], error: BaseException) -> list[list[Batch]]:
        """The same work in smaller pieces."""
        give_back_memory()
        if len(batches) > 1:
            middle = len(batches) // 2
            return [batches[:middle], batches[middle:]]
        state = max(batch.size * self._state_bytes(batch) for batch in batches)
        if self._budget >= 4 * state and not self._model.streamed:
            self._budget = max(2 * state, self._budget // 2)
            return [batches]
        if batches[0].shared:
            raise BatchTooLargeError(batches[0].places) from error
        raise EvaluationError(
            f"one window of {batches[0].size} tokens does not fit in the memory of "
            f"{self._model.device}; take a shorter length=, another --device, or --stream"
        ) from error


def recorded(
    model: Model, batches: Sequence[Batch], store: StateStore
) -> tuple[list[Inputs], list[StoredState]]:
    """What blocks are called with on each batch, and the states before the first."""
    inputs: list[Inputs] = []
    states: list[StoredState] = []
    known: list[Tensor] = []
    for batch in batches:
        found = model.anatomy.record(batch.tokens, batch.arguments)
        states.append(store.put(found.states))
        inputs.append(found.lean(known))
    return inputs, states


def _parts(
    members: list[RemovedSet], changed: Changed | None
) -> list[tuple[list[RemovedSet], Changed | None]]:
    """What is walked together, with which weights; what the two have in common is walked twice."""
    if changed is None:
        return [(members, None)]
    dense = [removed for removed in members if not removed]
    others = [removed for removed in members if removed]
    return [part for part in ((dense, None), (others, changed)) if part[0]]


def _released(
    finals: list[tuple[RemovedSet, tuple[StoredState, ...]]], place: int
) -> Iterator[tuple[RemovedSet, Tensor]]:
    for removed, states in finals:
        yield removed, hidden(states[place].get())
