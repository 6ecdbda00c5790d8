"""Multiple-choice items: a prompt, its options and which of them is right.

`choices:FILE` reads JSON lines with exactly that. `commonsense-170k` reads the data set of the
paper's margin calibration, in which prompt and options are one instruction text; it is taken apart
as lm-evaluation-harness would ask it: `Question: …`, newline, `Answer:`, each option a
continuation, and a sentence with a blank as one whole sentence an option.
Source: AGI-Edgerunners/LLM-Adapters, which made Commonsense-170k.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from depthprune.calibration.reading.chats import find_chat
from depthprune.calibration.reading.documents import (
    Document,
    json_lines,
    row_domain,
    row_name,
    text_field,
    utf8,
    with_bound,
)
from depthprune.calibration.reading.files import Bounded, files_at, named
from depthprune.calibration.reading.hub import hub_rows
from depthprune.errors import CalibrationError

COMMONSENSE = "zwhe99/commonsense_170k"
"""The hub data set that `commonsense-170k` reads where no file is named."""

_QUESTION = "Question: {}\nAnswer:"


def read_choices(target: str, options: Mapping[str, str]) -> Iterator[Document]:
    """The items of a file of JSON lines `{"prompt", "options", "answer"}`.

    Raises:
        CalibrationError: By its line, if an item lacks a field, has fewer than two options, an
            empty one, or an answer that is not the index of one.
    """
    bound = Bounded()
    yield from with_bound(_items(target, options, bound), bound)


def _items(target: str, options: Mapping[str, str], bound: Bounded) -> Iterator[Document]:
    for where, row in _item_rows(target, bound):
        if not isinstance(row, dict) or not {"prompt", "options", "answer"} <= set(row):
            have = ", ".join(sorted(map(str, row))) if isinstance(row, dict) else type(row).__name__
            raise CalibrationError(
                f"{where}: an item expects prompt, options and answer (it has: {have})"
            )
        name, domain = row_name(row, options, where), row_domain(row, options, where)
        chat = find_chat(row["prompt"], where)
        if chat is None:
            prompt = text_field(row, "prompt", {"prompt": "prompt"}, where)
        else:
            prompt = "\n\n".join(filter(None, chat.texts()))
        found = item(name, prompt, row["options"], row["answer"], where, domain)
        yield found if chat is None else replace(found, chat=chat)


def _item_rows(target: str, bound: Bounded) -> Iterator[tuple[str, Any]]:
    for file in files_at(target, "choices"):
        yield from json_lines(named(target, file), bound)


def item(
    name: str, prompt: str, options: Any, answer: Any, where: str, domain: str = ""
) -> Document:
    """A checked item.

    Raises:
        CalibrationError: If it has fewer than two options, an empty one, or a wrong answer.
    """
    if not isinstance(options, list) or not all(isinstance(o, str) for o in options):
        raise CalibrationError(f"{where}: options expects a list of texts, got {options!r:.60}")
    if len(options) < 2:
        raise CalibrationError(
            f"{where}: options expects two or more, got {len(options)}; drop the item"
        )
    empty = [i for i, option in enumerate(options) if not option.strip()]
    if empty:
        raise CalibrationError(f"{where}: option {empty[0]} is empty; mend or drop the item")
    if isinstance(answer, bool) or not isinstance(answer, int) or not 0 <= answer < len(options):
        raise CalibrationError(
            f"{where}: answer expects the index of an option, 0 to {len(options) - 1}, "
            f"got {answer!r}"
        )
    return Document(name, options[answer], prompt, tuple(options), answer, domain)


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
        rows = json.loads(utf8(target))
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
        return _QUESTION.format(question), ["false", "true"], ["false", "true"]
    pieces = _NUMBERED.split(task[len(head) + 2 :])
    stem, options = pieces[0].strip(), [piece.strip() for piece in pieces[3::3]]
    if len(options) != len(names):
        raise ValueError(instruction)
    if "fill in the blank" in head:
        return "", [stem.replace("_", option) for option in options], names
    if "complete the given sentence" in head:
        return stem, options, names
    return _QUESTION.format(stem), options, names
