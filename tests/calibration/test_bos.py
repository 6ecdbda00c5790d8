"""Windows begin with BOS exactly where the model's own tokenizer puts it, and never with two."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from depthprune.calibration import Calibration, calibrate
from depthprune.calibration.bos import bos_tokens_of, with_bos
from depthprune.errors import CalibrationError
from tiny import tiny_tokenizer

_TEXT = "".join(f"Line {i}: the river is {i} feet high.\n" for i in range(200))
_TEMPLATE = "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}\n{% endfor %}"


def _tokenizer(single: str = "<s> $A", **options: Any) -> PreTrainedTokenizerFast:
    """The tiny tokenizer, adding these tokens to a text by itself."""
    core = Tokenizer.from_str(tiny_tokenizer().backend_tokenizer.to_str())
    known = [(name, core.token_to_id(name)) for name in ("<s>", "</s>")]
    core.post_processor = TemplateProcessing(single=single, special_tokens=known)
    options = {"bos_token": "<s>", "eos_token": "</s>"} | options
    return PreTrainedTokenizerFast(tokenizer_object=core, **options)


@pytest.fixture
def text(tmp_path: Path) -> str:
    file = tmp_path / "a.txt"
    file.write_text(_TEXT, encoding="utf-8")
    return f"text:{file},windows=4,length=16"


def _drawn(spec: str, tokenizer: Any) -> Calibration:
    return calibrate(spec, SimpleNamespace(tokenizer=tokenizer))


@pytest.mark.parametrize(
    ("single", "lead"),
    [("<s> $A", (0,)), ("<s> $A </s>", (0,)), ("</s> <s> $A", (1, 0)), ("$A", ()), ("$A </s>", ())],
)
def test_a_tokenizer_is_asked_by_tokenising(single: str, lead: tuple[int, ...]) -> None:
    assert bos_tokens_of("auto", _tokenizer(single), "a") == lead


def test_a_tokenizer_that_adds_bos_without_naming_it_is_believed() -> None:
    assert bos_tokens_of("auto", _tokenizer(bos_token=None), "a") == (0,)


def test_a_named_bos_that_the_tokenizer_does_not_add_begins_no_window(text: str) -> None:
    plain = _drawn(text, tiny_tokenizer())
    assert not plain.parts[0].begun
    assert plain.fingerprint == _drawn(f"{text},bos=false", tiny_tokenizer()).fingerprint


def test_windows_of_text_begin_with_what_the_tokenizer_adds(text: str) -> None:
    drawn = _drawn(text, _tokenizer())
    assert drawn.parts[0].begun
    assert {int(w.tokens[0]) for w in drawn.windows} == {0}
    assert {len(w.tokens) for w in drawn.windows} == {16}
    assert drawn.fingerprint == _drawn(f"{text},bos=true", tiny_tokenizer()).fingerprint


def test_bos_false_leaves_it_out(text: str) -> None:
    assert not _drawn(f"{text},bos=false", _tokenizer()).parts[0].begun


def test_items_begin_with_what_the_tokenizer_adds_even_where_the_prompt_is_empty(
    tmp_path: Path,
) -> None:
    rows = [
        {"prompt": prompt, "options": ["one", "two"], "answer": 0}
        for prompt in ("Which?", "", "<s>Which?") * 7
    ]
    file = tmp_path / "i.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    drawn = _drawn(f"choices:{file},windows=9,order=first", _tokenizer())
    assert drawn.parts[0].begun
    assert all(w.tokens.tolist().count(0) == 1 for w in drawn.windows)


def test_a_chat_template_that_renders_bos_is_given_no_second(tmp_path: Path) -> None:
    rows = [{"q": f"What is {i}?", "a": "A number."} for i in range(20)]
    file = tmp_path / "q.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    spec = f"jsonl:{file},prompt=q,answer=a,format=chat,windows=3,order=first"
    with_bos = _tokenizer(chat_template="{{ bos_token }}" + _TEMPLATE)
    without = _tokenizer(chat_template=_TEMPLATE)
    first, second = _drawn(spec, with_bos), _drawn(spec, without)
    assert first.fingerprint == second.fingerprint
    assert all(w.tokens.tolist().count(0) == 1 for w in first.windows)


def test_tokens_that_bring_their_lead_get_no_other() -> None:
    assert with_bos((0,), [0, 5]) == [0, 5]
    assert with_bos((1, 0), [0, 5]) == [1, 0, 0, 5]
    assert with_bos((), [5]) == [5]


def test_a_bos_that_is_not_in_the_vocabulary_is_refused_where_it_is_asked_for(text: str) -> None:
    lost = _tokenizer("$A", bos_token=None)
    lost._special_tokens_map["bos_token"] = "<begin>"
    with pytest.raises(
        CalibrationError, match="BOS token '<begin>' is not in its vocabulary; drop"
    ):
        _drawn(f"{text},bos=true", lost)
    assert not _drawn(text, lost).parts[0].begun
