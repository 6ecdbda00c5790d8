"""What a `--dtype` may be called. Nothing of torch is imported, so that a plan is read without."""

from __future__ import annotations

from depthprune.errors import UsageError

DTYPE_NAMES = ("float32", "bfloat16", "float16")


def check_dtype(name: str) -> None:
    """Refuse a `--dtype` that is none.

    Raises:
        UsageError: If the name is unknown.
    """
    if name != "auto" and name not in DTYPE_NAMES:
        raise UsageError(f"--dtype: expected auto, {', '.join(DTYPE_NAMES)}, got {name!r}")
