"""A calibration: what a model is scored on, drawn and measured as an object of its own.

Several specs make a mixture: the loss is the weighted mean of the sources' mean losses, so a
source counts by its weight and not by how many windows it happens to have. The fingerprint is of
the tokens and of how they are scored: two specs that come to the same windows have the same one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, get_args

from depthprune.bounds import whole
from depthprune.calibration.loading import documents_of_spec, load_source
from depthprune.calibration.model_limits import HasTokenizer, context_of, rows_of
from depthprune.calibration.parts import LoadedSource, Part
from depthprune.calibration.presets import parse_calibration
from depthprune.calibration.sources import is_generated
from depthprune.calibration.spec import CalibrationSpec
from depthprune.calibration.windows import Split, Window
from depthprune.errors import CalibrationError, UsageError

if TYPE_CHECKING:
    from depthprune.models.loading import Model

NOISY_BELOW = 8_000
"""Tokens under which the draw decides more than the model: two draws of 1,024 tokens gave
SmolLM2-135M removed sets that shared half their blocks."""


@dataclass(frozen=True)
class Calibration:
    """The windows that a model is scored on, by source."""

    parts: tuple[Part, ...]

    def __repr__(self) -> str:
        drawn = f"{len(self.windows)} windows, {self.tokens:,} tokens"
        return f"Calibration({self.name!r}, {drawn}, {self.fingerprint[:12]})"

    @property
    def windows(self) -> tuple[Window, ...]:
        """All windows, source by source."""
        return tuple(window for part in self.parts for window in part.windows)

    @property
    def domains(self) -> tuple[str, ...]:
        """Each window's domain."""
        return tuple(domain for part in self.parts for domain in part.domains)

    @property
    def worst_domain(self) -> bool:
        """Whether the loss is that of the domain that is worst, and not the sources' mixture."""
        return any(part.reduction == "worst-domain" for part in self.parts)

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
        """SHA-256 over the parts' fingerprints, shares and reductions, in hexadecimal."""
        digest = hashlib.sha256()
        for part in self.parts:
            digest.update(f"{part.fingerprint} {part.share:.12g}\n".encode())
            if part.reduction != "token":
                digest.update(f"{part.reduction}\n".encode())
        if self.worst_domain:
            digest.update("\n".join(self.domains).encode())
        return digest.hexdigest()

    def held_out(self) -> tuple[Calibration, ...]:
        """For each source apart, windows that no draw contains."""
        return tuple(Calibration((part.held_out(),)) for part in self.parts)

    def redraw(self, repetition: int) -> Calibration:
        """A further draw of the same sources, every part's seed raised by `repetition`.

        Args:
            repetition: From 0, which is this draw.

        Raises:
            CalibrationError: If that draw overlaps with evaluation files.
            UsageError: If there is no such draw.
        """
        repetition = whole("redraw", repetition)
        if repetition < 0:
            raise UsageError(f"redraw: expected from 0, which is this draw, got {repetition}")
        return Calibration(tuple(part.redraw(repetition) for part in self.parts))

    def check_context(self, context: int | None, *, text: bool = False) -> None:
        """Refuse items that are longer than the model reads.

        Args:
            context: Tokens of the longest sequence that the model reads, if it says so.
            text: Refuse other windows too, which most models can read past what they were made
                for.

        Raises:
            CalibrationError: Naming the first such item or window.
        """
        for window in self.windows:
            if (
                text
                and context is not None
                and window.item is None
                and len(window.tokens) > context
            ):
                raise CalibrationError(
                    f"{window.document}: the window has {len(window.tokens):,} tokens, and the "
                    f"model has positions for {context:,}; lower length="
                )
            if context is not None and window.item is not None and window.item.longest > context:
                raise CalibrationError(
                    f"{window.document}: the item has {window.item.longest:,} tokens with its "
                    f"longest option, and the model reads {context:,}; drop it, or lower shots="
                )

    def check_ids(self, rows: int | None) -> None:
        """Refuse tokens that a model's embedding has no row for.

        Args:
            rows: How many the embedding has, if that is known.

        Raises:
            CalibrationError: Naming the first such token and where it stands.
        """
        if rows is None:
            return
        for part in self.parts:
            for window in part.windows:
                past = window.tokens[(window.tokens >= rows) | (window.tokens < 0)]
                if len(past):
                    token = part.material.tokenizer.convert_ids_to_tokens(int(past[0]))
                    raise CalibrationError(
                        f"{window.document}: token {token!r:.60} has the id {past[0]}, and the "
                        f"model's embedding has {rows:,} rows; the tokenizer has tokens that the "
                        "model was not resized for: use the one that it came with, or resize the "
                        "model"
                    )

    def warnings(self) -> list[str]:
        """What a user should know before trusting what is chosen on this calibration."""
        found = [
            f"{part.spec.short()}: {part.overlap.words()}"
            for part in self.parts
            if part.overlap is not None and part.overlap.documents
        ]
        found += [f"{part.spec.short()}: {note}" for part in self.parts for note in part.notes]
        if self.tokens < NOISY_BELOW:
            found.append(
                f"{self.tokens:,} calibration tokens: below about {NOISY_BELOW:,} the noise of "
                "the draw decides which blocks go; give more windows"
            )
        return found


def calibrate(
    specs: str | CalibrationSpec | Sequence[str | CalibrationSpec],
    model: HasTokenizer,
    *,
    split: Split = "draw",
) -> Calibration:
    """Draw a calibration.

    Args:
        specs: One spec, or several that are mixed by their weights.
        model: Whose tokenizer is used. For text that the model itself writes (`self`) it must be
            a loaded model, or something whose `loaded()` gives one; everything else is read
            first, since it may be refused.
        split: Which windows: see `drawing.draw_windows`.

    Raises:
        UsageError: If a spec or `split` is wrong, or `self` is asked for without a loaded model.
        CalibrationError: If a source's text is missing, unreadable or too short, an item is
            longer than the model reads, or too much of it overlaps with evaluation files.
    """
    if split not in get_args(Split):
        raise UsageError(f"split: expected {', '.join(get_args(Split))}, got {split!r}")
    parsed = parse_calibration(specs)
    total = sum(spec.weight for spec in parsed)
    order = sorted(range(len(parsed)), key=lambda place: is_generated(parsed[place].source))
    parts = {
        place: _material(parsed[place], model).part(
            parsed[place], parsed[place].weight / total, split
        )
        for place in order
    }
    calibration = Calibration(tuple(parts[place] for place in range(len(parsed))))
    calibration.check_context(context_of(model))
    calibration.check_ids(rows_of(model))
    return calibration


def _material(spec: CalibrationSpec, model: HasTokenizer) -> LoadedSource:
    if is_generated(spec.source):
        from depthprune.calibration.generated import generated_pool

        return LoadedSource(generated_pool(model), model.tokenizer, {}, 0)
    documents, repeats = documents_of_spec(spec)
    return load_source(spec, model, documents, repeats)


def require_positions(model: Model, calibration: Calibration) -> None:
    """Refuse windows that a loaded model cannot read: too long, or of tokens that it lacks.

    Raises:
        CalibrationError: Naming the first.
    """
    calibration.check_context(context_of(model), text=model.learns_positions)
    calibration.check_ids(rows_of(model))
