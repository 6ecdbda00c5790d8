"""A calibration: what a model is scored on, drawn and measured as an object of its own.

Several specs make a mixture: the loss is the weighted mean of the sources' mean losses, so a
source counts by its weight and not by how many windows it happens to have. The fingerprint is of
the tokens and of how they are scored: two specs that come to the same windows have the same one.
A part keeps what it was drawn from, so that a draw can be repeated with other seeds without reading
anything again.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from depthprune.calibration.bos import bos_tokens_of
from depthprune.calibration.drawing import draw_windows, tokens_enough
from depthprune.calibration.examples import ExamplePool
from depthprune.calibration.overlap import Overlap, measure_overlap, without_repeats
from depthprune.calibration.presets import parse_calibration
from depthprune.calibration.reading.documents import Document
from depthprune.calibration.sources import SOURCES, Source, read_documents
from depthprune.calibration.spec import CalibrationSpec, Reduction
from depthprune.calibration.streams import Tokenising
from depthprune.calibration.windows import Split, Window
from depthprune.errors import CalibrationError

if TYPE_CHECKING:
    from depthprune.models.loading import Model

NOISY_BELOW = 8_000
"""Tokens under which the draw decides more than the model: two draws of 1,024 tokens gave
SmolLM2-135M removed sets that shared half their blocks."""


class HasTokenizer(Protocol):
    """A loaded model, or a model's files: anything that carries a tokenizer."""

    @property
    def tokenizer(self) -> Any:
        """A tokenizer from transformers."""


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

    def held_out(self) -> Calibration:
        """Windows of the same source that no draw contains, as a calibration of its own."""
        return Calibration((self.material.part(self.spec, 1.0, "held-out"),))

    def redraw(self, repetition: int) -> Part:
        """Another draw: the same spec with its seed raised."""
        spec = self.spec.model_copy(update={"seed": self.spec.seed + repetition})
        return self.material.part(spec, self.share, "draw")


@dataclass(frozen=True)
class Calibration:
    """The windows that a model is scored on, by source."""

    parts: tuple[Part, ...]

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
        return tuple(part.held_out() for part in self.parts)

    def redraw(self, repetition: int) -> Calibration:
        """A further draw of the same sources, every part's seed raised by `repetition`.

        Args:
            repetition: From 0, which is this draw.

        Raises:
            CalibrationError: If that draw overlaps with evaluation files.
        """
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
        UsageError: If a spec is wrong, or `self` is asked for without a loaded model.
        CalibrationError: If a source's text is missing, unreadable or too short, an item is
            longer than the model reads, or too much of it overlaps with evaluation files.
    """
    parsed = parse_calibration(specs)
    total = sum(spec.weight for spec in parsed)
    order = sorted(range(len(parsed)), key=lambda place: _is_generated(parsed[place]))
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


def context_of(model: HasTokenizer) -> int | None:
    """Tokens of the longest sequence that a model reads, if it says so."""
    module = getattr(model, "module", None)
    if module is not None:
        found = getattr(module.config.get_text_config(), "max_position_embeddings", None)
        return found if isinstance(found, int) and found > 0 else None
    found = getattr(model, "context", None) or getattr(model.tokenizer, "model_max_length", None)
    # A tokenizer that knows no limit says about 10 to the 30th.
    return found if isinstance(found, int) and 0 < found < 2**31 else None


def rows_of(model: HasTokenizer) -> int | None:
    """Rows of a model's embedding, if they are known; ids are below it."""
    module = getattr(model, "module", None)
    if module is None:
        found = getattr(model, "rows", None)
    else:
        try:
            found = getattr(module.get_input_embeddings(), "num_embeddings", None)
        except (AttributeError, NotImplementedError):
            found = None
    return found if isinstance(found, int) and found > 0 else None


def require_positions(model: Model, calibration: Calibration) -> None:
    """Refuse windows that a loaded model cannot read: too long, or of tokens that it lacks.

    Raises:
        CalibrationError: Naming the first.
    """
    calibration.check_context(context_of(model), text=model.learns_positions)
    calibration.check_ids(rows_of(model))


def _is_generated(spec: CalibrationSpec) -> bool:
    return SOURCES.get(spec.source).kind == "generated"


def _material(spec: CalibrationSpec, model: HasTokenizer) -> LoadedSource:
    if _is_generated(spec):
        from depthprune.calibration.generated import generated_pool

        return LoadedSource(generated_pool(model), model.tokenizer, {}, 0)
    documents, repeats = documents_of_spec(spec)
    return load_source(spec, model, documents, repeats)


def documents_of_spec(spec: CalibrationSpec) -> tuple[list[Document], int]:
    """The documents that a spec reads, and how many were left out because they repeat another.

    Raises:
        CalibrationError: If there is no text, or it cannot be read.
    """
    source = SOURCES.get(spec.source)
    documents = read_documents(source, spec.source, spec.target, spec.options)
    kept = without_repeats(documents) if spec.dedupe else documents
    return kept, len(documents) - len(kept)


def load_source(
    spec: CalibrationSpec, model: HasTokenizer, documents: Sequence[Document], repeats: int = 0
) -> LoadedSource:
    """What draws are taken from, of documents that were read.

    Args:
        spec: How they become windows.
        model: Whose tokenizer is used.
        documents: Of the spec's source, one or more.
        repeats: How many were left out before.

    Raises:
        CalibrationError: If the documents are not what the spec's keys need.
    """
    source, tokenizer = SOURCES.get(spec.source), model.tokenizer
    lead = bos_tokens_of(spec.bos, tokenizer, spec.short())
    domains = {document.name: document.domain for document in documents if document.domain}
    pool: Pool
    _require_form(spec, source, documents)
    if source.kind == "choices" or spec.format != "raw" or documents[0].chat:
        pool = ExamplePool(documents, tokenizer, lead)
    else:
        pool = TextPool(Tokenising(list(documents), tokenizer), lead)
    return LoadedSource(pool, tokenizer, domains, repeats, lead, _notes(documents))


def _require_form(spec: CalibrationSpec, source: Source, documents: Sequence[Document]) -> None:
    """Refuse documents that are not what a spec's keys need, which is known once they are read."""
    if source.kind != "text":
        return
    chats = [document for document in documents if document.chat]
    if chats and len(chats) < len(documents):
        other = next(document for document in documents if not document.chat)
        raise CalibrationError(
            f"{other.name}: no conversation, and {chats[0].name} is one; give them as two sources"
        )
    idle = [key for key in ("min_length", "documents") if getattr(spec, key) is not None]
    if chats and idle:
        raise CalibrationError(
            f"{spec.short()}: {idle[0]}= means nothing with conversations; drop it"
        )
    prompts = bool(chats) or documents[0].prompt is not None
    if spec.format != "raw" and not prompts:
        raise CalibrationError(
            f"{spec.short()}: format={spec.format} needs prompts or conversations, and "
            f"{documents[0].name} is plain text; name their fields by prompt= and answer="
        )
    if spec.mask == "answer" and spec.format == "raw" and not chats:
        raise CalibrationError(
            f"{spec.short()}: mask=answer needs answers, and {documents[0].name} is plain text; "
            "name their fields by prompt= and answer=, and choose a format other than raw"
        )


def _notes(documents: Sequence[Document]) -> tuple[str, ...]:
    """What was said of single documents, each thing once with the first that it was said of."""
    first: dict[str, str] = {}
    count: Counter[str] = Counter()
    for document in documents:
        if document.note:
            first.setdefault(document.note, document.name)
            count[document.note] += 1
    return tuple(
        f"{name}: {note}" + (f" (and {count[note] - 1} more)" if count[note] > 1 else "")
        for note, name in first.items()
    )
