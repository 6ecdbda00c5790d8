"""Finalists are the best sets of each model and k by what the cells were judged on."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from pydantic import ValidationError

from depthprune.errors import UsageError
from depthprune.study.finalists import (
    FINALS,
    FinalRow,
    FinalScore,
    choose_finalists,
)
from depthprune.study.table import Evaluation, Row

from .planted import calibration_only

_ROW = calibration_only(draws=1)[0]


def _row(removed: tuple[int, ...], *evaluations: Evaluation, model: str = "m", **more: object):
    change = {
        "model": model, "k": len(removed), "removed": removed, "alone": None,
        "evaluations": evaluations, **more,
    }  # fmt: skip
    return Row.model_validate({**_ROW.model_dump(), **change})


def _text(value: float, name: str = "prose") -> Evaluation:
    return Evaluation(name=name, kind="perplexity", value=value, n=4)


def _quiz(value: float) -> Evaluation:
    return Evaluation(name="quiz", kind="accuracy", value=value, n=4)


def test_the_best_distinct_sets_of_each_k_follow_the_whole_model() -> None:
    rows = [
        _row((1, 2), _text(20.0)),
        _row((1, 3), _text(10.0)),
        _row((1, 3), _text(10.0), search="greedy"),
        _row((2, 3), _text(30.0)),
        _row((4,), _text(12.0)),
        _row((5,), _text(11.0), model="n"),
    ]
    found = [(f.model, f.removed) for f in choose_finalists(rows, 2)]
    assert found == [
        ("m", ()), ("m", (4,)), ("m", (1, 3)), ("m", (1, 2)), ("n", ()), ("n", (5,)),
    ]  # fmt: skip


def test_texts_are_averaged_as_logarithms_and_accuracy_counts_where_there_are_none() -> None:
    rows = [
        _row((1,), _text(4.0), _text(100.0, "code"), _quiz(0.1)),
        _row((2,), _text(24.0), _text(24.0, "code"), _quiz(0.9)),
    ]
    assert [f.removed for f in choose_finalists(rows, 1)] == [(), (1,)]
    quizzed = [_row((1,), _quiz(0.3)), _row((2,), _quiz(0.4))]
    assert choose_finalists(quizzed, 1)[1].removed == (2,)


def test_cells_that_failed_or_have_no_finite_value_are_passed_over() -> None:
    rows = [
        _row((1,), _text(math.inf)),
        _row((2,), _text(9.0)),
        _row((3,), _text(2.0), error="NaN"),
        _row((4,)),
    ]
    assert [f.removed for f in choose_finalists(rows, 9)] == [(), (2,)]
    assert choose_finalists(rows[2:3], 9) == []


def _final(**changes: object) -> FinalRow:
    score = FinalScore(task="arc", metric="acc", value=0.5, stderr=0.1, n=4)
    facts = {
        "model": "m", "blocks": 6, "k": 1, "removed": (2,), "kind": "task", "name": "arc",
        "scores": (score,), "seconds": 1.0,
    }  # fmt: skip
    return FinalRow.model_validate({**facts, **changes})


def test_the_table_reads_back_and_is_of_one_plan(tmp_path: Path) -> None:
    path = tmp_path / "finalists.jsonl"
    rows = (_final(), _final(name="gsm8k", kind="generate"))
    FINALS.write(path, "p", rows)
    assert FINALS.read(path, "p") == ("p", rows)
    with pytest.raises(UsageError, match="its plan is p, expected q"):
        FINALS.resume(path, "q")
    FINALS.append(path, rows[0])
    assert FINALS.read(path, "p") == ("p", rows)
    FINALS.append(path, rows[0].model_copy(update={"error": "NaN"}))
    with pytest.raises(UsageError, match="line 5: this finalist was given in line 2 with another"):
        FINALS.read(path)
    path.write_text(json.dumps({"kind": "depthprune-study", "schema": 1, "plan": "p"}) + "\n")
    with pytest.raises(UsageError, match="expected a study's table of finalists"):
        FINALS.read(path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"k": 2}, "k = 2 distinct blocks"),
        ({"scores": ()}, "neither scores nor an error"),
        ({"kind": "chat"}, "kind"),
        ({"more": 1}, "more"),
    ],
)
def test_a_line_that_contradicts_itself_is_refused(changes: dict[str, object], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        _final(**changes)
