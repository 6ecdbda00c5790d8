"""Which documents each part has: by size, in a drawn order.

Questions on one passage stay in one part, as neighbours of one text do: what is calibrated on would
else have read what judges. A passage is known by its words alone, since rows of all forms have
theirs inside the prompt: the longest line of what is asked. What very many rows begin with is an
instruction and no passage.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from depthprune.calibration import Document
from depthprune.pruning.target.options import Split

_PASSAGE = 200
"""Characters of a passage, at the least. Questions are shorter, and each has its own."""

_ROUNDING = 1e-9


def shared_out(
    documents: Sequence[Document],
    sizes: Sequence[int],
    split: Split,
    rng: np.random.Generator,
) -> tuple[list[int], list[int], list[int]]:
    """The places of each part's documents, in the source's order.

    Args:
        documents: All of them.
        sizes: What each counts.
        split: The shares of the parts.
        rng: Draws the order.
    """
    groups = _groups(documents, split.smallest / 2)
    order = rng.permutation(len(groups)).tolist()
    lengths = [sum(sizes[place] for place in groups[each]) for each in order]
    ends = np.cumsum(lengths) / max(sum(sizes), 1)
    first, second = split.calibrate, split.calibrate + split.choose
    parts: tuple[list[int], list[int], list[int]] = ([], [], [])
    for each, end in zip(order, ends.tolist(), strict=True):
        # What reaches over a border belongs to the part behind it; rounding is no reach.
        part = 0 if end <= first + _ROUNDING else (1 if end <= second + _ROUNDING else 2)
        parts[part].extend(groups[each])
    for found in parts:
        found.sort()
    return parts


def _groups(documents: Sequence[Document], largest: float) -> list[list[int]]:
    """Places of the documents that must stay together; more than a share of all never do."""
    asked_of: dict[str | int, list[int]] = {}
    for place, document in enumerate(documents):
        asked_of.setdefault(_passage(document) or place, []).append(place)
    groups: list[list[int]] = []
    for places in asked_of.values():
        groups += [places] if len(places) <= largest * len(documents) else [[p] for p in places]
    return sorted(groups)


def _passage(document: Document) -> str:
    """What a document's question is asked of, if that is anything long."""
    if document.chat is not None:
        told = zip(document.chat.turns, document.chat.texts(), strict=True)
        asked = [text for turn, text in told if turn["role"] != "assistant"]
    else:
        asked = [document.prompt or ""]
    longest = max(
        (line.strip() for text in asked for line in text.splitlines()), key=len, default=""
    )
    return longest if len(longest) >= _PASSAGE else ""
