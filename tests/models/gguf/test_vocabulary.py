"""A tokenizer whose files lie beside a GGUF is read in place of the file's, if it is the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from depthprune.checkpoints.gguf.reader import read_gguf, read_strings
from depthprune.errors import ModelError
from depthprune.models.pretrained import load_module
from depthprune.models.source import find_model
from gguf_tiny import tiny_gguf
from tiny import tiny_tokenizer

TEXT = "The river is high"


def ids(file: Path) -> Any:
    return find_model(file).tokenizer()(TEXT)["input_ids"]


def test_the_tokens_of_a_file_are_what_the_gguf_package_reads(tmp_path: Path) -> None:
    file = read_gguf(tiny_gguf(tmp_path / "a.gguf", tokenizer=True))
    vocabulary = tiny_tokenizer().get_vocab()
    assert read_strings(file, "tokenizer.ggml.tokens") == sorted(vocabulary, key=vocabulary.get)
    assert read_strings(file, "tokenizer.ggml.token_type") == []
    assert read_strings(file, "no.such.key") == []


def test_a_tokenizer_of_another_model_beside_a_file_is_refused(tmp_path: Path) -> None:
    file = tiny_gguf(tmp_path / "a.gguf", tokenizer=True)
    Tokenizer(WordLevel({"?": 0, "The": 1, "river": 2}, "?")).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(ModelError, match=r"are of another model, 3 of their 3 tokens are not"):
        ids(file)


def test_the_files_own_tokenizer_may_lie_beside_it(tmp_path: Path) -> None:
    file = tiny_gguf(tmp_path / "a.gguf", tokenizer=True)
    alone = ids(file)
    tiny_tokenizer().save_pretrained(tmp_path)
    assert ids(file) == alone


def test_a_file_without_a_tokenizer_takes_the_one_beside_it(tmp_path: Path) -> None:
    """transformers would read the size of the vocabulary off the tokenizer in the file."""
    tiny_tokenizer().save_pretrained(tmp_path)
    file = tiny_gguf(tmp_path / "a.gguf")
    assert ids(file) == tiny_tokenizer()(TEXT)["input_ids"]
    module: Any = load_module(find_model(file), torch.float32, torch.device("cpu"))
    assert module.config.vocab_size == 48
