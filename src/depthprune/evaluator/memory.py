"""How much memory is free, so that hidden states stay within it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from depthprune.calibration import Window
from depthprune.errors import UsageError
from depthprune.models.free_memory import available_memory
from depthprune.models.loading import Model

_SHARE = 0.5


@dataclass(frozen=True)
class Budget:
    """What hidden states may take.

    Attributes:
        bytes: In all.
        sheet_tokens: Up to how many tokens are run together.
    """

    bytes: int
    sheet_tokens: int


def state_budget(
    model: Model, windows: Sequence[Window], memory: int | None, call_tokens: int
) -> Budget:
    """What hidden states may take, and how much may be run at once within that.

    Args:
        model: The model.
        windows: What is to be run.
        memory: Bytes; None for half of what is free on the model's device.
        call_tokens: Tokens that fill a call on that device.

    Raises:
        UsageError: If `memory` is below two states of the longest window, and, for a model that is
            read block by block, one block.
    """
    longest = max(len(window.tokens) for window in windows)
    state = model.anatomy.state_bytes(longest)
    if memory is None:
        device = torch.device(model.anatomy.device)
        return Budget(int(available_memory(device) * _SHARE), max(longest, call_tokens))
    block = model.anatomy.largest_block_bytes if model.streamed else 0
    least = 2 * longest * state + block
    if memory < least:
        parts = f"two states of {longest} tokens" + (" and one block" if block else "")
        raise UsageError(
            f"--memory: expected at least {least} bytes ({parts}), got {memory}; raise it, or take "
            "a shorter length="
        )
    left = memory - block
    return Budget(left, max(longest, min(call_tokens, left // (2 * state))))
