"""Reading what a flag gives as text: a size in bytes, a share in percent."""

from __future__ import annotations

import re

from depthprune.errors import UsageError

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_BINARY_UNITS = {"ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}


def parse_size(text: str | None, flag: str) -> int | None:
    """Bytes of a text such as `4GB`, `512MiB` or `1e9`; None stays None.

    Raises:
        UsageError: If it is no size above zero.
    """
    if text is None:
        return None
    found = re.fullmatch(r"([0-9.]+(?:e[0-9]+)?)\s*([kmgt]?i?)b?", text.strip().lower())
    units = {**_UNITS, **_BINARY_UNITS}
    try:
        if found and found[2] in units and float(found[1]) > 0:
            return int(float(found[1]) * units[found[2]])
    except (ValueError, OverflowError):
        pass
    raise UsageError(f"{flag}: expected a size such as 4GB or 512MiB, got {text!r}")


def parse_share(text: str | None, flag: str) -> float | None:
    """A fraction from a text such as `5%`; None stays None.

    A bare number is refused: 5 could mean 5 % or 500 %.

    Raises:
        UsageError: If it is no percentage from 0.
    """
    if text is None:
        return None
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*%", text.strip())
    if not found:
        raise UsageError(f"{flag}: expected a percentage such as 5%, got {text!r}")
    return float(found[1]) / 100
