"""Random items and windows of text as calibrations, for tests of the evaluator."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from depthprune.calibration import Calibration, CalibrationSpec, Item, Part, Window


def random_item(rng: np.random.Generator, vocabulary: int = 300, longest: int = 9) -> Window:
    """An item with a prompt of 1 to `longest` tokens and 2 to 4 options of 1 to 4."""
    prompt = int(rng.integers(1, longest))
    return item_of(rng, prompt, rng.integers(1, 5, size=rng.integers(2, 5)).tolist(), vocabulary)


def item_of(
    rng: np.random.Generator, prompt: int, options: Sequence[int], vocabulary: int = 300
) -> Window:
    """An item of random tokens, so many in its prompt and in each option."""
    lengths = [prompt, *options]
    ends = np.cumsum(lengths).tolist()
    spans = tuple(itertools.pairwise(ends))
    tokens = rng.integers(3, vocabulary, size=ends[-1])
    item = Item(spans, int(rng.integers(len(spans))), tuple(3 * (b - a) for a, b in spans))
    return Window(tokens, np.arange(len(tokens)) >= lengths[0], "items", 0, item)


def random_text(rng: np.random.Generator, length: int = 24, vocabulary: int = 300) -> Window:
    """A window of random tokens, all but the first scored."""
    return Window(rng.integers(3, vocabulary, size=length), np.arange(length) > 0, "text", 0)


def calibration_of(*parts: list[Window]) -> Calibration:
    """A calibration of given windows, each list a source of equal share."""
    spec = CalibrationSpec(source="text", target="given")
    nothing: Any = None
    return Calibration(
        tuple(Part(spec, 1 / len(parts), tuple(windows), nothing) for windows in parts)
    )
