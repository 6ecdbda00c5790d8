"""A window: one sequence of tokens scored as a unit, and what makes it a multiple-choice item."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Tokens = NDArray[np.int64]
Split = Literal["draw", "held-out", "whole"]


@dataclass(frozen=True)
class Item:
    """What makes a window a multiple-choice item.

    The prompt is `tokens[:spans[0][0]]`; the options follow one another without gaps. Each option
    is to be read as prompt + that option alone, its positions going on from the prompt's.

    Attributes:
        spans: Start and stop of each option's tokens in `Window.tokens`.
        answer: Index of the correct option.
        bytes: UTF-8 bytes of each option's text, without the space before it.
        characters: Unicode characters of the same; None where they are as many as the bytes.
    """

    spans: tuple[tuple[int, int], ...]
    answer: int
    bytes: tuple[int, ...]
    characters: tuple[int, ...] | None = None

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence that is read for it: the prompt and one option."""
        prompt = self.spans[0][0]
        return max(prompt + stop - start for start, stop in self.spans)

    def facts(self) -> NDArray[np.int64]:
        """All of it as numbers."""
        sizes = [*self.bytes, *(self.characters or ())]
        return np.asarray([*sum(self.spans, ()), self.answer, *sizes], dtype="<i8")


@dataclass(frozen=True)
class Window:
    """One sequence of tokens scored as a unit.

    Attributes:
        tokens: Token ids, shape (length,), int64.
        scored: Whether each token's probability counts, shape (length,), bool; never the first's.
            Of an item, the tokens of all options.
        document: Name of the document in which it begins.
        start: Position of its first text token among the source's tokens, documents that are not
            read left out (within its document, where windows do not run across documents); of a
            window that is one example, the example's number in its source.
        item: Its options, if it is a multiple-choice item.
    """

    tokens: Tokens
    scored: NDArray[np.bool_]
    document: str
    start: int
    item: Item | None = None


def plain_window(
    ids: Sequence[int], document: str, start: int, mask: str = "all", answer: int = 1
) -> Window:
    """A window without options.

    Args:
        ids: Its tokens, two or more.
        document: Name of the document in which it begins.
        start: See `Window`.
        mask: Which tokens count: `all` but the first, the `answer`'s, the `last`.
        answer: Where the answer begins.
    """
    scored = np.zeros(len(ids), dtype=np.bool_)
    scored[{"all": 1, "answer": max(1, answer), "last": len(ids) - 1}[mask] :] = True
    return Window(np.asarray(ids, dtype=np.int64), scored, document, start)
