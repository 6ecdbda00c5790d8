"""Cutting windows out of tokens.

Each source's text is tokenised once, whole, without special tokens, so that a window begins in the
middle of running text as a model meets it, and no window's tokens depend on where it was cut.
Random windows are drawn uniformly among all placements that do not overlap. The last tenth of the
tokens (or documents, where windows do not run across them) is held out from every draw.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from depthprune.calibration.sources import Document
from depthprune.calibration.spec import CalibrationSpec
from depthprune.errors import CalibrationError

Tokens = NDArray[np.int64]
Split = Literal["draw", "held-out", "whole"]

_SEPARATOR = "\n\n"
_HELD_OUT = 10


@dataclass(frozen=True)
class Item:
    """What makes a window an item: a prompt and its options, each read as prompt + that option.

    Attributes:
        spans: Start and stop of each option's tokens in the window's; the prompt stands before the
            first, and the options follow one another without gaps.
        answer: Index of the right option.
        bytes: UTF-8 bytes of each option's text.
    """

    spans: tuple[tuple[int, int], ...]
    answer: int
    bytes: tuple[int, ...]


@dataclass(frozen=True)
class Window:
    """One sequence of tokens scored as a unit.

    Attributes:
        tokens: Token ids, shape (length,), int64.
        scored: Whether each token's probability counts, shape (length,), bool; never the first's.
        document: Name of the document in which it begins.
        start: Position of its first text token among the source's tokens (within its document,
            where windows do not run across documents).
        item: For a window that is an item, its options; `scored` marks the tokens of all.
    """

    tokens: Tokens
    scored: NDArray[np.bool_]
    document: str
    start: int
    item: Item | None = None


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


def tokenize(documents: Sequence[Document], tokenizer: Any) -> TokenStream:
    """Tokenise documents, joined by blank lines, without special tokens.

    Args:
        documents: At least one.
        tokenizer: A tokenizer from transformers.
    """
    texts = [document.text for document in documents]
    ids = tokenizer([*texts, _SEPARATOR], add_special_tokens=False, verbose=False)["input_ids"]
    separator, pieces, starts, position = ids.pop(), [], [], 0
    for index, piece in enumerate(ids):
        starts.append(position)
        tail = separator if index + 1 < len(ids) else []
        pieces.append(np.asarray([*piece, *tail], dtype=np.int64))
        position += len(pieces[-1])
    names = tuple(document.name for document in documents)
    return TokenStream(np.concatenate(pieces), np.asarray(starts), names, len(separator))


def draw_windows(
    spec: CalibrationSpec, stream: TokenStream, split: Split, bos: int | None
) -> tuple[Window, ...]:
    """The windows of a spec.

    Args:
        spec: What to draw.
        stream: The source's tokens.
        split: `draw`: outside the last tenth. `held-out`: as many windows again (at most the
            spec's number) from the last tenth, shortened if it is shorter than one window.
            `whole`: outside the last tenth where windows are random, else from the start of the
            text as far as need be.
        bos: The token that begins every window, if the spec asks for one.

    Raises:
        CalibrationError: If the text is too short.
    """
    rng = np.random.default_rng([spec.seed, int(split == "held-out")])
    lead = [] if bos is None else [bos]
    length = spec.length - len(lead)
    cut = _cut_packed if spec.pack else _cut_documents
    places = cut(spec, stream, split, length, rng)
    windows = []
    for name, start, tokens in places:
        ids = np.concatenate([np.asarray(lead, dtype=np.int64), tokens])
        scored = np.ones(len(ids), dtype=np.bool_)
        scored[0] = False
        windows.append(Window(ids, scored, name, start))
    return tuple(windows)


Place = tuple[str, int, Tokens]


def _cut_packed(
    spec: CalibrationSpec,
    stream: TokenStream,
    split: Split,
    length: int,
    rng: np.random.Generator,
) -> list[Place]:
    total = len(stream.tokens)
    border = total - total // _HELD_OUT
    low, high = {
        "draw": (0, border),
        "held-out": (border, total),
        "whole": (0, total if _consecutive(spec) else border),
    }[split]
    if split == "held-out":
        length = min(length, high - low)
    room = (high - low) // length if length else 0
    if room < 1 or length + spec.bos < 2:
        raise _too_short(spec, total, high - low, split)
    count = room if spec.windows == "all" else spec.windows
    if count > room:
        if split != "held-out":
            raise _too_short(spec, total, high - low, split)
        count = room
    if _consecutive(spec):
        starts = low + length * np.arange(count)
    else:
        slack = high - low - count * length
        chosen = np.sort(rng.choice(slack + count, count, replace=False))
        starts = low + chosen + np.arange(count) * (length - 1)
    return [
        (stream.document_at(int(s)), int(s), stream.tokens[int(s) : int(s) + length])
        for s in starts
    ]


def _cut_documents(
    spec: CalibrationSpec,
    stream: TokenStream,
    split: Split,
    length: int,
    rng: np.random.Generator,
) -> list[Place]:
    total = len(stream.names)
    border = total - max(1, total // _HELD_OUT)
    chosen = {
        "draw": range(border),
        "held-out": range(border, total),
        "whole": range(total if _consecutive(spec) else border),
    }[split]
    long = [i for i in chosen if len(stream.document(i)) >= length]
    count = len(long) if spec.windows == "all" else spec.windows
    if split == "held-out":
        count = min(count, len(long))
    if not long or count > len(long):
        raise CalibrationError(
            f"{spec.short()}: {len(long)} of its {len(chosen)} documents have {length} tokens or "
            f"more, and windows={spec.windows} was asked with pack=false; lower length= or "
            "windows=, or pass pack=true"
        )
    if _consecutive(spec):
        return [(stream.names[i], 0, stream.document(i)[:length]) for i in long[:count]]
    places = []
    for i in sorted(rng.choice(long, count, replace=False).tolist()):
        tokens = stream.document(i)
        start = int(rng.integers(len(tokens) - length + 1))
        places.append((stream.names[i], start, tokens[start : start + length]))
    return places


def _consecutive(spec: CalibrationSpec) -> bool:
    return spec.order == "first" or spec.windows == "all"


def _too_short(spec: CalibrationSpec, total: int, room: int, split: Split) -> CalibrationError:
    if split == "held-out":
        return CalibrationError(
            f"{spec.short()}: {total:,} tokens leave {room} in the last tenth, which is held out "
            "for the losses that are reported; give at least 20 tokens of text"
        )
    need = spec.length * (1 if spec.windows == "all" else spec.windows)
    held = "" if room == total else f" ({room:,} outside the last tenth, which is held out)"
    return CalibrationError(
        f"{spec.short()}: windows={spec.windows},length={spec.length} needs {need:,} tokens and "
        f"the text has {total:,}{held}; lower windows= or length=, or give more text"
    )
