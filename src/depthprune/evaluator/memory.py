"""How much memory is free, so that hidden states stay within it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from depthprune.calibration import Window
from depthprune.errors import UsageError
from depthprune.models.loading import Model

_UNKNOWN = 4 << 30
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


def available_memory(device: torch.device) -> int:
    """Bytes that can be taken on a device now.

    On a processor: what the system says is available, within the limit of the control group that
    the process runs in. Where the system does not say, four GiB.
    """
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if device.type == "mps":
        used = torch.mps.current_allocated_memory()
        return max(0, int(torch.mps.recommended_max_memory()) - int(used))
    found = [value for value in (_system_memory(), _group_memory()) if value is not None]
    return min(found, default=_UNKNOWN)


def _system_memory() -> int | None:
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    except (ValueError, OSError, AttributeError):
        return None


def _group_memory() -> int | None:
    root = Path("/sys/fs/cgroup")
    try:
        limit = (root / "memory.max").read_text(encoding="ascii").strip()
        used = int((root / "memory.current").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
    return max(0, int(limit) - used) if limit.isdigit() else None


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, in torch's words or the system's."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    words = str(error)
    return "can't allocate memory" in words or "out of memory" in words
