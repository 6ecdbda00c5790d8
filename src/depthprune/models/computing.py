"""Where a model computes, and in which dtype.

`auto` takes bfloat16 where the processor multiplies it natively, else float32: the same model costs
half the memory and, on such a processor, less than half the time.
"""

from __future__ import annotations

from pathlib import Path

import torch

from depthprune.errors import UsageError, first_line

DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


def choose_device(name: str) -> torch.device:
    """The torch device that a `--device` names.

    Raises:
        UsageError: If there is no such device here.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(
            f"--device: expected auto, cpu, cuda, cuda:N or mps, got {name!r} ({first_line(error)})"
        ) from error
    return device


def choose_dtype(name: str, device: torch.device) -> str:
    """The dtype that a `--dtype` names, on this device.

    Raises:
        UsageError: If the name is unknown.
    """
    if name == "auto":
        return "bfloat16" if _multiplies_bfloat16(device) else "float32"
    if name not in DTYPES:
        raise UsageError(f"--dtype: expected auto, {', '.join(DTYPES)}, got {name!r}")
    return name


def _multiplies_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device)[0] >= 8 or bool(torch.version.hip)
    if device.type == "mps":
        return bool(torch.backends.mps.is_macos_or_newer(14, 0))
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported", "_is_arm_bf16_supported")
    if any(getattr(torch.cpu, check, lambda: False)() for check in checks):
        return True
    try:
        words = Path("/proc/cpuinfo").read_text(encoding="utf-8").split()
    except OSError:
        return False
    return not {"avx512_bf16", "amx_bf16", "bf16"}.isdisjoint(words)
