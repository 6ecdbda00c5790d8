"""Answers are generated greedily, and the number they end with is compared as a number."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import depthprune as dp
from depthprune.calibration import Window
from depthprune.errors import EvaluationError
from depthprune.pruning import generation
from depthprune.pruning.generation import AnswerScore, answer, answer_all, final_number, is_right
from plain_greedy import greedy


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("She has 3 + 4 = 7 left.\n#### 7", "7"),
        ("#### 1,234", "1234"),
        ("#### $ 18.50 then 4", "18.50"),
        ("#### -3\nQuestion: 9", "-3"),
        ("it costs $2,000.", "2000"),
        ("10-4", "4"),
        ("x = -5", "-5"),
        ("so .5 is left", "0.5"),
        ("12 apples ####", "12"),
        ("nothing at all", None),
        ("", None),
    ],
)
def test_the_final_number_stands_behind_the_mark_or_last(text: str, number: str | None) -> None:
    assert final_number(text) == (None if number is None else Decimal(number))


@pytest.fixture(scope="module")
def model(tiny_llama: Path) -> dp.Model:
    return dp.load(tiny_llama, dtype="float32", device="cpu")


def test_an_answer_is_the_greedy_continuation(model: dp.Model) -> None:
    prompt = model.tokenizer("The river is high", add_special_tokens=False)["input_ids"]
    expected = greedy(model.module, model.tokenizer, prompt, 20)
    text = model.tokenizer.decode(expected, skip_special_tokens=True)
    assert answer(model.module, model.tokenizer, prompt, 20, []) == text
    assert len(text) > 4


def test_settings_of_the_checkpoint_do_not_bend_it(model: dp.Model) -> None:
    prompt = model.tokenizer("The mill", add_special_tokens=False)["input_ids"]
    plain = answer(model.module, model.tokenizer, prompt, 12, [])
    module: Any = model.module
    own = module.generation_config
    try:
        module.generation_config = type(own)(do_sample=True, repetition_penalty=9.0, pad_token_id=0)
        assert answer(model.module, model.tokenizer, prompt, 12, []) == plain
        assert module.generation_config.repetition_penalty == 9.0
    finally:
        module.generation_config = own


def test_an_answer_ends_before_a_text_that_stops_it(
    model: dp.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt = model.tokenizer("The river is high", add_special_tokens=False)["input_ids"]
    whole = answer(model.module, model.tokenizer, prompt, 20, [])
    stop = whole[5:7]
    assert answer(model.module, model.tokenizer, prompt, 20, [stop]) == whole[: whole.index(stop)]


def _problem(model: dp.Model, question: str, right: str) -> Window:
    first, last = (
        model.tokenizer(text, add_special_tokens=False)["input_ids"] for text in (question, right)
    )
    scored = np.arange(len(first) + len(last)) >= len(first)
    return Window(np.asarray([*first, *last]), scored, question, 0)


def test_a_share_of_right_numbers_has_its_standard_error(
    model: dp.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = iter(["#### 7.0", "so 9", "who knows", "#### 1,000"])
    monkeypatch.setattr(generation, "answer", lambda *_: next(given))
    windows = [_problem(model, "How many?", f" so #### {n}") for n in (7, 8, 9, 1000)]
    found = answer_all(model.module, model.tokenizer, windows, max_new_tokens=4, stop=[])
    right = np.array([1.0, 0.0, 0.0, 1.0])
    assert found == AnswerScore(0.5, pytest.approx(right.std(ddof=1) / 2), 4, 1, tuple(right == 1))


@pytest.mark.parametrize(
    ("written", "wanted", "right"),
    [
        ("so 4, then 7", "7", True),
        ("so 7, then 4", "7", False),
        ("nothing", "7", False),
        (" Paris. It lies", "Paris", True),
        ("PARIS", "Paris.", True),
        ("New\n York  City", "new york", True),
        ("Parisian", "Paris", False),
        ("It is Paris", "Paris", False),
        ("", "Paris", False),
    ],
)
def test_an_answer_ends_with_the_number_or_begins_with_the_words(
    written: str, wanted: str, right: bool
) -> None:
    assert is_right(written, wanted) is right


def test_a_problem_without_an_answer_is_refused(model: dp.Model) -> None:
    windows = [_problem(model, "Who?", " ")]
    with pytest.raises(EvaluationError, match=r"Who\?: its answer is empty"):
        answer_all(model.module, model.tokenizer, windows, max_new_tokens=4, stop=[])


def test_a_prompt_that_fills_the_model_is_refused(model: dp.Model) -> None:
    windows = [_problem(model, "How many?", " 4")]
    with pytest.raises(EvaluationError, match="the prompt has"):
        answer_all(model.module, model.tokenizer, windows, max_new_tokens=4, stop=[], context=3)
