"""A text tokenised in pieces gives the tokens of the whole, whatever family the tokenizer is of."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import (
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)
from transformers import PreTrainedTokenizerFast

from depthprune.calibration import pieces
from depthprune.calibration.pieces import Encoder, Pieces, cut_at
from depthprune.calibration.reading.documents import Document
from depthprune.calibration.streams import Tokenising, tokenize
from tiny import tiny_tokenizer

_SAYINGS = [
    "The river rises in the hills behind the town, where the old road crosses it. ",
    "In spring (most years) the water's high;  brown   too.\n\n",
    "Zahlen: 1234567, 3.14 und 20%.\n",
    "\tif x == 1:\n        return [x, 'y']\n",
    "川は町の後ろの丘から流れる。古い道が通る。",
    "Ça va? Où ça… déjà vu — naïve!\r\n",
    "<s>marked</s> 🙂🙃 ",
    "a" * 50 + " ",
]
_CL100K = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def _trained(core: Tokenizer, trainer: Any) -> PreTrainedTokenizerFast:
    core.train_from_iterator(_SAYINGS * 20, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>")


def _bpe(**options: Any) -> Any:
    return trainers.BpeTrainer(
        vocab_size=600, special_tokens=["<s>", "</s>", "<unk>"], show_progress=False, **options
    )


def _split_as_newer_models_do() -> PreTrainedTokenizerFast:
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_CL100K), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    return _trained(core, _bpe(initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))


def _unigram(scheme: Any) -> PreTrainedTokenizerFast:
    core = Tokenizer(models.Unigram())
    core.normalizer = normalizers.NFKC()
    core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    core.decoder = decoders.Metaspace(prepend_scheme=scheme)
    trainer = trainers.UnigramTrainer(
        vocab_size=300, special_tokens=["<s>", "</s>", "<unk>"], unk_token="<unk>",
        show_progress=False,
    )  # fmt: skip
    return _trained(core, trainer)


def _as_llama_was(prepend: bool) -> PreTrainedTokenizerFast:
    """BPE over the whole text, spaces written as ▁ and one put before it: Llama 2's, Mistral's."""
    core = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
    steps = [normalizers.Prepend("▁")] if prepend else []
    core.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", "▁")])
    trained = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
    trained.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    trained.train_from_iterator(_SAYINGS * 20, _bpe())
    core.model = trained.model
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>")


_FAMILIES = {
    "byte-level BPE": tiny_tokenizer,
    "byte-level BPE, newer pattern": _split_as_newer_models_do,
    "unigram, metaspace always": lambda: _unigram("always"),
    "unigram, metaspace first": lambda: _unigram("first"),
    "legacy llama": lambda: _as_llama_was(True),
    "gemma": lambda: _as_llama_was(False),
}


@pytest.fixture(scope="module", params=_FAMILIES)
def tokenizer(request: pytest.FixtureRequest) -> Any:
    return _FAMILIES[request.param]()


def _whole(tokenizer: Any, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    return ids


@pytest.fixture
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "PIECE", 500)
    monkeypatch.setattr(pieces, "_REACH", 200)


@pytest.mark.usefixtures("_small")
@settings(max_examples=15)
@given(order=st.lists(st.sampled_from(_SAYINGS), min_size=30, max_size=80))
def test_the_tokens_are_those_of_the_text_taken_whole(order: list[str]) -> None:
    text = "".join(order)
    for make in _FAMILIES.values():
        tokenizer = _CACHE.setdefault(make, make()) if make not in _CACHE else _CACHE[make]
        cut = Pieces(Encoder(tokenizer))
        found = [ids for _, ids in cut.tokens([text])]
        assert cut.unproved or np.concatenate(found).tolist() == _whole(tokenizer, text)


_CACHE: dict[Any, Any] = {}


@pytest.mark.usefixtures("_small")
def test_running_text_is_cut_without_a_doubt(tokenizer: Any) -> None:
    text = "".join(_SAYINGS[:4] * 40)
    cut = Pieces(Encoder(tokenizer))
    parts = list(cut.of(text))
    assert len(parts) > 10
    assert cut.unproved == 0
    found = np.concatenate([ids for _, ids in cut.tokens([text])])
    assert found.tolist() == _whole(tokenizer, text)


def test_a_space_that_the_tokenizer_adds_itself_is_not_given_to_it() -> None:
    text = "the old road crosses it by a bridge"
    legacy = cut_at(text, 20, Encoder(_as_llama_was(True)))
    plain = cut_at(text, 20, Encoder(tiny_tokenizer()))
    assert (legacy.start - legacy.end, plain.start - plain.end) == (1, 0)


@pytest.mark.usefixtures("_small")
def test_where_nothing_can_be_proved_the_text_is_cut_and_that_is_said() -> None:
    text = "7" * 3000
    stream = Tokenising([Document("a", text)], tiny_tokenizer())
    assert tiny_tokenizer().decode(stream.stream().tokens) == text
    assert "tokens there may differ from those of the text taken whole" in stream.notes[0]


def test_texts_keep_their_numbers_in_any_grouping(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [_SAYINGS[i % 8] * (i % 5) for i in range(50)]
    expected = [_whole(tiny_tokenizer(), text) for text in texts]
    for most in (1, 1000, 2**20):
        monkeypatch.setattr(pieces, "_AT_ONCE", max(1, most // pieces.PIECE))
        monkeypatch.setattr(pieces, "PIECE", max(300, most))
        found: list[list[int]] = [[] for _ in texts]
        for number, ids in Pieces(Encoder(tiny_tokenizer())).tokens(texts):
            found[number] += ids.tolist()
        assert found == expected


@pytest.mark.usefixtures("_small")
def test_a_text_is_tokenised_no_further_than_is_asked() -> None:
    documents = [Document(f"d{i}", _SAYINGS[i % 4] * 20) for i in range(400)]
    lazy, whole = Tokenising(documents, tiny_tokenizer()), tokenize(documents, tiny_tokenizer())
    some = lazy.stream(1000)
    assert 1000 <= len(some.tokens) < len(whole.tokens) / 2
    assert some.tokens.tolist() == whole.tokens[: len(some.tokens)].tolist()
    assert some.names == whole.names[: len(some.names)]
    assert lazy.stream().tokens.tolist() == whole.tokens.tolist()
    assert lazy.stream().starts.tolist() == whole.starts.tolist()


class _Slow:
    """A tokenizer in Python only."""

    def __call__(self, text: Any, **options: Any) -> Any:
        return tiny_tokenizer()(text, **options)


def test_a_tokenizer_without_a_rust_part_is_asked_as_it_is() -> None:
    texts = ["the river", "the mill"]
    found = Encoder(_Slow()).many(texts)
    assert [ids.tolist() for ids in found] == [_whole(tiny_tokenizer(), text) for text in texts]
