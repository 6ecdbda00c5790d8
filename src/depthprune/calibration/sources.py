"""Where text comes from: one function a source, each giving documents.

A source knows nothing of tokens or windows. Files are read whole and strictly: what is missing,
empty, not UTF-8 or lacks the named field is refused with its line. Other packages add sources
through the entry-point group `depthprune.sources`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from depthprune.calibration.stdlib import code_documents, prose_documents
from depthprune.errors import CalibrationError, UsageError, first_line
from depthprune.plugins import Registry


@dataclass(frozen=True)
class Document:
    """A piece of text with a name that finds it again."""

    name: str
    text: str


@dataclass(frozen=True)
class Source:
    """A kind of calibration source.

    Attributes:
        summary: A line about it.
        read: Gives the documents of a target, in a fixed order, with the source's own options.
        options: The keys that it adds to a spec.
        needs_target: Whether something must stand behind the colon.
    """

    summary: str
    read: Callable[[str, Mapping[str, str]], Iterator[Document]]
    options: tuple[str, ...] = ()
    needs_target: bool = True


def read_documents(source: Source, name: str, target: str, options: Mapping[str, str]) -> list[
    Document
]:  # fmt: skip
    """The documents of a source, empty ones left out.

    Raises:
        CalibrationError: If there is no text, or it cannot be read.
        UsageError: If a target is missing, or given where none is taken.
    """
    if source.needs_target and not target:
        raise UsageError(f"calibration {name!r}: expected {name}:TARGET, got no target")
    if target and not source.needs_target:
        raise UsageError(f"calibration {name!r}: takes nothing behind a colon, got {target!r}")
    documents = [d for d in source.read(target, options) if d.text.strip()]
    if not documents:
        raise CalibrationError(f"{name}:{target}: holds no text; give a source with text in it")
    return documents


def _opened(target: str) -> BinaryIO:
    try:
        return Path(target).expanduser().open("rb")
    except IsADirectoryError as error:
        raise CalibrationError(f"{target}: expected a file, found a folder") from error
    except FileNotFoundError as error:
        raise CalibrationError(f"{target}: no such file; check the path") from error
    except OSError as error:
        raise CalibrationError(f"{target}: cannot be read ({error.strerror})") from error


def _utf8(target: str) -> str:
    with _opened(target) as file:
        data = file.read()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise CalibrationError(
            f"{target}: not UTF-8 (byte {error.start} is {data[error.start]:#04x}); "
            "convert it, for example with iconv"
        ) from error


def _text(target: str, options: Mapping[str, str]) -> Iterator[Document]:
    yield Document(target, _utf8(target))


def _jsonl(target: str, options: Mapping[str, str]) -> Iterator[Document]:
    field = options.get("field", "text")
    for number, line in enumerate(_utf8(target).split("\n"), 1):
        if not line.strip():
            continue
        where = f"{target}:{number}"
        try:
            row = json.loads(line)
        except ValueError as error:
            raise CalibrationError(f"{where}: not JSON ({error}); mend or drop the line") from error
        yield Document(where, _field(row, field, where))


def _field(row: Any, field: str, where: str) -> str:
    if not isinstance(row, dict) or field not in row:
        have = ", ".join(sorted(map(str, row))) if isinstance(row, dict) else type(row).__name__
        raise CalibrationError(f"{where}: no field {field!r} (it has: {have}); name one by field=")
    value = row[field]
    if not isinstance(value, str):
        kind = type(value).__name__
        raise CalibrationError(f"{where}: field {field!r} expects text, got {kind}")
    return value


def _parquet(target: str, options: Mapping[str, str]) -> Iterator[Document]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise CalibrationError(
            "parquet: needs the extra 'data'; run: pip install 'depthprune[data]'"
        ) from error
    field = options.get("field", "text")
    with _opened(target):
        pass
    try:
        file = parquet.ParquetFile(Path(target).expanduser())
    except (pyarrow.ArrowException, OSError) as error:
        raise CalibrationError(f"{target}: not a Parquet file ({first_line(error)})") from error
    with file:
        if field not in file.schema_arrow.names:
            have = ", ".join(file.schema_arrow.names)
            raise CalibrationError(
                f"{target}: no field {field!r} (it has: {have}); name one by field="
            )
        number = 0
        for batch in file.iter_batches(columns=[field]):
            for value in batch.column(0).to_pylist():
                where = f"{target}:{number}"
                if value is not None:
                    yield Document(where, _field({field: value}, field, where))
                number += 1


def _hub(target: str, options: Mapping[str, str]) -> Iterator[Document]:
    try:
        import datasets
    except ImportError as error:
        raise CalibrationError(
            "hub: needs the extra 'data'; run: pip install 'depthprune[data]'"
        ) from error
    field = options.get("field", "text")
    split = options.get("split", "train")
    try:
        rows = datasets.load_dataset(
            target, options.get("name"), split=split, revision=options.get("revision")
        )
    except Exception as error:
        raise CalibrationError(
            f"hub:{target}: could not be reached or read ({first_line(error)}); check its name, "
            "name=, split= and the network, or download it and use jsonl: or parquet:"
        ) from error
    for number, row in enumerate(rows):
        where = f"hub:{target}/{split}:{number}"
        yield Document(where, _field(dict(row), field, where))


def _prose(target: str, options: Mapping[str, str]) -> Iterator[Document]:
    yield from (Document(name, text) for name, text in prose_documents())


def _code(target: str, options: Mapping[str, str]) -> Iterator[Document]:
    yield from (Document(name, text) for name, text in code_documents())


SOURCES: Registry[Source] = Registry(
    "calibration source",
    "depthprune.sources",
    {
        "text": Source("a text file, UTF-8", _text),
        "jsonl": Source("JSON lines; field= names the text (default text)", _jsonl, ("field",)),
        "parquet": Source("a Parquet file; field= names the text", _parquet, ("field",)),
        "hub": Source(
            "a data set on the hub: name=, split= (default train), field=, revision=",
            _hub,
            ("name", "split", "field", "revision"),
        ),
        "stdlib-prose": Source(
            "the language reference and docstrings that this Python carries",
            _prose,
            needs_target=False,
        ),
        "stdlib-code": Source(
            "source code of this Python's standard library", _code, needs_target=False
        ),
    },
)
