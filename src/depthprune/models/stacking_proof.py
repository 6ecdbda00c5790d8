"""States that share a call of a block must come out as each alone does.

A device may round a row by the number of rows in its call, so where the two differ in a dtype of
few bits, the one block is widened and asked again. What it rounds by is kept, to be told.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from depthprune.errors import ModelError
from depthprune.models.replay import Inputs, relative_difference
from depthprune.models.widening import FLOAT32_LIMIT, wide, widened_block

if TYPE_CHECKING:
    from depthprune.models.anatomy import Anatomy


class StackingProof:
    """Runs blocks for several states, each alone, and shows that one call would do.

    Attributes:
        rounding: The largest difference so far, relative to the scale of a block's output.
    """

    def __init__(self, anatomy: Anatomy) -> None:
        self._anatomy = anatomy
        self.rounding = 0.0

    def call_each(self, block: int, states: Sequence[Tensor], inputs: Inputs) -> list[Tensor]:
        """What a block gives for each state alone.

        Args:
            block: Original number; its weights are in memory.
            states: Of the recorded batch.
            inputs: As recorded.

        Raises:
            ModelError: If it gives something else where they share a call.
        """
        alone, difference = self._apart(block, states, inputs)
        self.rounding = max(self.rounding, difference)
        if difference:
            calls = tuple(
                replace(call, args=wide(call.args), kwargs=wide(call.kwargs))
                for call in inputs.calls
            )
            with widened_block(self._anatomy.blocks.modules[block]):
                _, difference = self._apart(
                    block, wide(list(states)), Inputs(wide(inputs.states), calls)
                )
            if not difference <= FLOAT32_LIMIT:
                name = f"{self._anatomy.blocks.path}.{block}"
                raise ModelError(
                    f"{type(self._anatomy.module).__name__}: {name} gives states that share a "
                    f"call other outputs than each alone, by {difference:.1e} of their scale in "
                    f"float32 (limit {FLOAT32_LIMIT:.0e}), so it cannot be searched"
                )
        return alone

    def _apart(
        self, block: int, states: Sequence[Tensor], inputs: Inputs
    ) -> tuple[list[Tensor], float]:
        call = self._anatomy.call
        alone = [call(block, state, inputs) for state in states]
        together = call(block, torch.cat([state.to(alone[0].device) for state in states]), inputs)
        parts = together.chunk(len(states))
        return alone, max(map(relative_difference, parts, alone))
