"""How much memory is free on a device, giving it back, and whether an error says it ran out."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from depthprune.control_groups import groups

_UNKNOWN = 4 << 30

_WORDS = (
    "can't allocate memory",
    "not enough memory",  # torch on Windows
    "out of memory",  # CUDA, HIP, MPS and the system
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUSOLVER_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "HIPBLAS_STATUS_ALLOC_FAILED",
)
"""Of messages that come as plain errors of torch."""


def available_memory(device: torch.device) -> int:
    """Bytes that can be taken on a device now.

    On a processor: what the system says is available, within the limits of the control groups that
    the process runs in. Where the system does not say, four GiB. On CUDA what this process holds
    and does not use is counted too.
    """
    if device.type == "cuda":
        held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + int(held)
    if device.type == "mps":
        used = torch.mps.current_allocated_memory()
        return max(0, int(torch.mps.recommended_max_memory()) - int(used))
    limits = [_system_memory(), *map(_group_memory, groups("memory"))]
    found = [value for value in limits if value is not None]
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


def _group_memory(group: Path) -> int | None:
    """What is left of a control group's own limit, of either version."""
    newer = (group / "memory.max").exists()
    limit, used, total = (
        ("memory.max", "memory.current", "")
        if newer
        else ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_")
    )
    try:
        most, taken = ((group / name).read_text(encoding="ascii").strip() for name in (limit, used))
        lines = (group / "memory.stat").read_text(encoding="ascii").splitlines()
        counted = {name: int(size) for name, size in map(str.split, lines)}
        # What was read of files counts as used, and goes as soon as room is wanted.
        cached = sum(counted.get(f"{total}{name}_file", 0) for name in ("active", "inactive"))
        return max(0, int(most) - max(0, int(taken) - cached)) if most.isdigit() else None
    except (OSError, ValueError):
        return None


def give_back_memory() -> None:
    """Return to accelerators what torch keeps for itself of the memory that was let go on them."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if torch.backends.mps.is_available():
        torch.mps.empty_cache()


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, in torch's words or the system's."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    words = str(error)
    return any(known in words for known in _WORDS)
