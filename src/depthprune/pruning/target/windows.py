"""The windows of a target's part: as many as decide, drawn from all that it has.

Examples and conversations are made into windows one by one, so of a hundred thousand only those are
that are needed, and nothing else of them is read later: what a template refuses is said before
anything is spent. Text is cut whole: which windows it has is known only then.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from depthprune.calibration import CalibrationSpec, LoadedSource, Window
from depthprune.calibration.drawing import TooLittleText
from depthprune.calibration.examples import ExamplePool
from depthprune.errors import CalibrationError
from depthprune.pruning.target.options import PARTS, Split

LEAST_WINDOWS = 8
"""Windows that every part has; below that nothing is known of the spread between them."""


def sample(spec: CalibrationSpec, source: LoadedSource, seed: int, most: int) -> tuple[Window, ...]:
    """As many windows as have so many tokens, `LEAST_WINDOWS` or more, in their order.

    Args:
        spec: Of all windows.
        source: What they are drawn from.
        seed: Of the draw.
        most: How many tokens; where there are fewer, all windows are taken.
    """
    chosen: list[tuple[int, Window]] = []
    tokens = 0
    for place, window in _drawn(spec, source, seed):
        tokens += len(window.tokens)
        if tokens > most and len(chosen) >= LEAST_WINDOWS:
            break
        chosen.append((place, window))
    return tuple(window for _, window in sorted(chosen, key=lambda each: each[0]))


def _drawn(spec: CalibrationSpec, source: LoadedSource, seed: int) -> Iterator[tuple[int, Window]]:
    """Every window with its place, in a drawn order."""
    pool, rng = source.pool, np.random.default_rng([seed, 4])
    if isinstance(pool, ExamplePool):
        order = rng.permutation(len(pool.documents)).tolist()
        yield from ((window.start, window) for window in pool.those_that_fit(spec, order))
        return
    try:
        windows = pool.draw(spec, "whole")
    except TooLittleText:
        return
    for place in rng.permutation(len(windows)).tolist():
        yield place, windows[place]


def looked_at(source: LoadedSource) -> list[int] | None:
    """Which examples became windows or were found too long; None where all did, and of text."""
    pool = source.pool
    if not isinstance(pool, ExamplePool) or len(pool.fits) == len(pool.documents):
        return None
    return sorted(pool.fits)


def too_long(sources: Sequence[LoadedSource]) -> int:
    """How many examples that were looked at are longer than `length`."""
    pools = [source.pool for source in sources]
    return sum(list(p.fits.values()).count(False) for p in pools if isinstance(p, ExamplePool))


@dataclass(frozen=True)
class TooFew:
    """What is said where a part has too few windows.

    Attributes:
        spec: What was read.
        what: What it has: examples, documents or passages.
        have: How many.
        repeats: How many were left out, since they repeat another.
        split: The shares of the parts.
    """

    spec: CalibrationSpec
    what: str
    have: int
    repeats: int
    split: Split

    def error(self, counts: Sequence[int], long: int = 0) -> CalibrationError:
        """One line that says how much is needed.

        Args:
            counts: Windows of each part.
            long: Examples that are longer than a window.
        """
        spec = self.spec
        named = ", ".join(f"{count} to {part}" for count, part in zip(counts, PARTS, strict=True))
        have = f"{self.have:,} {self.what}"
        if self.repeats:
            have += f" ({self.repeats:,} repeats of them are left out)"
        if long:
            return CalibrationError(
                f"--for {spec.short()}: of its {have} {long:,} are longer than length="
                f"{spec.length} tokens, which leaves {named}, and each part needs "
                f"{LEAST_WINDOWS}; raise length=, or give more short ones"
            )
        if self.what == "examples":
            need = math.ceil(LEAST_WINDOWS / self.split.smallest)
            return CalibrationError(
                f"--for {spec.short()}: {have} make three parts of {LEAST_WINDOWS} or more only "
                f"from {need} on (of these: {named}); give {need} or more, or even out --for-split"
            )
        need = math.ceil(LEAST_WINDOWS * spec.length / self.split.smallest * 1.25)
        return CalibrationError(
            f"--for {spec.short()}: its {have} give windows of {spec.length} tokens: {named}; "
            f"each part needs {LEAST_WINDOWS}: give about {need:,} tokens of text or more, lower "
            "length=, or even out --for-split"
        )
