"""Which windows T is fitted on, which choose its strength, and how they are run together.

Every fourth window of a source chooses and is never fitted; what is reported is measured on yet
others, the source's held-out tenth. Of an item with options, the prompt and the right option are
read as one text.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from depthprune.calibration import Calibration, Part, Window
from depthprune.errors import CalibrationError

_EVERY = 4


@dataclass(frozen=True)
class FitBatch:
    """Windows of one length and one source that are run together.

    Attributes:
        tokens: Shape (batch, length), int64.
        part: Which source.
        chooses: Whether they choose, or are fitted.
    """

    tokens: Tensor
    part: int
    chooses: bool


def batches(calibration: Calibration, call_tokens: int) -> list[FitBatch]:
    """All windows of a calibration, in batches.

    Args:
        calibration: What is drawn.
        call_tokens: About how many tokens go through a block at a time.

    Raises:
        CalibrationError: If a source has a single window.
    """
    made: list[FitBatch] = []
    for index, part in enumerate(calibration.parts):
        chosen = choosing_places(part)
        for chooses in (False, True):
            windows = [w for i, w in enumerate(part.windows) if (i in chosen) == chooses]
            made += [FitBatch(t, index, chooses) for t in stacked(windows, call_tokens)]
    return made


def choosing_places(part: Part) -> set[int]:
    """Places of a source's windows that choose.

    Raises:
        CalibrationError: If it has a single window.
    """
    count = len(part.windows)
    if count < 2:
        raise CalibrationError(
            f"{part.spec.short()}: recovery needs two windows or more of each source, one to "
            f"fit and one to choose the strength, and windows={count}; raise windows="
        )
    return set(range(_EVERY - 1, count, _EVERY)) or {count - 1}


def choosing(calibration: Calibration) -> Calibration:
    """The windows that choose, which nothing is fitted on, as a calibration of their own.

    Raises:
        CalibrationError: If a source has a single window.
    """
    return Calibration(
        tuple(
            replace(part, windows=tuple(part.windows[i] for i in sorted(choosing_places(part))))
            for part in calibration.parts
        )
    )


def require_enough(made: Sequence[FitBatch], calibration: Calibration, width: int) -> None:
    """Refuse a calibration with too few tokens for the width.

    Raises:
        CalibrationError: Saying how many it takes.
    """
    fitted = sum(batch.tokens.numel() for batch in made if not batch.chooses)
    needed = 2 * width
    if fitted < needed:
        total = -(-needed * calibration.tokens // fitted)
        raise CalibrationError(
            f"recovery: {fitted:,} tokens to fit, and a model of width {width:,} needs "
            f"{needed:,} or more, two for each dimension; give about {total:,} calibration tokens "
            "in all, by windows="
        )


def stacked(windows: Sequence[Window], call_tokens: int) -> Iterator[Tensor]:
    """Windows of one length together, about `call_tokens` at a time, shape (batch, length)."""
    by_length: dict[int, list[np.ndarray[Any, Any]]] = {}
    for window in windows:
        tokens = as_text(window)
        by_length.setdefault(len(tokens), []).append(tokens)
    for length, alike in by_length.items():
        size = max(1, call_tokens // length)
        for first in range(0, len(alike), size):
            yield torch.from_numpy(np.stack(alike[first : first + size]))


def as_text(window: Window) -> np.ndarray[Any, Any]:
    """A window's tokens; of an item with options, the prompt's and the right option's."""
    item = getattr(window, "item", None)
    if item is None:
        return window.tokens
    first, last = item.spans[item.answer]
    return np.concatenate([window.tokens[: item.spans[0][0]], window.tokens[first:last]])
