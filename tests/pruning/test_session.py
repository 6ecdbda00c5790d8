"""What the measuring verbs share: a model is loaded once for one way of loading it."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from depthprune.cli.console import TerminalProgress
from depthprune.errors import UsageError
from depthprune.evaluator.memo.store import Context, Memo
from depthprune.progress import SILENT
from depthprune.pruning.session import Loading, memo_at, open_memo, read_tokenizer


def test_a_model_asked_for_again_is_the_same_and_in_another_dtype_another(
    tiny_llama: Path,
) -> None:
    loading = Loading(str(tiny_llama), dtype="float32", device="cpu")
    source = loading.find()
    first = loading.load(source, source.tokenizer(), TerminalProgress())
    assert loading.load(source, source.tokenizer(), TerminalProgress()) is first
    other = replace(loading, dtype="bfloat16")
    assert other.load(source, source.tokenizer(), TerminalProgress()).dtype == "bfloat16"
    assert loading.load(source, source.tokenizer(), TerminalProgress()) is first


def test_a_dtype_that_is_none_is_refused_before_anything_is_looked_for() -> None:
    with pytest.raises(UsageError, match="--dtype: expected auto, float32"):
        Loading("/nowhere", dtype="x").find()


def test_one_model_is_held_at_a_time_and_it_is_the_one_that_was_asked_for(tiny_llama: Path) -> None:
    loading = Loading(str(tiny_llama), dtype="float32", device="cpu")
    one, other = loading.find(), loading.find()
    first = loading.load(one, one.tokenizer(), SILENT)
    second = loading.load(other, other.tokenizer(), SILENT)
    assert (first.source, second.source) == (one, other)
    assert second is not first
    assert loading._loaded == [second]


def reads(**config: Any) -> tuple[int | None, int | None]:
    """What a reader is told of the context and of the embedding's rows."""
    source: Any = SimpleNamespace(
        name="m", tokenizer=lambda: None, checkpoint=SimpleNamespace(config=config)
    )
    found = read_tokenizer(source, SILENT)
    return found.context, found.rows


def test_a_reader_knows_the_language_models_sizes_before_those_of_the_whole() -> None:
    text = {"vocab_size": 50, "max_position_embeddings": 64}
    assert reads(**text) == (64, 50)
    assert reads(vocab_size=9, max_position_embeddings=8, text_config=text) == (64, 50)
    assert reads(vocab_size=9, text_config={"max_position_embeddings": 64}) == (64, 9)
    assert reads(vocab_size=True, max_position_embeddings="8", text_config=[]) == (None, None)


def test_that_the_weights_behind_stored_losses_changed_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    place = tmp_path / "memo.sqlite"
    with Memo.open(place) as memo:
        memo.changed("demo", "a1" * 32)
        memo.store(Context("a1" * 32, "float32", "cpu", "2.8.0", "nll"), (1,), [b"w" * 16],
                   np.ones(1))  # fmt: skip
    for weights, said in (("a1", 0), ("b2", 1), ("b2", 1)):
        source: Any = SimpleNamespace(
            name="someone/model", identity="demo", fingerprint=lambda w=weights: w * 32
        )
        with open_memo(place, source):
            pass
        assert caplog.messages == said * [
            "the weights of someone/model changed; losses in the memo are not reused"
        ]


def test_what_a_memo_cannot_do_is_said_once_even_where_the_run_ends_in_an_error(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run() -> None:
        with memo_at(None) as memo:
            assert memo is not None
            assert caplog.messages == ["it is only read"]
            memo.notes.append("the disk is full")
            raise KeyError

    opened = Memo.open(tmp_path / "memo.sqlite")
    opened.notes.append("it is only read")
    monkeypatch.setattr(Memo, "open", lambda _: opened)
    with pytest.raises(KeyError):
        run()
    assert caplog.messages == ["it is only read", "the disk is full"]
