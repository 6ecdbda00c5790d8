"""One source of a calibration: what was drawn, and what further draws are taken from.

A part keeps what it was drawn from, so that a draw can be repeated with other seeds without reading
anything again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import numpy as np

from depthprune.calibration.drawing import draw_windows, tokens_enough
from depthprune.calibration.overlap import Overlap, measure_overlap
from depthprune.calibration.spec import CalibrationSpec, Reduction
from depthprune.calibration.streams import Tokenising
from depthprune.calibration.windows import Split, Window


class Pool(Protocol):
    """What windows are drawn from, again and again."""

    def draw(self, spec: CalibrationSpec, split: Split) -> tuple[Window, ...]:
        """The windows of a spec."""


@dataclass(frozen=True)
class TextPool:
    """Running text: windows are cut out of a source's tokens."""

    text: Tokenising
    lead: tuple[int, ...]

    def draw(self, spec: CalibrationSpec, split: Split) -> tuple[Window, ...]:
        """See `drawing.draw_windows`."""
        stream = self.text.stream(tokens_enough(spec, split))
        return draw_windows(spec, stream, split, self.lead)

    @property
    def notes(self) -> tuple[str, ...]:
        """What should be known of its tokens."""
        return self.text.notes


@dataclass(frozen=True)
class LoadedSource:
    """A source that was read: everything a draw needs but the spec.

    Attributes:
        pool: What windows are drawn from.
        tokenizer: A tokenizer from transformers.
        domains: The documents' own domains, by name, where the source gives any.
        repeats: How many documents were left out because they repeat an earlier one.
        lead: The tokens that its windows begin with, if the tokenizer or the spec wants any.
        notes: What should be known of how it was read.
    """

    pool: Pool
    tokenizer: Any
    domains: Mapping[str, str]
    repeats: int
    lead: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()

    def part(self, spec: CalibrationSpec, share: float, split: Split) -> Part:
        """A draw; checked for overlap with evaluation files unless it is held out from searches."""
        windows = self.pool.draw(spec, split)
        overlap = None
        if spec.against and split != "held-out":
            overlap = measure_overlap(spec, windows, self.tokenizer)
        return Part(spec, share, windows, self, overlap)


@dataclass(frozen=True)
class Part:
    """One source of a calibration.

    Attributes:
        spec: What was drawn.
        share: Its share of the mixture; the shares sum to 1.
        windows: The draw.
        material: What it was drawn from, for further draws.
        overlap: What it shares with evaluation files, if it was compared with any.
    """

    spec: CalibrationSpec
    share: float
    windows: tuple[Window, ...]
    material: LoadedSource = field(repr=False, compare=False)
    overlap: Overlap | None = None

    @property
    def tokens(self) -> int:
        """Tokens in its windows."""
        return sum(len(window.tokens) for window in self.windows)

    @property
    def begun(self) -> bool:
        """Whether every window begins with BOS, or with what the tokenizer puts in its place."""
        bos = self.material.tokenizer.bos_token_id
        lead = self.material.lead or (() if bos is None else (bos,))
        return bool(lead) and all(
            tuple(window.tokens[: len(lead)].tolist()) == lead for window in self.windows
        )

    @property
    def reduction(self) -> Reduction:
        """How its windows make one loss; items count each the same."""
        items = any(window.item is not None for window in self.windows)
        return self.spec.reduction or ("window" if items else "token")

    @property
    def domains(self) -> tuple[str, ...]:
        """Each window's domain: its document's own, else the spec's tag, else what is read."""
        own = self.material.domains
        tag = self.spec.domain or self.spec.short()
        return tuple(own.get(window.document) or tag for window in self.windows)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the windows' tokens and of how they are scored, in hexadecimal."""
        digest = hashlib.sha256()
        for window in self.windows:
            digest.update(len(window.tokens).to_bytes(8, "little"))
            digest.update(window.tokens.astype("<i8").tobytes())
            digest.update(np.packbits(window.scored).tobytes())
            if window.item is not None:
                digest.update(window.item.facts().tobytes())
        return digest.hexdigest()

    @property
    def notes(self) -> tuple[str, ...]:
        """What should be known of how it was read and tokenised."""
        return *self.material.notes, *getattr(self.material.pool, "notes", ())

    def held_out(self) -> Part:
        """Windows of the same source that no draw contains."""
        return self.material.part(self.spec, 1.0, "held-out")

    def redraw(self, repetition: int) -> Part:
        """Another draw: the same spec with its seed raised."""
        spec = self.spec.model_copy(update={"seed": self.spec.seed + repetition})
        return self.material.part(spec, self.share, "draw")
