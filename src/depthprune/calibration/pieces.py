"""Tokenising a long text in pieces, to the same tokens as the whole.

A tokenizer keeps a hundred bytes or more of each token while it works, and works on one core at one
text, so a long text is cut and several pieces are tokenised at once. A cut is made only where it
changes nothing: between two words, before the space (which BPE and metaspace tokenizers begin the
second word with), or in place of it (for those that put a space before every text by themselves),
else at a line's end or beside a mark. Each cut is proved where it lies: what stands around it is
tokenised whole and cut, and must give the same tokens. Where nothing within reach passes, as in a
megabyte without a word, the text is cut all the same, and the calibration says so.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int32]

PIECE = 2**16
"""Characters of a piece, about."""

_AT_ONCE = 16
"""Pieces that are tokenised in one call."""

_AROUND = 200
"""Characters on either side of a cut by which it is proved."""

_REACH = 4096
"""Characters before a piece's full length in which a cut is looked for, before half of it is."""

_TRIES = 12

_CUTS = (
    re.compile(r"(?<=[^\W\d_])(?= [^\W\d_])"),
    re.compile(r"(?<=\S\n)(?=[^\W\d_])"),
    re.compile(r"(?<=[^\W\d_])(?=[^\w\s'’])"),
    re.compile(r"(?<=[^\w\s])(?=[^\W\d_])"),
)
"""Where a text may be cut, the most natural first."""


@dataclass(frozen=True)
class Cut:
    """Where a text is cut.

    Attributes:
        end: Where the first piece ends.
        start: Where the next begins, a space further where the tokenizer puts one there itself.
        proved: Whether the tokens around are those of the text taken whole.
    """

    end: int
    start: int
    proved: bool


@dataclass(frozen=True)
class Encoder:
    """A tokenizer, many texts at once and nothing but their ids kept.

    Attributes:
        tokenizer: A tokenizer from transformers.
    """

    tokenizer: Any

    def one(self, text: str) -> list[int]:
        """The tokens of a text, without special ones."""
        ids: list[int] = self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        return ids

    def many(self, texts: Sequence[str]) -> list[Ids]:
        """The tokens of several texts."""
        fast = getattr(
            getattr(self.tokenizer, "backend_tokenizer", None), "encode_batch_fast", None
        )
        if fast is None:
            found = self.tokenizer(list(texts), add_special_tokens=False, verbose=False)
            return [np.asarray(ids, dtype=np.int32) for ids in found["input_ids"]]
        # What the tokenizer does around its Rust part is done once, and must come to the same.
        probe = texts[0][:_AROUND]
        expected = self.one(probe)
        if fast([probe], add_special_tokens=False)[0].ids != expected:
            found = self.tokenizer(list(texts), add_special_tokens=False, verbose=False)
            return [np.asarray(ids, dtype=np.int32) for ids in found["input_ids"]]
        encoded = fast(list(texts), add_special_tokens=False)
        return [np.asarray(each.ids, dtype=np.int32) for each in encoded]


def cut_at(text: str, before: int, encoder: Encoder) -> Cut:
    """Where a text is cut, at most `before` characters from its start.

    Args:
        text: The text, which is longer.
        before: The most that the first piece may have.
        encoder: The tokenizer that the cut must mean nothing to.
    """
    for reach in (_REACH, before // 2):
        low = max(1, before - reach)
        for pattern in _CUTS:
            places = [found.start() for found in pattern.finditer(text, low, before + 1)]
            for place in places[: -_TRIES - 1 : -1]:
                if (cut := _proved(text, place, encoder)) is not None:
                    return cut
    return Cut(before, before, False)


def _proved(text: str, place: int, encoder: Encoder) -> Cut | None:
    """The cut at a place, before its space or in its stead, if it changes no token."""
    left = text[max(0, place - _AROUND) : place]
    right = text[place : place + _AROUND]
    whole, first = encoder.one(left + right), encoder.one(left)
    if whole == first + encoder.one(right):
        return Cut(place, place, True)
    if right.startswith(" ") and whole == first + encoder.one(right[1:]):
        return Cut(place, place + 1, True)
    return None


@dataclass
class Pieces:
    """The pieces of many texts, and how many cuts could not be proved.

    Attributes:
        encoder: The tokenizer.
        unproved: Cuts after which tokens may differ from those of the text taken whole.
    """

    encoder: Encoder
    unproved: int = 0

    def of(self, text: str) -> Iterator[str]:
        """A text in pieces, which is itself where it is short."""
        start = 0
        while len(text) - start > PIECE + _REACH:
            # The cut needs what stands around it, and no copy of all the rest.
            near = text[start : start + PIECE + _AROUND]
            cut = cut_at(near, PIECE, self.encoder)
            self.unproved += not cut.proved
            yield near[: cut.end]
            start += cut.start
        yield text[start:]

    def tokens(self, texts: Iterable[str]) -> Iterator[tuple[int, Ids]]:
        """Each text's number with some of its tokens, in order, in as many pieces as it takes."""
        flat = ((number, piece) for number, text in enumerate(texts) for piece in self.of(text))
        while group := list(_batch(flat)):
            encoded = self.encoder.many([piece for _, piece in group])
            yield from ((number, ids) for (number, _), ids in zip(group, encoded, strict=True))


def _batch(flat: Iterator[tuple[int, str]]) -> Iterator[tuple[int, str]]:
    """As many pieces as make a full call, however short they are."""
    size = 0
    for number, piece in islice(flat, 4096):
        yield number, piece
        size += len(piece)
        if size >= _AT_ONCE * PIECE:
            return
