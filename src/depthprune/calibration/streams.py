"""A source's tokens, one after the other.

Each source's text is tokenised once, to the tokens of the whole text without special ones, so that
a window begins in the middle of running text as a model meets it, and no window's tokens depend on
where it was cut.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from depthprune.calibration.pieces import Encoder, Ids, Pieces
from depthprune.calibration.reading.documents import Document

_SEPARATOR = "\n\n"


@dataclass(frozen=True)
class TokenStream:
    """The tokens of a source.

    Attributes:
        tokens: All documents' tokens, one after the other.
        starts: Where each document begins, ascending.
        names: The documents' names.
        gap: Tokens of the separator behind each document but the last.
    """

    tokens: Ids
    starts: NDArray[np.int64]
    names: tuple[str, ...]
    gap: int

    def document_at(self, position: int) -> str:
        """Name of the document that a position lies in (or follows, within a separator)."""
        return self.names[int(np.searchsorted(self.starts, position, side="right")) - 1]

    def document(self, index: int) -> Ids:
        """Tokens of one document."""
        last = index + 1 == len(self.starts)
        end = len(self.tokens) if last else int(self.starts[index + 1]) - self.gap
        return self.tokens[int(self.starts[index]) : end]

    def only(self, chosen: Sequence[int]) -> TokenStream:
        """The stream of these documents, in this order.

        Args:
            chosen: Indices of documents, at least one.
        """
        whole = [i for i in range(len(self.names) - 1) if self.gap]
        end = int(self.starts[whole[0] + 1]) if whole else 0
        separator = self.tokens[end - self.gap : end]
        pieces, starts, position = [], [], 0
        for place, index in enumerate(chosen):
            tail = separator if place + 1 < len(chosen) else separator[:0]
            pieces += [self.document(index), tail]
            starts.append(position)
            position += len(pieces[-2]) + len(tail)
        names = tuple(self.names[index] for index in chosen)
        return TokenStream(np.concatenate(pieces), np.asarray(starts), names, self.gap)


def tokenize(documents: Sequence[Document], tokenizer: Any) -> TokenStream:
    """Tokenise documents, joined by blank lines, without special tokens.

    Args:
        documents: At least one.
        tokenizer: A tokenizer from transformers.
    """
    return Tokenising(documents, tokenizer).stream()


class Tokenising:
    """Documents that are tokenised no further than what is asked of them.

    Windows from the start of a long text need no more than its start; the rest is tokenised when
    something else is drawn. Of what was tokenised to its end the text is not kept.
    """

    def __init__(self, documents: Sequence[Document], tokenizer: Any) -> None:
        self._names = tuple(document.name for document in documents)
        self._pieces = Pieces(Encoder(tokenizer))
        self._separator = np.asarray(self._pieces.encoder.one(_SEPARATOR), dtype=np.int32)
        self._rest = self._pieces.tokens(document.running for document in documents)
        self._done: list[Ids] = []
        self._starts: list[int] = []
        self._count = 0
        self._ended = False

    def stream(self, tokens: int | None = None) -> TokenStream:
        """The documents' tokens, from the first on.

        Args:
            tokens: How many are enough; None for all.
        """
        while not self._ended and (tokens is None or self._count < tokens):
            number, ids = next(self._rest, (0, None))
            if ids is None:
                self._ended = True
                self._rest = iter(())
                break
            while len(self._starts) <= number:
                if self._starts:
                    self._add(self._separator)
                self._starts.append(self._count)
            self._add(ids)
        if len(self._done) > 1:
            self._done = [np.concatenate(self._done)]
        begun = len(self._starts)
        return TokenStream(
            self._done[0], np.asarray(self._starts), self._names[:begun], len(self._separator)
        )

    def _add(self, ids: Ids) -> None:
        self._done.append(ids)
        self._count += len(ids)

    @property
    def notes(self) -> tuple[str, ...]:
        """What should be known of the tokens."""
        found = self._pieces.unproved
        if not found:
            return ()
        return (
            f"cut in {found} places where no two words meet; tokens there may differ from those of "
            "the text taken whole",
        )
