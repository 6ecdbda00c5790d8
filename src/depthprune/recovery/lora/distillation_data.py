"""Which windows are trained on, which choose the best step, and which are shown.

As for the linear recovery, every fourth window of a source may choose and is then never trained
on; of those at most `judge` are taken, spread over all, and the rest are trained on. The curve that
is shown is of the sources' held-out tenth, which decides nothing. Sources count by their shares of
the mixture, however many windows they have.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from depthprune.calibration import Calibration, Part, Window
from depthprune.errors import CalibrationError
from depthprune.recovery.methods import Trained
from depthprune.recovery.splits import choosing_places, stacked


@dataclass(frozen=True)
class DistillationBatch:
    """Windows of one source that are run together.

    Attributes:
        tokens: Shape (windows, length), int64.
        share: What they count for, the training batches of one kind summing to 1.
    """

    tokens: Tensor
    share: float


@dataclass(frozen=True)
class DistillationData:
    """All that a student reads.

    Attributes:
        trained: What it is trained on.
        choosing: What chooses the best step.
        held_out: What is shown.
    """

    trained: tuple[DistillationBatch, ...]
    choosing: tuple[DistillationBatch, ...]
    held_out: tuple[DistillationBatch, ...]

    @property
    def tokens(self) -> int:
        """Tokens of one round over what is trained on."""
        return sum(distil_batch.tokens.numel() for distil_batch in self.trained)

    def accumulated(self, batch: int) -> int:
        """How many training batches come to about `batch` windows."""
        windows = sum(len(distil_batch.tokens) for distil_batch in self.trained)
        return max(1, round(batch * len(self.trained) / windows))

    def order(self, count: int, seed: int) -> list[int]:
        """The first `count` of an endless sequence of rounds, each in a new order."""
        places: list[int] = []
        while len(places) < count:
            generator = torch.Generator().manual_seed(seed + len(places))
            places += torch.randperm(len(self.trained), generator=generator).tolist()
        return places[:count]


def distillation_data(
    calibration: Calibration, settings: Trained, call_tokens: int
) -> DistillationData:
    """The windows of a calibration, laid out.

    Args:
        calibration: What is drawn.
        settings: Batch, judge and seed are read.
        call_tokens: About how many tokens go through the model at a time.

    Raises:
        CalibrationError: If a source has a single window, or there are fewer to train on than a
            step takes.
    """
    trained: list[tuple[Part, Sequence[Window]]] = []
    choosing: list[tuple[Part, Sequence[Window]]] = []
    for part in calibration.parts:
        chosen = _spread(sorted(choosing_places(part)), settings.judge)
        rest = [place for place in range(len(part.windows)) if place not in chosen]
        generator = torch.Generator().manual_seed(settings.seed)
        mixed = torch.randperm(len(rest), generator=generator).tolist()
        trained.append((part, [part.windows[rest[place]] for place in mixed]))
        choosing.append((part, [part.windows[place] for place in chosen]))
    require_windows(calibration, settings)
    shown = [part.held_out().windows for part in calibration.parts]
    held_out = [
        (part, [windows[place] for place in _spread(range(len(windows)), settings.judge)])
        for part, windows in zip(calibration.parts, shown, strict=True)
    ]
    laid = (_laid(each, call_tokens, settings.batch) for each in (trained, choosing, held_out))
    return DistillationData(*laid)


def _laid(
    sources: Sequence[tuple[Part, Sequence[Window]]], call_tokens: int, most: int
) -> tuple[DistillationBatch, ...]:
    found = []
    for part, windows in sources:
        for tokens in stacked(windows, call_tokens):
            shares = part.share / len(windows)
            found += [
                DistillationBatch(few, shares * len(few)) for few in torch.split(tokens, most)
            ]
    return tuple(found)


def _spread(places: Sequence[int], most: int) -> list[int]:
    """At most so many of the places, evenly spaced."""
    count = min(most, len(places))
    return [places[index * len(places) // count] for index in range(count)]


def require_windows(calibration: Calibration, settings: Trained) -> None:
    """Refuse a calibration with too few windows to train on.

    Raises:
        CalibrationError: If a source has a single window, or there are fewer than a step takes.
    """
    chosen = sum(min(settings.judge, len(choosing_places(p))) for p in calibration.parts)
    windows = len(calibration.windows) - chosen
    if windows < settings.batch:
        raise CalibrationError(
            f"--recover {settings.name}: {windows} of {len(calibration.windows)} windows to train "
            f"on, and a step takes {settings.batch}; give more, by windows=, or a lower batch="
        )
