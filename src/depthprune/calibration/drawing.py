"""Cutting windows out of a source's tokens.

Random windows are drawn uniformly among all placements that do not overlap. The last tenth of the
tokens (or documents, where windows do not run across them or documents are sampled) is held out
from every draw.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from depthprune.calibration.bos import with_bos
from depthprune.calibration.pieces import Ids
from depthprune.calibration.spec import CalibrationSpec
from depthprune.calibration.streams import TokenStream
from depthprune.calibration.windows import Split, Window, plain_window
from depthprune.errors import CalibrationError

HELD_OUT = 10
"""One part in so many of a source is held out from every draw."""

RequiredType = tuple[str, int, Ids]


class TooLittleText(CalibrationError):
    """A source gives fewer windows than were asked for."""


def draw_windows(
    spec: CalibrationSpec, stream: TokenStream, split: Split, lead: Sequence[int] = ()
) -> tuple[Window, ...]:
    """The windows of a spec.

    Args:
        spec: What to draw.
        stream: The source's tokens.
        split: `draw`: outside the last tenth. `held-out`: as many windows again (at most the
            spec's number) from the last tenth, shortened if it is shorter than one window.
            `whole`: outside the last tenth where windows are random, else from the start of the
            text as far as need be.
        lead: The tokens that begin every window and count towards its length.

    Raises:
        CalibrationError: If the text is too short.
    """
    rng = np.random.default_rng([spec.seed, int(split == "held-out")])
    if spec.pack:
        places = _cut_packed(spec, *_packed(spec, stream, split), split, len(lead), rng)
    else:
        places = _cut_documents(spec, stream, split, len(lead), rng)
    return tuple(
        plain_window(with_bos(lead, tokens.tolist()), name, start, spec.mask)
        for name, start, tokens in places
    )


def tokens_enough(spec: CalibrationSpec, split: Split) -> int | None:
    """How many of a text's first tokens decide a draw; None where all do."""
    from_the_start = (
        spec.order == "first"
        and spec.windows != "all"
        and spec.pack
        and split != "held-out"
        and spec.documents is None
        and spec.min_length is None
    )
    if not from_the_start:
        return None
    # So many that the windows lie outside their last tenth, as they lie outside the text's.
    return _count(spec, 0) * spec.length * HELD_OUT // (HELD_OUT - 1) + HELD_OUT


def _packed(spec: CalibrationSpec, stream: TokenStream, split: Split) -> tuple[
    TokenStream, int, int
]:  # fmt: skip
    """The stream that windows are cut from, and the first and last position for the split."""
    chosen: Sequence[int] = range(len(stream.names))
    if spec.min_length is not None:
        chosen = [i for i in chosen if len(stream.document(i)) >= spec.min_length]
        if not chosen:
            raise CalibrationError(
                f"{spec.short()}: none of its {len(stream.names)} documents has "
                f"min_length={spec.min_length} tokens; lower it"
            )
    if spec.documents is not None:
        border = document_border(len(chosen))
        if split == "held-out":
            chosen = chosen[border:]
        else:
            chosen = [chosen[i] for i in _sample_documents(spec, border)]
        kept = stream.only(chosen)
        return kept, 0, len(kept.tokens)
    kept = stream if spec.min_length is None else stream.only(chosen)
    total = len(kept.tokens)
    border = total - total // HELD_OUT
    if split == "held-out":
        return kept, border, total
    return kept, 0, total if split == "whole" and spec.consecutive else border


def document_border(total: int) -> int:
    """How many of a source's documents are drawn from; the last tenth is held out."""
    return total - max(1, total // HELD_OUT)


def documents_of(spec: CalibrationSpec, split: Split, total: int) -> range:
    """Which of a source's documents a split may draw from."""
    border = document_border(total)
    if split == "draw":
        return range(border)
    if split == "held-out":
        return range(border, total)
    return range(total if spec.consecutive else border)


def _sample_documents(spec: CalibrationSpec, border: int) -> list[int]:
    """A seeded sample of documents outside the last tenth, in the order that it fell."""
    assert spec.documents is not None
    if spec.documents > border:
        raise CalibrationError(
            f"{spec.short()}: documents={spec.documents}, and it has {border} outside the last "
            "tenth, which is held out; lower documents="
        )
    rng = np.random.default_rng([spec.seed, 2])
    found: list[int] = rng.choice(border, spec.documents, replace=False).tolist()
    return found


def _cut_packed(
    spec: CalibrationSpec,
    stream: TokenStream,
    low: int,
    high: int,
    split: Split,
    lead: int,
    rng: np.random.Generator,
) -> list[RequiredType]:
    total, length = len(stream.tokens), spec.length - lead
    if split == "held-out":
        length = min(length, high - low)
    room = (high - low) // length if length else 0
    if room < 1 or length + lead < 2:
        raise _too_short(spec, total, high - low, split)
    count = _count(spec, room)
    if count > room:
        if split != "held-out":
            raise _too_short(spec, total, high - low, split)
        count = room
    if spec.consecutive:
        starts = low + length * np.arange(count)
    else:
        slack = high - low - count * length
        chosen = np.sort(rng.choice(slack + count, count, replace=False))
        starts = low + chosen + np.arange(count) * (length - 1)
    return [
        (stream.document_at(int(s)), int(s), stream.tokens[int(s) : int(s) + length])
        for s in starts
    ]


def _count(spec: CalibrationSpec, room: int) -> int:
    """How many windows of full length are asked for; `room` for all."""
    if spec.windows == "all":
        return room
    return spec.windows if spec.windows is not None else (spec.tokens or 0) // spec.length


def _cut_documents(
    spec: CalibrationSpec,
    stream: TokenStream,
    split: Split,
    lead: int,
    rng: np.random.Generator,
) -> list[RequiredType]:
    total, length = len(stream.names), spec.length - lead
    border = document_border(total)
    chosen: Sequence[int] = documents_of(spec, split, total)
    if spec.documents is not None and split != "held-out":
        chosen = sorted(_sample_documents(spec, border))
    # Without a minimum, every window has its full length.
    least = max(length if spec.min_length is None else spec.min_length - lead, 2 - lead)
    long = [i for i in chosen if len(stream.document(i)) >= least]
    held_out = split == "held-out"
    if not spec.consecutive and spec.tokens is not None:
        long = rng.permutation(long).tolist()
    sizes = [min(length, len(stream.document(i))) + lead for i in long]
    count = within_budget(spec, sizes, at_most=held_out)
    if count is None:
        apart = " outside the last tenth, which is held out," if split == "draw" else ""
        raise CalibrationError(
            f"{spec.short()}: {len(long)} of its {len(chosen)} documents{apart} have {least} "
            f"tokens or more, and {spec.amount} was asked with pack=false; lower length= or "
            "windows=, or pass pack=true"
        )
    if spec.consecutive:
        return [(stream.names[i], 0, stream.document(i)[:length]) for i in long[:count]]
    if spec.tokens is None:
        long = rng.choice(long, count, replace=False).tolist()
    places = []
    for i in sorted(long[:count]):
        tokens = stream.document(i)
        start = int(rng.integers(max(0, len(tokens) - length) + 1))
        places.append((stream.names[i], start, tokens[start : start + length]))
    return places


def within_budget(
    spec: CalibrationSpec, sizes: Sequence[int], *, at_most: bool = False
) -> int | None:
    """How many of these windows are taken, or None where there are too few.

    Args:
        spec: Whose `windows` or `tokens` count.
        sizes: Tokens of each window, in the order in which they are taken.
        at_most: Take what there is where it is less than was asked for.
    """
    if not sizes:
        return None
    if spec.windows == "all":
        return len(sizes)
    if spec.windows is not None:
        enough = spec.windows <= len(sizes)
        count = spec.windows if enough else len(sizes)
    else:
        totals, budget = np.cumsum(sizes), spec.tokens or 0
        # One more window, were there one, might not fit.
        enough = bool(totals[-1] > budget - max(sizes))
        count = int(np.searchsorted(totals, budget, side="right"))
        enough, count = enough and count > 0, max(count, 1)
    return count if enough or at_most else None


def _too_short(spec: CalibrationSpec, total: int, room: int, split: Split) -> CalibrationError:
    if split == "held-out":
        return TooLittleText(
            f"{spec.short()}: {total:,} tokens leave {room} in the last tenth, which is held out "
            "for the losses that are reported; give at least 20 tokens of text"
        )
    need = spec.length * max(1, _count(spec, 1))
    held = "" if room == total else f" ({room:,} outside the last tenth, which is held out)"
    return TooLittleText(
        f"{spec.short()}: {spec.amount},length={spec.length} needs {need:,} tokens and "
        f"the text has {total:,}{held}; lower windows= or length=, or give more text"
    )
