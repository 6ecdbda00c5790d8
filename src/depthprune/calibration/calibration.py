"""A calibration: what a model is scored on, drawn and measured as an object of its own.

Several specs make a mixture: the loss is the weighted mean of the sources' mean losses, so a
source counts by its weight and not by how many windows it happens to have. The fingerprint is of
the tokens and of how they are scored: two specs that come to the same windows have the same one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np

from depthprune.calibration.presets import PRESETS
from depthprune.calibration.sources import SOURCES, read_documents
from depthprune.calibration.spec import CalibrationSpec, parse_spec
from depthprune.calibration.windows import Split, TokenStream, Window, draw_windows, tokenize
from depthprune.errors import CalibrationError, UsageError

NOISY_BELOW = 8_000
"""Tokens under which the draw decides more than the model: two draws of 1,024 tokens gave
SmolLM2-135M removed sets that shared half their blocks."""


class HasTokenizer(Protocol):
    """A loaded model, or a model's files: anything that carries a tokenizer."""

    @property
    def tokenizer(self) -> Any:
        """A tokenizer from transformers."""


@dataclass(frozen=True)
class Part:
    """One source of a calibration.

    Attributes:
        spec: What was drawn.
        share: Its share of the mixture; the shares sum to 1.
        windows: The draw.
        stream: The source's tokens, for further draws.
        bos: The token that begins every window, if any.
    """

    spec: CalibrationSpec
    share: float
    windows: tuple[Window, ...]
    stream: TokenStream
    bos: int | None

    @property
    def tokens(self) -> int:
        """Tokens in its windows."""
        return sum(len(window.tokens) for window in self.windows)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the windows' tokens and of which are scored, in hexadecimal."""
        digest = hashlib.sha256()
        for window in self.windows:
            digest.update(len(window.tokens).to_bytes(8, "little"))
            digest.update(window.tokens.astype("<i8").tobytes())
            digest.update(np.packbits(window.scored).tobytes())
        return digest.hexdigest()

    def held_out(self) -> Calibration:
        """Windows of the same source that no draw contains, as a calibration of its own."""
        windows = draw_windows(self.spec, self.stream, "held-out", self.bos)
        return Calibration((Part(self.spec, 1.0, windows, self.stream, self.bos),))


@dataclass(frozen=True)
class Calibration:
    """The windows that a model is scored on, by source."""

    parts: tuple[Part, ...]

    @property
    def windows(self) -> tuple[Window, ...]:
        """All windows, source by source."""
        return tuple(window for part in self.parts for window in part.windows)

    @property
    def tokens(self) -> int:
        """Tokens in all windows."""
        return sum(part.tokens for part in self.parts)

    @property
    def name(self) -> str:
        """What is read, for people: the sources, joined."""
        return " + ".join(part.spec.short() for part in self.parts)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the parts' fingerprints and shares, in hexadecimal."""
        digest = hashlib.sha256()
        for part in self.parts:
            digest.update(f"{part.fingerprint} {part.share:.12g}\n".encode())
        return digest.hexdigest()

    def held_out(self) -> tuple[Calibration, ...]:
        """For each source apart, windows that no draw contains."""
        return tuple(part.held_out() for part in self.parts)

    def warnings(self) -> list[str]:
        """What a user should know before trusting what is chosen on this calibration."""
        if self.tokens >= NOISY_BELOW:
            return []
        return [
            f"{self.tokens:,} calibration tokens: below about {NOISY_BELOW:,} the noise of the "
            "draw decides which blocks go; give more windows"
        ]


def parse_calibration(specs: str | CalibrationSpec | Iterable[str | CalibrationSpec]) -> list[
    CalibrationSpec
]:  # fmt: skip
    """Read specs, presets written out.

    Args:
        specs: One spec or several, in the one-line form or parsed.

    Raises:
        UsageError: If a spec is wrong, or there is none.
    """
    if isinstance(specs, (str, CalibrationSpec)):
        specs = [specs]
    parsed: list[CalibrationSpec] = []
    for spec in specs:
        if isinstance(spec, CalibrationSpec):
            parsed.append(spec)
        elif spec in PRESETS:
            parsed.extend(parse_spec(line, _options()) for line in PRESETS[spec].specs)
        else:
            parsed.append(parse_spec(spec, _options() | dict.fromkeys(PRESETS, ())))
            if parsed[-1].source in PRESETS:
                raise UsageError(f"calibration {spec!r}: a preset takes no keys; write its specs")
    if not parsed:
        raise UsageError("-c: expected at least one calibration, got none")
    return parsed


def _options() -> dict[str, tuple[str, ...]]:
    return {name: SOURCES.get(name).options for name in SOURCES.names()}


def calibrate(
    specs: str | CalibrationSpec | Sequence[str | CalibrationSpec],
    model: HasTokenizer,
    *,
    split: Split = "draw",
) -> Calibration:
    """Draw a calibration.

    Args:
        specs: One spec, or several that are mixed by their weights.
        model: Whose tokenizer is used.
        split: Which windows: see `draw_windows`.

    Raises:
        UsageError: If a spec is wrong.
        CalibrationError: If a source's text is missing, unreadable or too short.
    """
    parsed = parse_calibration(specs)
    total = sum(spec.weight for spec in parsed)
    return Calibration(
        tuple(_part(spec, spec.weight / total, model.tokenizer, split) for spec in parsed)
    )


def _part(spec: CalibrationSpec, share: float, tokenizer: Any, split: Split) -> Part:
    source = SOURCES.get(spec.source)
    documents = read_documents(source, spec.source, spec.target, spec.options)
    bos = tokenizer.bos_token_id if spec.bos else None
    if spec.bos and bos is None:
        raise CalibrationError(
            f"{spec.short()}: bos=true, but the model's tokenizer has no BOS token; drop bos="
        )
    stream = tokenize(documents, tokenizer)
    return Part(spec, share, draw_windows(spec, stream, split, bos), stream, bos)
