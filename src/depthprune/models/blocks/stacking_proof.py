"""States that share a call of a block must come out as each alone does.

A device may round a row by the number of rows in its call, so where the two differ at all, the one
block is widened and asked again. What it rounds by is kept, to be told.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

import torch
from torch import Tensor, nn

from depthprune.errors import ModelError
from depthprune.models.blocks.carried import (
    State,
    changed,
    hidden,
    rest_leaves,
    with_hidden,
)
from depthprune.models.blocks.recording import Blocks
from depthprune.models.blocks.replay import Inputs, largest, relative_difference
from depthprune.models.widening import CANNOT, FLOAT32_LIMIT, WIDER, wide, widened_block


class CallableBlocks(Protocol):
    """What is proved: blocks that can be called, for one state or for several together."""

    @property
    def module(self) -> nn.Module:
        """The whole model."""

    @property
    def blocks(self) -> Blocks:
        """Its blocks and their dotted name."""

    def call(self, block: int, state: State, inputs: Inputs) -> State:
        """What a block gives for one state."""

    def call_each(self, block: int, states: Sequence[State], inputs: Inputs) -> list[State]:
        """What it gives for several, in one call where they can share one."""


class StackingProof:
    """Runs blocks for states, each alone, and shows that one call would do.

    Attributes:
        rounding: The largest difference so far, relative to the scale of a block's output.
    """

    def __init__(self, anatomy: CallableBlocks) -> None:
        self._anatomy = anatomy
        self.rounding = 0.0

    def call_each(self, block: int, states: Sequence[State], inputs: Inputs) -> list[State]:
        """What a block gives for each state alone.

        Args:
            block: Original number; its weights are in memory.
            states: Of the recorded batch; a single one is tried beside another made of it.
            inputs: As recorded.

        Raises:
            ModelError: If it gives something else where they share a call.
        """
        states = list(states)
        given = len(states)
        if given == 1:
            states.append(with_hidden(states[0], hidden(states[0]).flip(0)))
        alone, difference = self._apart(block, states, inputs)
        self.rounding = largest((self.rounding, difference))
        if difference:
            difference, dtype = self._settled(block, states, inputs)
            if not difference <= FLOAT32_LIMIT:
                word = str(dtype).removeprefix("torch.")
                name = f"{self._anatomy.blocks.path}.{block}"
                raise ModelError(
                    f"{type(self._anatomy.module).__name__}: {name} gives states that share a "
                    f"call other outputs than each alone, by {difference:.1e} of their scale in "
                    f"{word} (limit {FLOAT32_LIMIT:.0e}), so it cannot be searched"
                )
        return alone[:given]

    def _settled(
        self, block: int, states: Sequence[State], inputs: Inputs
    ) -> tuple[float, torch.dtype]:
        """The same in float32, or in float64 where float32 is too far off."""
        module = self._anatomy.blocks.modules[block]
        found, by = 0.0, WIDER[0]
        for dtype in WIDER:
            widen = partial(wide, dtype=dtype)
            try:
                with widened_block(module, dtype):
                    made = [changed(state, widen) for state in states]
                    _, found = self._apart(block, made, _widened(inputs, widen))
            except CANNOT:
                if dtype == WIDER[0]:
                    raise
                break
            by = dtype
            if found <= FLOAT32_LIMIT:
                break
        return found, by

    def _apart(
        self, block: int, states: Sequence[State], inputs: Inputs
    ) -> tuple[list[State], float]:
        alone = [self._anatomy.call(block, state, inputs) for state in states]
        together = self._anatomy.call_each(block, states, inputs)
        return alone, largest(map(_difference, together, alone))


def _widened(inputs: Inputs, widen: Callable[[Tensor], Tensor]) -> Inputs:
    calls = tuple(call.changed(lambda _, tensor: widen(tensor)) for call in inputs.calls)
    return Inputs(changed(inputs.states, widen), calls, inputs.layout)


def _difference(ours: State, theirs: State) -> float:
    """The largest of all numbers of two states; whole numbers show in what is made of them."""
    pairs: list[tuple[Tensor, Tensor]] = [(hidden(ours), hidden(theirs))]
    other = rest_leaves(theirs)
    pairs += [(tensor, other[path]) for path, tensor in rest_leaves(ours).items()]
    return largest(relative_difference(a, b) for a, b in pairs if a.is_floating_point())
