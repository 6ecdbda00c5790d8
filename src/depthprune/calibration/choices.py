"""Multiple-choice items: a prompt, its options and which of them is right.

`choices:FILE` reads rows with exactly that, and the forms in which benchmarks are handed round
(`reading/items.py`), of JSON lines, tables and Parquet files. `commonsense-170k` reads the data set
of the paper's margin calibration, in which prompt and options are one instruction text; it is taken
apart as lm-evaluation-harness would ask it: `Question: …`, newline, `Answer:`, each option a
continuation, and a sentence with a blank as one whole sentence an option.
Source: AGI-Edgerunners/LLM-Adapters, which made Commonsense-170k.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from depthprune.calibration.reading.chats import find_chat
from depthprune.calibration.reading.documents import (
    Document,
    json_lines,
    row_domain,
    row_name,
    text_field,
    with_bound,
)
from depthprune.calibration.reading.files import (
    Bounded,
    files_at,
    named,
    source_for,
    whole_text,
)
from depthprune.calibration.reading.hub import hub_rows
from depthprune.calibration.reading.items import QUESTION, find_item, right_option, unread
from depthprune.calibration.reading.parquet import parquet_rows
from depthprune.calibration.reading.tables import table_rows
from depthprune.errors import CalibrationError

COMMONSENSE = "zwhe99/commonsense_170k"
"""The hub data set that `commonsense-170k` reads where no file is named."""


def read_choices(target: str, options: Mapping[str, str]) -> Iterator[Document]:
    """The items of files of rows `{"prompt", "options", "answer"}`, or of another known form.

    Raises:
        CalibrationError: By its line, if an item lacks a field, has fewer than two options, an
            empty one, or an answer that names none of them.
    """
    bound = Bounded()
    yield from with_bound(_items(target, options, bound), bound)


def _items(target: str, options: Mapping[str, str], bound: Bounded) -> Iterator[Document]:
    for where, row in _item_rows(target, bound):
        prompt, found, answer, labels = find_item(row, where)
        name, domain = row_name(row, options, where), row_domain(row, options, where)
        chat = find_chat(prompt, where)
        if chat is None:
            text = text_field({"prompt": prompt}, "prompt", {"prompt": "prompt"}, where)
        else:
            text = "\n\n".join(filter(None, chat.texts()))
        document = item(name, text, found, answer, where, domain, labels)
        yield replace(document, chat=chat, note=unread(row))


def _item_rows(target: str, bound: Bounded) -> Iterator[tuple[str, Any]]:
    for file in files_at(target, "choices"):
        name, kind = named(target, file), source_for(file.name)
        if kind == "parquet":
            rows = parquet_rows(name, file, lambda names: names)
            yield from bound.take(rows, lambda row: len(str(row[1])))
        elif kind in ("csv", "tsv"):
            yield from table_rows(name, bound, "," if kind == "csv" else "\t")
        else:
            yield from json_lines(name, bound)


def item(
    name: str,
    prompt: str,
    options: Any,
    answer: Any,
    where: str,
    domain: str = "",
    labels: Sequence[str] = (),
) -> Document:
    """A checked item.

    Raises:
        CalibrationError: If it has fewer than two options, an empty one, or a wrong answer.
    """
    if not isinstance(options, list) or not all(isinstance(o, str) for o in options):
        raise CalibrationError(
            f"{where}: options expects a list of texts, got {options!r:.60}; mend or drop the item"
        )
    if len(options) < 2:
        raise CalibrationError(
            f"{where}: options expects two or more, got {len(options)}; drop the item"
        )
    empty = [i for i, option in enumerate(options) if not option.strip()]
    if empty:
        raise CalibrationError(f"{where}: option {empty[0]} is empty; mend or drop the item")
    right = right_option(answer, options, labels, where)
    return Document(name, options[right], prompt, tuple(options), right, domain)


def read_commonsense(target: str, options: Mapping[str, str]) -> Iterator[Document]:
    """The items of Commonsense-170k, from its JSON file or the hub.

    Raises:
        CalibrationError: If it cannot be read, or a row is not of the known forms.
    """
    for where, row in _commonsense_rows(target, options):
        try:
            prompt, choices, names = _take_apart(str(row["instruction"]))
            answer = names.index(str(row["answer"]))
        except (KeyError, ValueError, TypeError) as error:
            raise CalibrationError(
                f"{where}: not a row of Commonsense-170k; it expects an instruction with its "
                "options and an answer that names one"
            ) from error
        yield item(where, prompt, choices, answer, where)


def _commonsense_rows(target: str, options: Mapping[str, str]) -> Iterable[tuple[str, Any]]:
    if not target:
        return hub_rows(COMMONSENSE, options, "commonsense-170k:FILE")
    try:
        rows = json.loads(whole_text(target))
    except ValueError as error:
        raise CalibrationError(f"{target}: not JSON ({error})") from error
    if not isinstance(rows, list):
        raise CalibrationError(f"{target}: expected a JSON list of rows")
    return ((f"{target}:{number}", row) for number, row in enumerate(rows))


_NUMBERED = re.compile(r"\s*\b(Answer|Solution|Ending|Option)(\d): ?")


def _take_apart(instruction: str) -> tuple[str, list[str], list[str]]:
    """Prompt, options and the names by which the answer calls them."""
    task, _, form = instruction.rpartition("Answer format:")
    names = form.strip().split("/")
    head, found, _ = task.partition(": ")
    if not found:
        raise ValueError(instruction)
    if names == ["true", "false"]:
        question = task.rpartition("question: ")[2].strip()
        return QUESTION.format(question), ["false", "true"], ["false", "true"]
    pieces = _NUMBERED.split(task[len(head) + 2 :])
    stem, options = pieces[0].strip(), [piece.strip() for piece in pieces[3::3]]
    if len(options) != len(names):
        raise ValueError(instruction)
    if "fill in the blank" in head:
        return "", [stem.replace("_", option) for option in options], names
    if "complete the given sentence" in head:
        return stem, options, names
    return QUESTION.format(stem), options, names
