"""Examples as windows: tokens taken jointly, spans without gaps, shots that are never the item."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from depthprune.calibration import Calibration, CalibrationSpec, Item, Window, calibrate
from depthprune.calibration.examples import ExamplePool
from depthprune.calibration.reading.documents import Document
from depthprune.errors import CalibrationError
from tiny import tiny_tokenizer

_READER = SimpleNamespace(tokenizer=tiny_tokenizer())
_CORPORA = Path(
    os.environ.get("DEPTHPRUNE_CORPORA", Path(__file__).parents[2] / ".." / "shared" / "data")
)
_TEMPLATE = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}</>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def _item(number: int) -> Document:
    options = (f"the {number} rivers", "a mill", f"bridge {number}")
    prompt = f"Question: What is number {number}?\nAnswer:"
    return Document(f"d{number}", options[number % 3], prompt, options, number % 3)


def _question(number: int) -> Document:
    return Document(f"d{number}", f"It is {number} feet.\n#### {number}", f"How high is {number}?")


def _spec(source: str = "choices", **keys: Any) -> CalibrationSpec:
    options = {} if source == "choices" else {"prompt": "q", "answer": "a"}
    return CalibrationSpec(source=source, target="a", options=options, **keys)


def _pool(
    count: int = 40, kind: Any = _item, tokenizer: Any = None, lead: tuple[int, ...] = ()
) -> ExamplePool:
    return ExamplePool([kind(i) for i in range(count)], tokenizer or tiny_tokenizer(), lead)


def _ids(text: str) -> list[int]:
    ids: list[int] = tiny_tokenizer().encode(text, add_special_tokens=False)
    return ids


def _text(ids: Any) -> str:
    return str(tiny_tokenizer().decode(ids))


def _harness(context: str, continuation: str) -> tuple[list[int], list[int]]:
    """Context and continuation as lm-evaluation-harness encodes a pair."""
    spaces = len(context) - len(context.rstrip())
    if spaces:
        continuation = context[-spaces:] + continuation
        context = context[:-spaces]
    whole, alone = _ids(context + continuation), _ids(context)
    return alone, whole[len(alone) :]


_WORDS = st.text("the river mil\n?A:", min_size=1, max_size=20)


@given(prompt=_WORDS.filter(str.strip), options=st.lists(_WORDS.filter(str.strip), min_size=2))
def test_an_item_is_tokenised_as_the_evaluation_harness_does_it(
    prompt: str, options: list[str]
) -> None:
    document = Document("d", options[0], prompt, tuple(options), 0)
    pairs = [_harness(prompt, f" {option}") for option in options]
    if not all(continuation for _, continuation in pairs):
        with pytest.raises(CalibrationError, match="has no token of its own"):
            ExamplePool([document], tiny_tokenizer()).window(_spec(), 0)
        return
    window = ExamplePool([document], tiny_tokenizer()).window(_spec(), 0)
    assert window is not None
    assert window.item is not None
    begin = window.item.spans[0][0]
    assert window.tokens[:begin].tolist() == pairs[0][0]
    for (start, stop), (_, continuation) in zip(window.item.spans, pairs, strict=True):
        assert window.tokens[start:stop].tolist() == continuation


def _only(spec: CalibrationSpec, index: int = 5, **pool: Any) -> tuple[Window, Item]:
    window = _pool(**pool).window(spec, index)
    assert window is not None
    assert window.item is not None
    return window, window.item


def test_options_follow_one_another_without_gaps_and_all_of_them_count() -> None:
    window, item = _only(_spec())
    stops = [stop for _, stop in item.spans]
    assert [start for start, _ in item.spans] == [item.spans[0][0], *stops[:-1]]
    assert stops[-1] == len(window.tokens)
    assert np.flatnonzero(window.scored).tolist() == list(
        range(item.spans[0][0], len(window.tokens))
    )
    assert [_text(window.tokens[a:b]) for a, b in item.spans] == [
        f" {option}" for option in _item(5).options
    ]


def test_an_item_knows_its_answer_its_bytes_and_its_longest_reading() -> None:
    document = Document("d", "Grüße", "Say:", ("Grüße", "no"), 0)
    window = ExamplePool([document], tiny_tokenizer()).window(_spec(), 0)
    assert window is not None
    assert window.item is not None
    assert (window.item.answer, window.item.bytes) == (0, (7, 2))
    assert window.item.longest == len(_ids("Say: Grüße"))


def test_an_empty_prompt_begins_with_bos() -> None:
    document = Document("d", "one", "", ("one", "two"), 0)
    window = ExamplePool([document], tiny_tokenizer()).window(_spec(), 0)
    assert window is not None
    assert window.item is not None
    assert window.item.spans[0][0] == 1
    assert window.tokens[0] == tiny_tokenizer().bos_token_id


class _Bare:
    """The tiny tokenizer with other special tokens."""

    def __init__(self, eos: int | None) -> None:
        self.bos_token_id, self.eos_token_id = None, eos

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return tiny_tokenizer()(*arguments, **options)


def test_an_empty_prompt_begins_with_eos_where_there_is_no_bos() -> None:
    document = Document("d", "one", "", ("one", "two"), 0)
    window = ExamplePool([document], _Bare(eos=1)).window(_spec(), 0)
    assert window is not None
    assert window.tokens[0] == 1


def test_an_empty_prompt_without_bos_and_eos_is_refused() -> None:
    document = Document("d", "one", "", ("one", "two"), 0)
    with pytest.raises(CalibrationError, match="an empty prompt needs a BOS or EOS token"):
        ExamplePool([document], _Bare(eos=None)).window(_spec(), 0)


def test_bos_begins_every_item() -> None:
    plain, item = _only(_spec())
    led, led_item = _only(_spec(), lead=(tiny_tokenizer().bos_token_id,))
    assert led.tokens.tolist() == [tiny_tokenizer().bos_token_id, *plain.tokens.tolist()]
    assert led_item.spans == tuple((a + 1, b + 1) for a, b in item.spans)


def test_zero_shot_is_the_prompt_as_it_stands() -> None:
    raw, zero = _only(_spec()), _only(_spec(format="zero-shot"))
    assert raw[0].tokens.tolist() == zero[0].tokens.tolist()
    assert raw[1] == zero[1]


def test_few_shot_puts_solved_examples_before_the_prompt() -> None:
    window, item = _only(_spec(format="few-shot", shots=3))
    *shots, prompt = _text(window.tokens[: item.spans[0][0]]).split("\n\n")
    assert prompt == _item(5).prompt
    solved = {f"{d.prompt} {d.text}" for d in map(_item, range(40))}
    assert len(set(shots)) == 3
    assert set(shots) <= solved


@given(index=st.integers(0, 39), seed=st.integers(0, 50))
def test_an_example_is_never_the_item_itself_nor_held_out(index: int, seed: int) -> None:
    shots = _pool()._shots(_spec(format="few-shot", shots=5, shots_seed=seed), index)
    assert len(set(shots)) == 5
    assert index not in shots
    assert max(shots) < 36


def test_examples_have_a_seed_of_their_own() -> None:
    def chosen(**keys: int) -> list[int]:
        return _pool()._shots(_spec(format="few-shot", shots=4, **keys), 5)

    assert chosen(seed=0) == chosen(seed=1)
    assert chosen(shots_seed=0) != chosen(shots_seed=1)


def test_more_examples_than_there_are_is_refused() -> None:
    with pytest.raises(CalibrationError, match=r"shots=40, and it has 35 other examples outside"):
        _only(_spec(format="few-shot", shots=40))


def test_a_chat_asks_in_the_user_s_turn_and_is_answered_in_the_assistant_s() -> None:
    tokenizer = tiny_tokenizer().__class__(
        tokenizer_object=tiny_tokenizer().backend_tokenizer, chat_template=_TEMPLATE
    )
    window, item = _only(_spec(format="chat", shots=1), tokenizer=tokenizer)
    text = _text(window.tokens[: item.spans[0][0]])
    shot = _item(_pool()._shots(_spec(format="chat", shots=1), 5)[0])
    assert text == (
        f"<user>{shot.prompt}</><assistant>{shot.text}</><user>{_item(5).prompt}</><assistant>"
    )
    assert _text(window.tokens[slice(*item.spans[0])]) == _item(5).options[0]


def test_a_chat_without_a_template_is_refused() -> None:
    with pytest.raises(CalibrationError, match="tokenizer has no chat template"):
        _only(_spec(format="chat"))


def test_a_question_is_asked_and_its_worked_answer_counts() -> None:
    window = _pool(kind=_question).window(_spec("jsonl", format="zero-shot", mask="answer"), 5)
    assert window is not None
    assert window.item is None
    assert _text(window.tokens) == ("Question: How high is 5?\nAnswer: It is 5 feet.\n#### 5")
    assert _text(window.tokens[window.scored]) == " It is 5 feet.\n#### 5"


@pytest.mark.parametrize(("mask", "counted"), [("all", slice(1, None)), ("last", slice(-1, None))])
def test_all_tokens_or_the_last_may_count(mask: str, counted: slice) -> None:
    window = _pool(kind=_question).window(_spec("jsonl", format="zero-shot", mask=mask), 5)
    assert window is not None
    expected = np.zeros(len(window.tokens), dtype=bool)
    expected[counted] = True
    assert window.scored.tolist() == expected.tolist()


def test_an_example_longer_than_the_length_is_left_out() -> None:
    length = len(_ids("Question: How high is 5?\nAnswer: It is 5 feet.\n#### 5"))
    pool = _pool(kind=_question)
    spec = _spec("jsonl", format="zero-shot", length=length, windows="all")
    assert pool.window(spec, 5) is not None
    assert pool.window(spec, 30) is None
    assert all(len(window.tokens) <= length for window in pool.draw(spec, "draw"))


def test_too_few_examples_of_the_length_are_counted() -> None:
    with pytest.raises(CalibrationError, match=r"0 examples fit in length=8, of 36 outside"):
        _pool(kind=_question).draw(_spec("jsonl", format="zero-shot", length=8), "draw")


def test_too_few_items_are_counted() -> None:
    with pytest.raises(CalibrationError, match=r"36 examples outside the last tenth.*windows=37"):
        _pool().draw(_spec(windows=37), "draw")


def test_draws_and_held_out_items_share_none() -> None:
    pool = _pool()
    held = {w.document for w in pool.draw(_spec(windows=30), "held-out")}
    assert held == {"d36", "d37", "d38", "d39"}
    for seed in range(5):
        drawn = [w.document for w in pool.draw(_spec(windows=30, seed=seed), "draw")]
        assert len(set(drawn)) == 30
        assert held.isdisjoint(drawn)


def test_a_smaller_draw_of_one_seed_is_part_of_a_larger_one() -> None:
    few, many = ({w.start for w in _pool().draw(_spec(windows=n), "draw")} for n in (8, 20))
    assert few < many


def test_consecutive_items_reach_the_end_where_nothing_is_chosen() -> None:
    assert len(_pool().draw(_spec(windows="all"), "whole")) == 40
    assert [w.start for w in _pool().draw(_spec(windows=3, order="first"), "draw")] == [0, 1, 2]


@settings(max_examples=25)
@given(budget=st.integers(60, 900), seed=st.integers(0, 20))
def test_a_budget_takes_as_many_items_as_fit(budget: int, seed: int) -> None:
    drawn = _pool().draw(_spec(tokens=budget, seed=seed), "draw")
    total = sum(len(window.tokens) for window in drawn)
    longest = max(len(window.tokens) for window in _pool().draw(_spec(windows="all"), "draw"))
    assert budget - longest < total <= budget


def test_a_budget_below_one_item_is_refused() -> None:
    with pytest.raises(CalibrationError, match="tokens=5 was asked"):
        _pool().draw(_spec(tokens=5), "draw")


def test_an_item_longer_than_the_model_reads_is_refused() -> None:
    _, item = _only(_spec())
    drawn = calibrate_items([_item(i) for i in range(40)])
    drawn.check_context(None)
    drawn.check_context(max(w.item.longest for w in drawn.windows if w.item))
    with pytest.raises(CalibrationError, match=rf"d\d+: the item has {item.longest} tokens .* 10;"):
        drawn.check_context(10)


def calibrate_items(items: list[Document]) -> Calibration:
    from depthprune.calibration import LoadedSource

    pool = ExamplePool(items, tiny_tokenizer())
    part = LoadedSource(pool, tiny_tokenizer(), {}, 0).part(_spec(windows=4), 1.0, "draw")
    return Calibration((part,))


def test_an_item_s_facts_tell_it_from_others() -> None:
    _, item = _only(_spec())
    others = [
        Item(item.spans, (item.answer + 1) % 3, item.bytes),
        Item(item.spans, item.answer, tuple(n + 1 for n in item.bytes)),
        Item(((item.spans[0][0], item.spans[1][1]), item.spans[2]), item.answer, item.bytes[:2]),
        Item(item.spans, item.answer, item.bytes, tuple(n - 1 for n in item.bytes)),
    ]
    assert len({each.facts().tobytes() for each in [item, *others]}) == 5


def test_characters_are_kept_where_they_are_not_the_bytes() -> None:
    options = ("naïve", "plain", "été")
    spaced = Document("d", options[0], "Say", options, 0)
    pool = ExamplePool([_item(0), spaced, _item(1)], tiny_tokenizer())
    plain, accented = (pool.window(_spec(), index) for index in (0, 1))
    assert plain is not None
    assert plain.item is not None
    assert plain.item.characters is None
    assert accented is not None
    assert accented.item is not None
    assert accented.item.characters == (5, 5, 3)
    assert accented.item.bytes == (6, 5, 5)


@pytest.mark.corpora
@pytest.mark.skipif(not (_CORPORA / "choices").is_dir(), reason=f"no corpora in {_CORPORA}")
@pytest.mark.parametrize(
    "name", ["arc-easy-train", "arc-challenge-test", "boolq-test", "piqa-test", "winogrande-test"]
)
def test_real_items_are_drawn_with_their_options(name: str) -> None:
    file = _CORPORA / "choices" / f"{name}.jsonl"
    drawn = calibrate(f"choices:{file},windows=16", _READER)
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    for window in drawn.windows:
        row = rows[window.start]
        assert window.item is not None
        assert window.item.answer == row["answer"]
        assert window.item.bytes == tuple(len(option.encode()) for option in row["options"])
        texts = [_text(window.tokens[a:b]) for a, b in window.item.spans]
        assert texts == [f" {option}" for option in row["options"]]
    assert drawn.parts[0].reduction == "window"


@pytest.mark.corpora
@pytest.mark.skipif(not (_CORPORA / "gsm8k").is_dir(), reason=f"no corpora in {_CORPORA}")
def test_gsm8k_is_asked_with_worked_answers() -> None:
    file = _CORPORA / "gsm8k" / "train.jsonl"
    spec = f"jsonl:{file},prompt=question,answer=answer,format=few-shot,shots=2,length=4096"
    drawn = calibrate(f"{spec},windows=4,mask=answer", _READER)
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    for window in drawn.windows:
        text = _text(window.tokens)
        assert text.count("Question: ") == 3
        assert text.count("\n#### ") == 3
        row = rows[window.start]
        assert text.endswith(f"Question: {row['question']}\nAnswer: {row['answer']}")
        assert _text(window.tokens[window.scored]) == f" {row['answer']}"
