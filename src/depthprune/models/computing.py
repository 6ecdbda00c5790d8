"""The devices and the dtypes that a model can compute on and in, by their names."""

from __future__ import annotations

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


def check_dtype(name: str) -> None:
    """Refuse a `--dtype` that is none.

    Raises:
        UsageError: If the name is unknown.
    """
    if name != "auto" and name not in DTYPES:
        raise UsageError(f"--dtype: expected auto, {', '.join(DTYPES)}, got {name!r}")
