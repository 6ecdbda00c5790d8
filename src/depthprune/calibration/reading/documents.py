"""Pieces of text with names, and how files give them.

Files are read strictly: what is missing, empty, not UTF-8 or lacks a named field is refused with
its line. Where no field is named, a row may say itself what it is: a text, a conversation, an
instruction with its output.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from depthprune.calibration.reading.chats import (
    ALSO_READ,
    CHAT_FIELDS,
    READ_BESIDE,
    Chat,
    find_chat,
    named_chat,
)
from depthprune.calibration.reading.files import (
    LONGEST_LINE,
    MOST_TEXT,
    Bounded,
    lines,
)
from depthprune.errors import CalibrationError, first_line

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
        chat: Of a conversation, its turns.
        note: What should be known of how it was read, if anything.
    """

    name: str
    text: str
    prompt: str | None = None
    options: tuple[str, ...] = ()
    answer: int = 0
    domain: str = ""
    chat: Chat | None = None
    note: str = ""

    @property
    def running(self) -> str:
        """As running text, a prompt before its answer on a line of its own."""
        return self.text if self.prompt is None else f"{self.prompt}\n{self.text}"


_HALF = re.compile("[\ud800-\udfff]")


def left_out(bound: Bounded) -> str:
    """What is said where a source is larger than is read."""
    return "" if bound.whole else f"only its first {MOST_TEXT // 2**20:,} MiB of text are read"


def with_bound(documents: Iterable[Document], bound: Bounded) -> Iterator[Document]:
    """Documents, the last of which says whether any were left out behind it.

    Args:
        documents: In their order.
        bound: What they are read by.
    """
    yield from with_last_word(documents, lambda: left_out(bound))


def with_last_word(documents: Iterable[Document], word: Callable[[], str]) -> Iterator[Document]:
    """Documents, the last of which has a note of what is known once all were read.

    Args:
        documents: In their order.
        word: Gives the note, empty if there is nothing to say.
    """
    last: Document | None = None
    for document in documents:
        if last is not None:
            yield last
        last = document
    if last is not None:
        yield replace(last, note="; ".join(filter(None, (last.note, word()))))


def without_surrogates(document: Document) -> Document:
    """A document without halves of surrogate pairs, which JSON may hold and no UTF-8 has.

    Each is replaced by U+FFFD, as a browser shows it, and the document says so.
    """
    texts = [document.name, document.text, document.prompt or "", document.domain]
    turns = json.dumps(document.chat.turns, ensure_ascii=False) if document.chat else ""
    if not any(map(_HALF.search, (*texts, *document.options, turns))):
        return document
    name, text, prompt, domain = (_HALF.sub("\ufffd", each) for each in texts)
    return replace(
        document,
        name=name,
        text=text,
        prompt=None if document.prompt is None else prompt,
        options=tuple(_HALF.sub("\ufffd", option) for option in document.options),
        domain=domain,
        chat=document.chat and document.chat.changed(lambda each: _HALF.sub("\ufffd", each)),
        note=f"{document.note}; {_HALVED}" if document.note else _HALVED,
    )


_HALVED = "half a surrogate pair (a cut emoji) was replaced by U+FFFD"


def json_lines(target: str, bound: Bounded | None = None) -> Iterator[tuple[str, Any]]:
    """The rows of a file of JSON lines, each with its place, `FILE:LINE`.

    A file that is one JSON list gives its entries, as `FILE[INDEX]`.

    Args:
        target: The file.
        bound: How much may still be read.

    Raises:
        CalibrationError: If the file cannot be read or a line is not JSON.
    """
    found = enumerate(lines(target, bound or Bounded()), 1)
    begun = False
    for number, line in found:
        if not line.strip():
            continue
        where = f"{target}:{number}"
        if not begun and line.lstrip().startswith("[") and not _is_json(line, list):
            yield from _json_list(target, itertools.chain([line], (rest for _, rest in found)))
            return
        row = _parsed(line, where)
        if not begun and _is_list_of_rows(row):
            yield from ((f"{target}[{index}]", each) for index, each in enumerate(row))
        else:
            yield where, row
        begun = True


def _json_list(target: str, pieces: Iterable[str]) -> Iterator[tuple[str, Any]]:
    """The entries of a JSON list that takes more than a line."""
    kept: list[str] = []
    size = 0
    for piece in pieces:
        kept.append(piece)
        size += len(piece)
        if size > LONGEST_LINE:
            raise CalibrationError(
                f"{target}: a JSON list of more than {LONGEST_LINE:,} characters; write one row a "
                "line, for example with jq -c '.[]'"
            )
    rows = _parsed("\n".join(kept), target)
    yield from ((f"{target}[{index}]", row) for index, row in enumerate(rows))


def _is_list_of_rows(value: Any) -> bool:
    """Whether a line holds all rows; a list of turns is one row, a list of such lists is many."""
    return (
        isinstance(value, list)
        and bool(value)
        and (
            all(isinstance(each, dict) and not {"role", "from"} & set(each) for each in value)
            or all(isinstance(each, list) for each in value)
        )
    )


def _is_json(line: str, kind: type) -> bool:
    try:
        return isinstance(json.loads(line), kind)
    except (ValueError, RecursionError):
        return False


def _parsed(line: str, where: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        remedy = "mend or drop the line"
        if where.endswith(":1") and line.strip().endswith(("{", "[")):
            remedy = "write one row a line, for example by jq -c '.data[]', data being their field"
        raise CalibrationError(f"{where}: not JSON ({first_line(error)}); {remedy}") from error


def row_document(row: Any, options: Mapping[str, str], where: str) -> Document:
    """A row as a document, by the fields that the options name.

    Args:
        row: What a line or a table's row holds.
        options: `field`, or `prompt` and `answer`; `id`, `domain_field`.
        where: The row's place, its name unless `id` names a field.

    Raises:
        CalibrationError: If a field is missing or holds no text.
    """
    name, domain = row_name(row, options, where), row_domain(row, options, where)
    if chat := _chat_in(row, options, where):
        return chat_document(name, chat, domain)
    prompted = "prompt" in options
    return Document(
        name=name,
        text=text_field(row, "answer" if prompted else "field", options, where),
        prompt=text_field(row, "prompt", options, where) if prompted else None,
        domain=domain,
    )


def chat_document(name: str, chat: Chat, domain: str = "") -> Document:
    """A conversation as a document; one of a question and an answer is also a prompt with both."""
    prompt, text = chat.exchange or (None, "\n\n".join(filter(None, chat.texts())))
    return Document(name, text, prompt, domain=domain, chat=chat)


def _chat_in(row: Any, options: Mapping[str, str], where: str) -> Chat | None:
    """The conversation that a row holds, in the named field or where its fields say so."""
    if "field" in options:
        name = options["field"]
        turns = isinstance(row, dict) and row.get(name)
        return named_chat(row, name, where) if isinstance(turns, list) and _turns(turns) else None
    if "prompt" in options or (isinstance(row, dict) and isinstance(row.get("text"), str)):
        return None
    return find_chat(row, where)


def _turns(value: list[Any]) -> bool:
    return bool(value) and isinstance(value[0], dict)


def wanted_columns(names: Sequence[str], options: Mapping[str, str]) -> list[str]:
    """The columns of a table that are read, the text's first; none where a named one is missing.

    Args:
        names: What it has.
        options: `field`, or `prompt` and `answer`; `id`, `domain_field`.
    """
    given = [options[key] for key in ("answer", "field", "prompt") if key in options]
    more = [options[key] for key in ("id", "domain_field") if key in options]
    if not given and "text" in names:
        given = ["text"]
    elif not given:
        given = [name for name in ALSO_READ if name in names]
        given.sort(key=lambda name: name not in (*CHAT_FIELDS, "instruction", "prompt", "text"))
        more += [name for name in READ_BESIDE if name in names]
    if "field" in options:
        more += [name for name in ("tools", "system") if name in names]
    wanted = list(dict.fromkeys([*given, *more]))
    return wanted if given and set(wanted) <= set(names) else []


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
        raise CalibrationError(
            f"{where}: field {name!r} expects text, got {kind}; write it as text, or drop the row"
        )
    return value


def _holder_of_rows(row: Any) -> str | None:
    """The field that holds all rows of a file which is one object."""
    if not isinstance(row, dict):
        return None
    return next((name for name in _HOLDERS if _is_list_of_rows(row.get(name))), None)


_HOLDERS = ("data", "rows", "examples", "records", "items", "train")


def _field(row: Any, name: str, key: str, where: str) -> Any:
    if not isinstance(row, dict) or name not in row:
        have = ", ".join(sorted(map(str, row))) if isinstance(row, dict) else type(row).__name__
        pair = ", or a question and its answer by prompt= and answer=" if key == "field" else ""
        remedy = f"name one by {key}={pair}"
        if (holder := _holder_of_rows(row)) is not None:
            remedy = f"write one row a line, for example by jq -c '.{holder}[]'"
        raise CalibrationError(f"{where}: no field {name!r} (it has: {have}); {remedy}")
    return row[name]
