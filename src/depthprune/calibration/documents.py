"""Pieces of text with names, and how files give them.

Files are read whole and strictly: what is missing, empty, not UTF-8 or lacks a named field is
refused with its line.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO

from depthprune.errors import CalibrationError
from depthprune.untrusted import open_file

FIELDS = ("field", "prompt", "answer", "id", "domain_field")
"""Options of every source whose documents are rows: which field is what."""


@dataclass(frozen=True)
class Document:
    """A piece of text with a name that finds it again.

    Attributes:
        name: Unique within its source.
        text: The text; of a prompt, its answer (of a choices item, the correct option).
        prompt: What the text answers, if it is an answer.
        options: Of a choices item, every option; else empty.
        answer: Of a choices item, the index of the correct option.
        domain: Tag of its subject, if the source gives one.
    """

    name: str
    text: str
    prompt: str | None = None
    options: tuple[str, ...] = ()
    answer: int = 0
    domain: str = ""

    @property
    def running(self) -> str:
        """As running text, a prompt before its answer on a line of its own."""
        return self.text if self.prompt is None else f"{self.prompt}\n{self.text}"


def opened(target: str) -> BinaryIO:
    """A file, open for reading bytes.

    Raises:
        CalibrationError: If it is missing, a folder or unreadable.
    """
    try:
        path = Path(target).expanduser()
    except RuntimeError as error:
        raise CalibrationError(f"{target}: cannot be read ({error}); write the path out") from error
    if not os.path.lexists(path):
        raise CalibrationError(f"{target}: no such file; check the path")
    return BufferedReader(open_file(path, error=CalibrationError))


def utf8(target: str) -> str:
    """A file's text, without a byte order mark.

    Raises:
        CalibrationError: If it is missing, unreadable or not UTF-8.
    """
    with opened(target) as file:
        data = file.read()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise CalibrationError(
            f"{target}: not UTF-8 (byte {error.start} is {data[error.start]:#04x}); "
            "convert it, for example with iconv"
        ) from error


def json_lines(target: str) -> Iterator[tuple[str, Any]]:
    """The rows of a file of JSON lines, each with its place, `FILE:LINE`.

    Raises:
        CalibrationError: If the file cannot be read or a line is not JSON.
    """
    for number, line in enumerate(utf8(target).split("\n"), 1):
        if not line.strip():
            continue
        where = f"{target}:{number}"
        try:
            yield where, json.loads(line)
        except ValueError as error:
            raise CalibrationError(f"{where}: not JSON ({error}); mend or drop the line") from error


def row_document(row: Any, options: Mapping[str, str], where: str) -> Document:
    """A row as a document, by the fields that the options name.

    Args:
        row: What a line or a table's row holds.
        options: `field`, or `prompt` and `answer`; `id`, `domain_field`.
        where: The row's place, its name unless `id` names a field.

    Raises:
        CalibrationError: If a field is missing or holds no text.
    """
    prompted = "prompt" in options
    return Document(
        name=row_name(row, options, where),
        text=text_field(row, "answer" if prompted else "field", options, where),
        prompt=text_field(row, "prompt", options, where) if prompted else None,
        domain=row_domain(row, options, where),
    )


def row_name(row: Any, options: Mapping[str, str], where: str) -> str:
    """A row's id where `id` names a field, else its place.

    Raises:
        CalibrationError: If the field is missing or holds no id.
    """
    if "id" not in options:
        return where
    name = options["id"]
    value = _field(row, name, "id", where)
    if isinstance(value, bool) or not isinstance(value, (str, int)) or value == "":
        raise CalibrationError(
            f"{where}: field {name!r} expects an id, a text or a whole number, got {value!r}"
        )
    return str(value)


def row_domain(row: Any, options: Mapping[str, str], where: str) -> str:
    """A row's domain where `domain_field` names a field, else none.

    Raises:
        CalibrationError: If the field is missing or holds no text.
    """
    return text_field(row, "domain_field", options, where) if "domain_field" in options else ""


def text_field(row: Any, key: str, options: Mapping[str, str], where: str) -> str:
    """The text of the field that an option names.

    Raises:
        CalibrationError: If it is missing or no text.
    """
    name = options.get(key, "text")
    value = _field(row, name, key, where)
    if not isinstance(value, str):
        kind = type(value).__name__
        raise CalibrationError(f"{where}: field {name!r} expects text, got {kind}")
    return value


def _field(row: Any, name: str, key: str, where: str) -> Any:
    if not isinstance(row, dict) or name not in row:
        have = ", ".join(sorted(map(str, row))) if isinstance(row, dict) else type(row).__name__
        raise CalibrationError(f"{where}: no field {name!r} (it has: {have}); name one by {key}=")
    return row[name]
