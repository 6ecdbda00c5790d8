"""Where text comes from: one function a source, each giving documents.

A source knows nothing of tokens or windows. Other packages add sources through the entry-point
group `depthprune.sources`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from depthprune.calibration.choices import COMMONSENSE, read_choices, read_commonsense
from depthprune.calibration.own_text import OWN_OPTIONS, check_own
from depthprune.calibration.reading.documents import (
    FIELDS,
    Document,
    json_lines,
    left_out,
    row_document,
    wanted_columns,
    with_bound,
    with_last_word,
    without_surrogates,
)
from depthprune.calibration.reading.files import (
    Bounded,
    files_at,
    named,
    text_pieces,
)
from depthprune.calibration.reading.hub import HUB_OPTIONS, check_hub, read_hub
from depthprune.calibration.reading.parquet import parquet_rows
from depthprune.calibration.reading.stdlib import code_documents, prose_documents
from depthprune.calibration.reading.tables import table_rows
from depthprune.errors import CalibrationError, DepthpruneError, UsageError, failure
from depthprune.registry import Registry

Read = Callable[[str, Mapping[str, str]], Iterator[Document]]


@dataclass(frozen=True)
class Source:
    """A kind of calibration source.

    Attributes:
        summary: A line about it.
        read: Gives the documents of a target, in a fixed order, with the source's own options.
        options: The keys that it adds to a spec.
        needs_target: Whether something must stand behind the colon.
        takes_target: Whether something may.
        reads_file: Whether the target is a file on this machine.
        kind: `text`; `choices`, documents that are items with options; or `generated`, text that
            the model itself writes, for which `read` gives what the prefixes are cut from.
        check: Says what is wrong with the values of the options.
    """

    summary: str
    read: Read
    options: tuple[str, ...] = ()
    needs_target: bool = True
    takes_target: bool = True
    reads_file: bool = False
    kind: Literal["text", "choices", "generated"] = "text"
    check: Callable[[Mapping[str, str]], list[str]] = lambda options: []


def check_target(source: Source, name: str, target: str) -> None:
    """Refuse a target that is missing, or given where none is taken.

    Raises:
        UsageError: If it is.
    """
    if source.needs_target and not target:
        raise UsageError(f"calibration {name!r}: expected {name}:TARGET, got no target")
    if target and not source.takes_target:
        raise UsageError(f"calibration {name!r}: takes nothing behind a colon, got {target!r}")


def read_documents(source: Source, name: str, target: str, options: Mapping[str, str]) -> list[
    Document
]:  # fmt: skip
    """The documents of a source, empty ones left out.

    Raises:
        CalibrationError: If there is no text, it cannot be read, or two documents have one name.
        UsageError: If a target is missing, or given where none is taken.
    """
    check_target(source, name, target)
    empty = 0

    def saying() -> Iterator[Document]:
        nonlocal empty
        for document in source.read(target, options):
            if _says(document):
                yield without_surrogates(document)
            else:
                empty += document.prompt is not None

    def word() -> str:
        return f"rows left out because they answer nothing: {empty:,}" if empty else ""

    try:
        documents = list(with_last_word(saying(), word))
    except DepthpruneError:
        raise
    except Exception as error:
        raise CalibrationError(failure(f"calibration source {name!r}", error)) from error
    if not documents:
        what = f"{name}:{target}" if target else name
        raise CalibrationError(f"{what}: holds no text; give a source with text in it")
    places: dict[str, int] = {}
    for number, document in enumerate(documents, 1):
        first = places.setdefault(document.name, number)
        if first != number:
            raise CalibrationError(
                f"{name}:{target}: its documents {first} and {number} have the same id "
                f"{document.name!r}; make them differ, or drop id="
            )
    return documents


def _says(document: Document) -> bool:
    """Whether there is any text; looking at the whole of a long one would copy it."""
    return not document.text.isspace() and bool(document.text)


def _text(target: str, options: Mapping[str, str]) -> Iterator[Document]:
    bound = Bounded()
    for file in files_at(target, "text"):
        text = "".join(text_pieces(str(file), bound))
        yield Document(named(target, file), text, note=left_out(bound))
        if not bound.whole:
            return


def _rows(kind: str, rows: Callable[[str, Bounded], Iterator[tuple[str, Any]]]) -> Read:
    """How files of rows are read: one row a document."""

    def read(target: str, options: Mapping[str, str]) -> Iterator[Document]:
        bound = Bounded()
        found = (
            row_document(row, options, where)
            for file in files_at(target, kind)
            for where, row in rows(named(target, file), bound)
        )
        yield from with_bound(found, bound)

    return read


def _bounded(read: Read) -> Read:
    """A way to read that ends where so much text was read; for what is not read as bytes."""

    def bounded(target: str, options: Mapping[str, str]) -> Iterator[Document]:
        bound = Bounded()
        yield from with_bound(bound.take(read(target, options), _size), bound)

    return bounded


def _size(document: Document) -> int:
    return len(document.text.encode("utf-8", "surrogatepass")) + len(document.prompt or "")


def _parquet(target: str, options: Mapping[str, str]) -> Iterator[Document]:
    null: Counter[str] = Counter()

    def word() -> str:
        left = (f"rows left out because their {name} is null: {n:,}" for name, n in null.items())
        return "; ".join(left)

    yield from with_last_word(_parquet_documents(target, options, null), word)


def _parquet_documents(
    target: str, options: Mapping[str, str], null: Counter[str]
) -> Iterator[Document]:
    """The rows whose text is not null; how many are, by the column, is counted."""
    for path in files_at(target, "parquet"):
        name = named(target, path)

        def wanted(names: Sequence[str], name: str = name) -> Sequence[str]:
            found = wanted_columns(names, options)
            if not found:
                row_document(dict.fromkeys(names, ""), options, name)
            return found

        for where, row in parquet_rows(name, path, wanted):
            column, text = next(iter(row.items()))
            if text is None:
                null[column] += 1
            else:
                yield row_document(row, options, where)


def _prose(target: str, options: Mapping[str, str]) -> Iterator[Document]:
    yield from (Document(name, text) for name, text in prose_documents())


def _code(target: str, options: Mapping[str, str]) -> Iterator[Document]:
    yield from (Document(name, text) for name, text in code_documents())


SOURCES: Registry[Source] = Registry(
    "calibration source",
    "depthprune.sources",
    {
        "text": Source("text files, UTF-8, packed or not", _text, reads_file=True),
        "jsonl": Source(
            "JSON lines, packed or not; field= names the text (default text), or prompt= and "
            "answer=; conversations say themselves what they are",
            _rows("jsonl", json_lines),
            FIELDS,
            reads_file=True,
        ),
        "csv": Source(
            "a table with a row of names, packed or not; the same options",
            _rows("csv", partial(table_rows, delimiter=",")),
            FIELDS,
            reads_file=True,
        ),
        "tsv": Source(
            "the same, separated by tabs",
            _rows("tsv", partial(table_rows, delimiter="\t")),
            FIELDS,
            reads_file=True,
        ),
        "parquet": Source(
            "a Parquet file; field= names the text, or prompt= and answer=",
            _bounded(_parquet),
            FIELDS,
            reads_file=True,
        ),
        "choices": Source(
            "multiple-choice items: prompt, options, answer, or as ARC, PIQA, MMLU and others have "
            "them; JSON lines, tables, Parquet",
            read_choices,
            ("id", "domain_field"),
            reads_file=True,
            kind="choices",
        ),
        "hub": Source(
            "a data set on the hub: name=, split= (train), revision=, files=, rows=, field=",
            _bounded(read_hub),
            (*HUB_OPTIONS, *FIELDS),
            check=check_hub,
        ),
        "commonsense-170k": Source(
            f"items of Commonsense-170k, from its JSON file or {COMMONSENSE} on the hub",
            read_commonsense,
            ("revision", "rows"),
            needs_target=False,
            reads_file=True,
            kind="choices",
            check=check_hub,
        ),
        "self": Source(
            "text that the model itself writes: prompt= or FILE with prefix=, temperature=, "
            "top_p=, filter=",
            _text,
            OWN_OPTIONS,
            needs_target=False,
            reads_file=True,
            kind="generated",
            check=check_own,
        ),
        "stdlib-prose": Source(
            "the language reference and docstrings that this Python carries",
            _prose,
            needs_target=False,
            takes_target=False,
        ),
        "stdlib-code": Source(
            "source code of this Python's standard library",
            _code,
            needs_target=False,
            takes_target=False,
        ),
    },
    Source,
)


def is_generated(source: str) -> bool:
    """Whether a source, by its name, is text that the model writes itself."""
    return SOURCES.get(source).kind == "generated"
