"""Results of single windows and items, as a line of the table keeps them.

Which sets lose on which items is what a comparison's own error is made of, so every evaluation
keeps what each of its windows or items gave. Right and wrong are bits, written as hexadecimal
digits: 500 items take 125 characters. Losses of windows are written to six decimals.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Packed: TypeAlias = str | tuple[float, ...]
Floats: TypeAlias = NDArray[np.float64]

PLACES = 6


def pack(values: Floats) -> Packed:
    """Values as a table keeps them: bits where all are 0 or 1, else numbers.

    Args:
        values: Of each window or item.
    """
    if np.isin(values, (0.0, 1.0)).all():
        return np.packbits(values.astype(np.uint8)).tobytes().hex()
    return tuple(round(float(value), PLACES) for value in values)


def unpack(packed: Packed, n: int) -> Floats:
    """The values again.

    Args:
        packed: By `pack`.
        n: How many.

    Raises:
        ValueError: If they are not so many, or the digits are not hexadecimal.
    """
    if isinstance(packed, str):
        content = np.frombuffer(bytes.fromhex(packed), dtype=np.uint8)
        if len(content) != -(-n // 8):
            raise ValueError(f"items: expected the bits of {n}, got {4 * len(packed)} bits")
        return np.unpackbits(content, count=n).astype(np.float64)
    if len(packed) != n:
        raise ValueError(f"items: expected {n} values, got {len(packed)}")
    return np.asarray(packed, dtype=np.float64)


def weighted_mean(values: Floats, weights: Sequence[float] | None) -> float:
    """The mean by weights; plain where there are none."""
    return float(np.average(values, weights=None if weights is None else np.asarray(weights)))
