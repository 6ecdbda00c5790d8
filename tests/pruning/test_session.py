"""What the measuring verbs share: a model is loaded once for one way of loading it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from depthprune.cli.console import TerminalProgress
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
