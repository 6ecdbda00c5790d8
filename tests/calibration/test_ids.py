"""Tokens that a model's embedding has no row for are refused before it meets them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

import depthprune as dp
from depthprune.calibration import calibrate
from depthprune.errors import CalibrationError
from tiny import tiny_model, tiny_tokenizer


def _widened() -> PreTrainedTokenizerFast:
    """A tokenizer that was given tokens after its model was made."""
    core = Tokenizer.from_str(tiny_tokenizer().backend_tokenizer.to_str())
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|turn|>"]})
    return tokenizer


@pytest.fixture
def spec(tmp_path: Path) -> str:
    file = tmp_path / "a.txt"
    file.write_text("How deep is the lake?<|turn|>\n" * 100, encoding="utf-8")
    return f"text:{file},windows=4,length=64"


def test_the_token_its_id_and_the_rows_are_named_before_a_model_is_loaded(spec: str) -> None:
    tokenizer = _widened()
    added = tokenizer.convert_tokens_to_ids("<|turn|>")
    reader = SimpleNamespace(tokenizer=tokenizer, rows=added)
    with pytest.raises(CalibrationError) as caught:
        calibrate(spec, reader)
    assert f"token '<|turn|>' has the id {added}, and the model's embedding" in str(caught.value)
    assert f"has {added:,} rows" in str(caught.value)


@pytest.mark.parametrize("rows", [None, 400])
def test_rows_that_are_unknown_or_enough_refuse_nothing(rows: Any, spec: str) -> None:
    reader = SimpleNamespace(tokenizer=_widened(), rows=rows)
    assert len(calibrate(spec, reader).windows) == 4


def test_a_loaded_model_is_asked_for_its_embedding(spec: str) -> None:
    tokenizer = _widened()
    vocab = tokenizer.convert_tokens_to_ids("<|turn|>")
    reader = SimpleNamespace(tokenizer=tokenizer, module=tiny_model(vocab_size=vocab))
    with pytest.raises(CalibrationError, match="the model's embedding has"):
        calibrate(spec, reader)


def test_an_evaluator_refuses_windows_of_tokens_that_its_model_lacks(
    tmp_path: Path, tiny_llama: Path
) -> None:
    drawn = calibrate(_many(tmp_path), SimpleNamespace(tokenizer=_far()))
    with pytest.raises(CalibrationError, match="resize the model"):
        dp.Evaluator(dp.load(tiny_llama, dtype="float32", device="cpu"), drawn)


def _far() -> PreTrainedTokenizerFast:
    tokenizer = _widened()
    tokenizer.add_tokens([f"<{i}>" for i in range(900)])
    return tokenizer


def _many(folder: Path) -> str:
    file = folder / "a.txt"
    file.write_text("<899>a" * 500, encoding="utf-8")
    return f"text:{file},windows=4,length=64"
