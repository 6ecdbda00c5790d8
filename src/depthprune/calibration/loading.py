"""Reading what a spec names: its documents, and the pool that its windows are drawn from.

What only the documents can tell, as that answers are to be scored and there are none, is refused
here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from depthprune.calibration.bos import bos_tokens_of
from depthprune.calibration.examples import ExamplePool
from depthprune.calibration.model_limits import HasTokenizer
from depthprune.calibration.overlap import without_repeats
from depthprune.calibration.parts import LoadedSource, Pool, TextPool
from depthprune.calibration.reading.documents import Document
from depthprune.calibration.sources import SOURCES, Source, read_documents
from depthprune.calibration.spec import CalibrationSpec
from depthprune.calibration.streams import Tokenising
from depthprune.errors import CalibrationError


def documents_of_spec(spec: CalibrationSpec) -> tuple[list[Document], int]:
    """The documents that a spec reads, and how many were left out because they repeat another.

    Raises:
        CalibrationError: If there is no text, or it cannot be read.
    """
    source = SOURCES.get(spec.source)
    documents = read_documents(source, spec.source, spec.target, spec.options)
    kept = without_repeats(documents) if spec.dedupe else documents
    if kept[-1] is not documents[-1]:
        # What is to be said of the whole source stands with its last document.
        said = dict.fromkeys(filter(None, (kept[-1].note, documents[-1].note)))
        kept[-1] = replace(kept[-1], note="; ".join(said))
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
    return LoadedSource(pool, tokenizer, domains, repeats, lead, notes_of(documents))


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


def notes_of(documents: Sequence[Document]) -> tuple[str, ...]:
    """What was said of single documents, each thing once with the first that it was said of.

    Args:
        documents: As they were read.
    """
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
