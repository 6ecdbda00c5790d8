"""Benchmarks' own rows are items as they are, and none is read with a shifted answer."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from depthprune.calibration.sources import SOURCES, Document, read_documents
from depthprune.errors import CalibrationError

_LABELS = {"text": ["sand", "water"], "label": ["A", "B"]}


def _read(file: Path) -> list[Document]:
    return read_documents(SOURCES.get("choices"), "choices", str(file), {})


def _lines(folder: Path, *rows: Any) -> Path:
    file = folder / "rows.jsonl"
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return file


@pytest.mark.parametrize(
    ("row", "prompt", "options", "right"),
    [
        pytest.param(
            {"id": "M1", "question": "Wet?", "choices": _LABELS, "answerKey": "B"},
            "Question: Wet?\nAnswer:", ("sand", "water"), 1, id="ARC",
        ),
        pytest.param(
            {"question": "Wet?", "choices": _LABELS | {"label": ["1", "2"]}, "answerKey": "2"},
            "Question: Wet?\nAnswer:", ("sand", "water"), 1, id="ARC by numbers",
        ),
        pytest.param(
            {"question": {"stem": "Wet?", "choices": [
                {"text": "sand", "label": "A"}, {"text": "water", "label": "B"},
            ]}, "answerKey": "B"},
            "Question: Wet?\nAnswer:", ("sand", "water"), 1, id="ARC as published",
        ),
        pytest.param(
            {"question_stem": "What is wet is", "choices": _LABELS, "answerKey": "B"},
            "What is wet is", ("sand", "water"), 1, id="OpenBookQA",
        ),
        pytest.param(
            {"goal": "Get wet", "sol1": "Sit.", "sol2": "Swim.", "label": 1},
            "Question: Get wet\nAnswer:", ("Sit.", "Swim."), 1, id="PIQA",
        ),
        pytest.param(
            {"ctx_a": "A man sits.", "ctx_b": "he", "ctx": "A man sits. he", "label": "1",
             "activity_label": "Roof", "endings": ["falls [step] down.", "sings."]},
            "Roof: A man sits. He", ("falls down.", "sings."), 1, id="HellaSwag",
        ),
        pytest.param(
            {"sentence": "Ann met Bo so _ smiled.", "option1": "Ann", "option2": "Bo",
             "answer": "2"},
            "", ("Ann met Bo so Ann smiled.", "Ann met Bo so Bo smiled."), 1, id="WinoGrande",
        ),
        pytest.param(
            {"question": "Wet?", "subject": "sea", "choices": ["sand", "water"], "answer": 1},
            "Question: Wet?\nAnswer:", ("sand", "water"), 1, id="MMLU",
        ),
        pytest.param(
            {"article": "Seas.", "question": "Wet?", "options": ["sand", "water"], "answer": "B"},
            "Seas.\nQuestion: Wet?\nAnswer:", ("sand", "water"), 1, id="RACE",
        ),
        pytest.param(
            {"question": "Wet?", "options": {"A": "sand", "B": "water"}, "answer": "B"},
            "Question: Wet?\nAnswer:", ("sand", "water"), 1, id="options by letters",
        ),
        pytest.param(
            {"passage": "Seas.", "question": "is it wet", "answer": True},
            "Seas.\nQuestion: is it wet?\nAnswer:", ("no", "yes"), 1, id="BoolQ",
        ),
        pytest.param(
            {"passage": "Seas.", "question": "is it dry", "label": 0, "idx": 4},
            "Seas.\nQuestion: is it dry?\nAnswer:", ("no", "yes"), 0, id="BoolQ of SuperGLUE",
        ),
        pytest.param(
            {"premise": "I got wet.", "choice1": "It rained.", "choice2": "I sat.",
             "question": "cause", "label": 0},
            "I got wet because", ("it rained.", "i sat."), 0, id="COPA",
        ),
        pytest.param(
            {"context": "Ann fell in.", "question": "How is she?", "answerA": "dry",
             "answerB": "wet", "answerC": "asleep", "label": "2"},
            "Ann fell in.\nQuestion: How is she?\nAnswer:", ("dry", "wet", "asleep"), 1,
            id="SocialIQA",
        ),
        pytest.param(
            {"context": "Ann fell in.", "question": "How is she?", "answerA": "dry",
             "answerB": "wet", "answerC": "asleep", "label": 2},
            "Ann fell in.\nQuestion: How is she?\nAnswer:", ("dry", "wet", "asleep"), 1,
            id="SocialIQA without quotes",
        ),
        pytest.param(
            {"question": "Wet?", "choices": _LABELS | {"label": [1, 2]}, "answerKey": 2},
            "Question: Wet?\nAnswer:", ("sand", "water"), 1, id="labels without quotes",
        ),
        pytest.param(
            {"question": "Wet?", "distractor1": "sand", "distractor2": "air", "distractor3": "fire",
             "correct_answer": "water", "support": "Seas."},
            "Seas.\nQuestion: Wet?\nAnswer:", ("sand", "air", "fire", "water"), 3, id="SciQ",
        ),
        pytest.param(
            {"query": "Q: Wet?\nA:", "choices": ["sand", "water"], "gold": [1]},
            "Q: Wet?\nA:", ("sand", "water"), 1, id="AGIEval",
        ),
        pytest.param(
            {"prompt": "Wet:", "options": ["sand", "water"], "answer": "B"},
            "Wet:", ("sand", "water"), 1, id="a letter",
        ),
        pytest.param(
            {"prompt": "Wet:", "options": ["sand", "water"], "answer": " water"},
            "Wet:", ("sand", "water"), 1, id="the option's words",
        ),
    ],
)  # fmt: skip
def test_a_row_says_by_its_fields_what_it_is(
    row: dict[str, Any], prompt: str, options: tuple[str, ...], right: int, tmp_path: Path
) -> None:
    (found,) = _read(_lines(tmp_path, row))
    assert (found.prompt, found.options, found.answer) == (prompt, options, right)
    assert found.text == options[right]


@pytest.mark.parametrize(
    ("options", "answer"),
    [
        (["sand", "water"], "1"),  # from 0 or from 1
        (["1", "2", "3"], "2"),  # the place, or the words
        (["B", "A"], "A"),  # the letter, or the words
        (["sand", "sand"], "sand"),
        (["sand", "water"], "C"),
        (["sand", "water"], ""),
        (["sand", "water"], 2),
        (["sand", "water"], None),
        (["sand", "water"], 1.0),
    ],
)
def test_an_answer_that_could_mean_two_options_or_none_is_refused(
    options: list[str], answer: Any, tmp_path: Path
) -> None:
    file = _lines(tmp_path, {"question": "Which?", "choices": options, "answer": answer})
    with pytest.raises(CalibrationError, match="answer expects the index of an option") as caught:
        _read(file)
    assert str(caught.value).startswith(f"{file}:1: ")


@pytest.mark.parametrize(
    "row",
    [
        {"question": "Wet?", "options": {"1": "water", "2": "sand"}, "answer": 1},
        {"question": "Wet?", "choices": _LABELS | {"label": ["1", "2"]}, "answerKey": 1},
        {"question": "Wet?", "choices": _LABELS | {"label": [1, 2]}, "answerKey": 0},
        {"sentence": "_ smiled.", "option1": "Ann", "option2": "Bo", "answer": 1},
    ],
)
def test_a_number_that_may_be_a_place_or_what_an_option_is_called_is_refused(
    row: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(CalibrationError, match=r"got \d \(options are called 1, 2\)"):
        _read(_lines(tmp_path, row))


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"question": None, "choices": ["a", "b"], "answer": 0}, "expects text, got NoneType"),
        ({"goal": None, "sol1": "a", "sol2": "b", "label": 0}, "expects text, got NoneType"),
        ({"passage": "Seas.", "question": None, "answer": True}, "an item expects"),
        (
            {"premise": None, "choice1": "a", "choice2": "b", "question": "cause", "label": 0},
            "an item expects",
        ),
        (
            {"sentence": "_ smiled.", "option1": None, "option2": "Bo", "answer": "2"},
            "an item expects",
        ),
        (
            {"question": "Wet?", "choices": {"text": None, "label": None}, "answerKey": "A"},
            "an item expects",
        ),
    ],
)
def test_a_field_that_is_empty_is_no_word_of_an_item(
    row: dict[str, Any], said: str, tmp_path: Path
) -> None:
    file = _lines(tmp_path, row)
    with pytest.raises(CalibrationError, match=said) as caught:
        _read(file)
    assert str(caught.value).startswith(f"{file}:1: ")


def test_benchmarks_that_keep_their_answers_back_are_refused(tmp_path: Path) -> None:
    row = {"ctx": "A man", "endings": ["falls.", "sings."], "label": ""}
    with pytest.raises(CalibrationError, match="answer expects the index of an option"):
        _read(_lines(tmp_path, row))
    row = {"goal": "Get wet", "sol1": "Sit.", "sol2": "Swim.", "label": -1}
    with pytest.raises(CalibrationError, match="answer expects the index of an option"):
        _read(_lines(tmp_path, row))


def test_a_table_has_a_column_for_each_letter(tmp_path: Path) -> None:
    rows = [["question", "A", "B", "C", "answer"], ["Wet, and salt?", "sand", "water", "", "B"],
            ["Dry?", "sand", "sea", "air", "A"]]  # fmt: skip
    for name, delimiter in (("quiz.csv", ","), ("quiz.tsv", "\t")):
        with (tmp_path / name).open("w", newline="", encoding="utf-8") as file:
            csv.writer(file, delimiter=delimiter).writerows(rows)
        first, second = _read(tmp_path / name)
        assert (first.prompt, first.options) == (
            "Question: Wet, and salt?\nAnswer:", ("sand", "water"))  # fmt: skip
        assert (second.options, second.answer) == (("sand", "sea", "air"), 0)


def test_a_parquet_file_has_the_same_items_as_its_lines(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    rows = [
        {"id": f"M{i}", "question": f"{i}?", "choices": _LABELS, "answerKey": "AB"[i % 2]}
        for i in range(40)
    ]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "rows.parquet")
    found, lines = _read(tmp_path / "rows.parquet"), _read(_lines(tmp_path, *rows))
    assert [(d.prompt, d.options, d.answer) for d in found] == [
        (d.prompt, d.options, d.answer) for d in lines
    ]


def test_a_row_of_no_known_form_is_refused_by_its_fields(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match=r"known benchmark .* and has: answer, question"):
        _read(_lines(tmp_path, {"question": "Wet?", "answer": True}))


def test_a_text_that_a_question_may_be_asked_of_and_is_not_read_is_said(tmp_path: Path) -> None:
    item = {"question": "Wet?", "options": ["sand", "water"], "answer": 1}
    (found,) = _read(_lines(tmp_path, {**item, "text": "The sea is wet."}))
    assert found.prompt == "Question: Wet?\nAnswer:"
    assert found.note == "its 'text' is not read; call it passage if the question is asked of it"
    for other in ({}, {"text": ""}, {"text": "The sea.", "passage": "The sea is wet."}):
        (found,) = _read(_lines(tmp_path, {**item, **other}))
        assert not found.note


def test_an_item_about_a_picture_is_refused(tmp_path: Path) -> None:
    item = {"question": "What is seen?", "choices": ["sand", "water"], "answer": 1}
    with pytest.raises(CalibrationError, match=":2: its field 'image' holds what is no text"):
        _read(_lines(tmp_path, {**item, "image": None}, {**item, "image": {"path": "a.png"}}))
