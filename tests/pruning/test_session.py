"""What the measuring verbs share: a model is loaded once for one way of loading it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from depthprune.cli.console import TerminalProgress
from depthprune.errors import UsageError
from depthprune.pruning.session import Loading


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
