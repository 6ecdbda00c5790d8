"""Multiple-choice items are read strictly, and Commonsense-170k is taken apart as it was made."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from depthprune.calibration.sources import SOURCES, Document, read_documents
from depthprune.errors import CalibrationError

_CORPORA = Path(
    os.environ.get("DEPTHPRUNE_CORPORA", Path(__file__).parents[2] / ".." / "shared" / "data")
)
_GOOD = {"prompt": "Question: Wet?\nAnswer:", "options": ["sand", "water"], "answer": 1}


def _read(file: Path, source: str = "choices", **options: str) -> list[Document]:
    return read_documents(SOURCES.get(source), source, str(file), options)


def _file(path: Path, *rows: Any) -> Path:
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return path


def test_an_item_keeps_its_prompt_its_options_and_its_answer(tmp_path: Path) -> None:
    file = _file(tmp_path / "a.jsonl", _GOOD)
    assert _read(file) == [
        Document(f"{file}:1", "water", "Question: Wet?\nAnswer:", ("sand", "water"), 1)
    ]


def test_id_and_domain_come_from_named_fields(tmp_path: Path) -> None:
    rows = [_GOOD | {"key": 7, "subject": "physics"}, _GOOD | {"key": "b", "subject": "art"}]
    found = _read(_file(tmp_path / "a.jsonl", *rows), id="key", domain_field="subject")
    assert [(d.name, d.domain) for d in found] == [("7", "physics"), ("b", "art")]


def test_two_items_of_one_id_are_refused(tmp_path: Path) -> None:
    rows = [_GOOD | {"key": 7}, _GOOD | {"key": 8}, _GOOD | {"key": "7"}]
    with pytest.raises(CalibrationError, match="documents 1 and 3 have the same id '7'"):
        _read(_file(tmp_path / "a.jsonl", *rows), id="key")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"options": ["a", " "]}, "option 1 is empty; mend or drop the item"),
        ({"options": ["a"], "answer": 0}, "options expects two or more, got 1; drop the item"),
        ({"options": []}, "options expects two or more, got 0"),
        ({"options": "ab"}, "options expects a list of texts, got 'ab'"),
        ({"options": ["a", 2]}, "options expects a list of texts, got ['a', 2]"),
        ({"answer": 2}, "its letter or its words, got 2"),
        ({"answer": -1}, "its letter or its words, got -1"),
        ({"answer": "1"}, "its letter or its words, got '1'"),
        ({"answer": True}, "its letter or its words, got True"),
        ({"prompt": None}, "field 'prompt' expects text, got NoneType"),
    ],
)
def test_a_wrong_item_is_refused_by_its_line(
    change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    file = _file(tmp_path / "a.jsonl", _GOOD, _GOOD | change)
    with pytest.raises(CalibrationError) as caught:
        _read(file)
    assert str(caught.value).startswith(f"{file}:2: ")
    assert message in str(caught.value)


@pytest.mark.parametrize("field", ["prompt", "options", "answer"])
def test_an_item_that_lacks_a_field_is_refused_with_those_it_has(
    field: str, tmp_path: Path
) -> None:
    row = {key: value for key, value in _GOOD.items() if key != field}
    with pytest.raises(CalibrationError, match="an item expects prompt, options and answer") as e:
        _read(_file(tmp_path / "a.jsonl", row))
    assert f"and has: {', '.join(sorted(row))}" in str(e.value)


def test_a_row_that_is_no_object_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match=r"and has: list"):
        _read(_file(tmp_path / "a.jsonl", ["a", "b"]))


@pytest.mark.parametrize(
    ("instruction", "answer", "prompt", "options", "right"),
    [
        (
            "Please choose the correct ending to complete the given sentence: Roof: A man\n\n"
            "Ending1: sings. Ending2: falls. Ending3: sleeps. Ending4: is: on.\n\n"
            "Answer format: ending1/ending2/ending3/ending4",
            "ending4",
            "Roof: A man",
            ("sings.", "falls.", "sleeps.", "is: on."),
            3,
        ),
        (
            "Please choose the correct answer to fill in the blank to complete the given sentence: "
            "Ann met Bo so _ smiled.\n\nOption1: Ann Option2: Bo Answer format: option1/option2",
            "option1",
            "",
            ("Ann met Bo so Ann smiled.", "Ann met Bo so Bo smiled."),
            0,
        ),
        (
            "Please answer the following question with true or false, question: is it wet?\n\n"
            "Answer format: true/false",
            "true",
            "Question: is it wet?\nAnswer:",
            ("false", "true"),
            1,
        ),
    ],
)
def test_commonsense_170k_is_taken_apart(
    instruction: str,
    answer: str,
    prompt: str,
    options: tuple[str, ...],
    right: int,
    tmp_path: Path,
) -> None:
    file = tmp_path / "a.json"
    file.write_text(json.dumps([{"instruction": instruction, "answer": answer}]), encoding="utf-8")
    (found,) = _read(file, "commonsense-170k")
    assert (found.prompt, found.options, found.answer) == (prompt, options, right)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('[{"instruction": "Sing.", "answer": "a"}]', ":0: not a row of Commonsense-170k"),
        ('[{"answer": "a"}]', ":0: not a row of Commonsense-170k"),
        ("{}", "expected a JSON list of rows"),
        ("[", "not JSON"),
    ],
)
def test_what_is_not_commonsense_170k_is_refused(
    content: str, message: str, tmp_path: Path
) -> None:
    file = tmp_path / "a.json"
    file.write_text(content, encoding="utf-8")
    with pytest.raises(CalibrationError) as caught:
        _read(file, "commonsense-170k")
    assert message in str(caught.value)


@pytest.mark.corpora
@pytest.mark.skipif(not (_CORPORA / "choices").is_dir(), reason=f"no corpora in {_CORPORA}")
@pytest.mark.parametrize(
    ("raw", "choices"),
    [
        ("arc-easy/train", "arc-easy-train"),
        ("arc-challenge/test", "arc-challenge-test"),
        ("boolq/test", "boolq-test"),
        ("piqa/test", "piqa-test"),
        ("winogrande/test", "winogrande-test"),
    ],
)
def test_the_form_of_commonsense_170k_gives_the_items_of_the_corpora(
    raw: str, choices: str
) -> None:
    taken = _read(_CORPORA / f"{raw}.json", "commonsense-170k")
    known = _read(_CORPORA / "choices" / f"{choices}.jsonl")
    assert [(d.prompt, d.options, d.answer) for d in taken] == [
        (d.prompt, d.options, d.answer) for d in known
    ]
