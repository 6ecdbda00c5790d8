"""A source's tokens, one after the other.

Each source's text is tokenised once, whole, without special tokens, so that a window begins in the
middle of running text as a model meets it, and no window's tokens depend on where it was cut.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from depthprune.calibration.documents import Document
from depthprune.calibration.windows import Tokens

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

    tokens: Tokens
    starts: NDArray[np.int64]
    names: tuple[str, ...]
    gap: int

    def document_at(self, position: int) -> str:
        """Name of the document that a position lies in (or follows, within a separator)."""
        return self.names[int(np.searchsorted(self.starts, position, side="right")) - 1]

    def document(self, index: int) -> Tokens:
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
    texts = [document.running for document in documents]
    ids = tokenizer([*texts, _SEPARATOR], add_special_tokens=False, verbose=False)["input_ids"]
    separator, pieces, starts, position = ids.pop(), [], [], 0
    for index, piece in enumerate(ids):
        starts.append(position)
        tail = separator if index + 1 < len(ids) else []
        pieces.append(np.asarray([*piece, *tail], dtype=np.int64))
        position += len(pieces[-1])
    names = tuple(document.name for document in documents)
    return TokenStream(np.concatenate(pieces), np.asarray(starts), names, len(separator))
