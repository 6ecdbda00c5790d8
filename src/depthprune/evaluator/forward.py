"""Running sheets of windows through the blocks, and going on when memory runs out.

Where the model is in memory, sheets are run one after the other, each through all blocks. Where its
blocks are read from disk, all sheets advance together behind one reading of each block. States of
different prefixes never share a call: how many there are follows what is asked for, and a product
rounds by the shape of its call (see `calls`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TypeAlias

import torch
from torch import Tensor

from depthprune.errors import EvaluationError
from depthprune.evaluator.batches import Sheet
from depthprune.evaluator.losses import Found, Heads
from depthprune.evaluator.memory import host_bytes
from depthprune.evaluator.prefix_walk import (
    RemovedSet,
    block_runs,
    split_to_fit,
    walk,
)
from depthprune.evaluator.state_store import Held, Vault
from depthprune.models.blocks.anatomy import MissingError
from depthprune.models.blocks.carried import (
    State,
    hidden,
    with_hidden,
)
from depthprune.models.blocks.replay import Inputs
from depthprune.models.devices import plain_products
from depthprune.models.free_memory import out_of_memory
from depthprune.models.loading import Model
from depthprune.progress import Step

Changed: TypeAlias = Callable[[], AbstractContextManager[None]]
"""Gives a context inside which the model has other weights."""


class SheetTooLargeError(Exception):
    """Memory ran out with two states of a sheet on which windows share the call.

    Attributes:
        places: The windows of the sheet.
    """

    def __init__(self, places: tuple[int, ...]) -> None:
        super().__init__()
        self.places = places


class Passes:
    """Runs sheets through a model for many sets.

    Args:
        model: The model.
        heads: Makes losses of final states.
        budget: Bytes that hidden states may take.

    Attributes:
        block_tokens: Tokens times blocks run so far.
    """

    def __init__(self, model: Model, heads: Heads, budget: int) -> None:
        self.block_tokens = 0
        self._model = model
        self._heads = heads
        self._budget = budget

    def planned(
        self, sheets: Sequence[Sheet], sets: Sequence[RemovedSet], changed: Changed | None = None
    ) -> int:
        """Block-tokens that `run` will spend, if memory does not run out."""
        total = 0
        for group in self._groups(sheets):
            size = sum(sheet.size for sheet in group)
            walks = self._walks(group, sets)
            parts = [part for walk in walks for part, _ in _parts(walk, changed)]
            total += sum(size * block_runs(part, self._model.blocks) for part in parts)
        return total

    def asked(self, sheets: Sequence[Sheet], sets: Sequence[RemovedSet]) -> int:
        """The same where memory never makes it walk a prefix twice, as on any machine."""
        walked = dict.fromkeys([(), *sets] if self._heads.compares else sets)
        size = sum(sheet.size for sheet in sheets)
        return size * block_runs(list(walked), self._model.blocks)

    def run(
        self,
        sheets: Sequence[Sheet],
        sets: Sequence[RemovedSet],
        step: Step,
        changed: Changed | None = None,
    ) -> Iterator[tuple[Sheet, Found]]:
        """Run all sets on all sheets.

        Args:
            sheets: Windows.
            sets: Removed sets.
            step: Is told of block-tokens.
            changed: Weights for all sets but the dense model, with which they may be compared.

        Yields:
            A sheet with the losses of some of the sets; all have come when it ends.

        Raises:
            SheetTooLargeError: If memory runs out with one sheet and two states.
            EvaluationError: The same, if one window is alone on the sheet.
        """
        waiting = list(reversed(self._groups(sheets)))
        while waiting:
            group = waiting.pop()
            try:
                yield from self._group(group, sets, step, changed)
            except (torch.OutOfMemoryError, RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
                waiting.extend(reversed(self._smaller(group, error)))

    def _groups(self, sheets: Sequence[Sheet]) -> list[list[Sheet]]:
        """Sheets that advance together."""
        return [list(sheets)] if self._model.streamed and sheets else [[s] for s in sheets]

    def _walks(self, sheets: Sequence[Sheet], sets: Sequence[RemovedSet]) -> list[list[RemovedSet]]:
        """Sets that are walked together; the dense model is among each, if it is compared with."""
        limit = len(sets) + 1
        if not self._model.streamed:
            size = sum(sheet.size * self._state_bytes(sheet) for sheet in sheets)
            limit = max(2, self._budget // size)
        if not self._heads.compares:
            return split_to_fit(sets, self._model.blocks, limit)
        others = [removed for removed in sets if removed]
        walks = split_to_fit(others, self._model.blocks, max(2, limit - 1))
        return [[(), *members] for members in walks] or [[()]]

    def _group(
        self,
        sheets: Sequence[Sheet],
        sets: Sequence[RemovedSet],
        step: Step,
        changed: Changed | None,
    ) -> Iterator[tuple[Sheet, Found]]:
        anatomy = self._model.anatomy
        inputs = [anatomy.record(sheet.tokens, sheet.arguments) for sheet in sheets]
        vault = Vault(self._budget, host_bytes(self._model)) if self._model.streamed else Vault()
        try:
            yield from self._walked(sheets, inputs, sets, vault, step, changed)
        finally:
            vault.close()

    def _walked(
        self,
        sheets: Sequence[Sheet],
        inputs: Sequence[Inputs],
        sets: Sequence[RemovedSet],
        vault: Vault,
        step: Step,
        changed: Changed | None,
    ) -> Iterator[tuple[Sheet, Found]]:
        anatomy = self._model.anatomy
        wanted = set(sets)
        for members in self._walks(sheets, sets):
            start = tuple(vault.put(each.states) for each in inputs)

            def advance(block: int, states: list[tuple[Held, ...]]) -> list[tuple[Held, ...]]:
                if not states:
                    return []
                columns = []
                with anatomy.holding(block):
                    for place, (sheet, each) in enumerate(zip(sheets, inputs, strict=True)):
                        column = [state[place] for state in states]
                        columns.append(self._advance(block, sheet, each, column, vault))
                        step.advance(sheet.size * len(states))
                return list(zip(*columns, strict=True))

            finals: list[tuple[RemovedSet, tuple[Held, ...]]] = []
            for part, context in _parts(members, changed):
                with context():
                    finals += list(walk(part, self._model.blocks, start, advance))
            del start
            for place, sheet in enumerate(sheets):
                found = self._heads.losses(sheet, _released(finals, place))
                yield sheet, {removed: row for removed, row in found.items() if removed in wanted}

    def _advance(
        self, block: int, sheet: Sheet, inputs: Inputs, states: list[Held], vault: Vault
    ) -> list[Held]:
        """One block on the states of one sheet."""
        answers = [vault.put(self._called(block, state.get(), inputs)) for state in states]
        self.block_tokens += sheet.size * len(states)
        return answers

    def _called(self, block: int, state: State, inputs: Inputs) -> State:
        """A block on the state of a sheet; what cannot be computed is not a number."""
        try:
            with plain_products():
                return self._model.anatomy.call(block, state, inputs)
        except MissingError:
            return with_hidden(state, torch.full_like(hidden(state), torch.nan))

    def _state_bytes(self, sheet: Sheet) -> int:
        return self._model.anatomy.state_bytes(sheet.tokens.shape[1])

    def _smaller(self, sheets: list[Sheet], error: BaseException) -> list[list[Sheet]]:
        """The same work in smaller pieces."""
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if len(sheets) > 1:
            middle = len(sheets) // 2
            return [sheets[:middle], sheets[middle:]]
        state = max(sheet.size * self._state_bytes(sheet) for sheet in sheets)
        if self._budget >= 4 * state and not self._model.streamed:
            self._budget = max(2 * state, self._budget // 2)
            return [sheets]
        if sheets[0].shared:
            raise SheetTooLargeError(sheets[0].places) from error
        raise EvaluationError(
            f"one window of {sheets[0].size} tokens does not fit in the memory of "
            f"{self._model.device}; take a shorter length=, another --device, or --stream"
        ) from error


def _parts(
    members: list[RemovedSet], changed: Changed | None
) -> list[tuple[list[RemovedSet], Changed]]:
    """What is walked together, with which weights; what the two have in common is walked twice."""
    if changed is None:
        return [(members, nullcontext)]
    dense = [removed for removed in members if not removed]
    others = [removed for removed in members if removed]
    return [part for part in ((dense, nullcontext), (others, changed)) if part[0]]


def _released(
    finals: list[tuple[RemovedSet, tuple[Held, ...]]], place: int
) -> Iterator[tuple[RemovedSet, Tensor]]:
    for removed, states in finals:
        yield removed, hidden(states[place].get())
