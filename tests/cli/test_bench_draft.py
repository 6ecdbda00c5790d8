"""`bench MODEL --draft DRAFT`: speed with a draft, and drafts that cannot draft."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

import depthprune as dp
from command import run
from tiny import save_tiny, tiny_tokenizer


@pytest.fixture(scope="module")
def draft(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("draft") / "cut"
    dp.apply(tiny_llama, "2,3", folder)
    return folder


FLAGS = ("-c", "stdlib-prose,windows=2,length=12", "--new-tokens", 9, "--dtype", "float32")


def test_a_draft_is_measured_beside_what_is_predicted(
    capsys: pytest.CaptureFixture[str], tiny_llama: Path, draft: Path
) -> None:
    words = ("bench", tiny_llama, "--draft", draft, "--draft-tokens", 3, *FLAGS)
    found = run(capsys, *words, "--json").document
    assert (found["length"], found["new_tokens"], found["dtype"]) == (3, 9, "float32")
    greedy, sampled = found["runs"]
    assert (greedy["temperature"], sampled["temperature"]) == (0.0, 1.0)
    assert (greedy["equal"], greedy["prompts"], sampled["equal"]) == (2, 2, None)
    for each in (greedy, sampled):
        assert 0 <= each["acceptance"] <= 1
        assert each["drafts"] > 0
        assert math.isfinite(each["predicted"])
    told = run(capsys, *words)
    assert told.status == 0
    assert "2 of 2" in told.out
    assert "drafts of 3 tokens by" in " ".join(told.out.split())


def test_a_draft_with_another_vocabulary_is_refused(
    capsys: pytest.CaptureFixture[str], tiny_llama: Path, tmp_path: Path
) -> None:
    other = save_tiny(tmp_path / "other")
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["<another>"])
    tokenizer.save_pretrained(other)
    found = run(capsys, "bench", tiny_llama, "--draft", other, *FLAGS)
    assert found.status == 1
    assert f"--draft {other}: its tokenizer has" in found.error
    assert "a draft must write the model's own tokens" in found.error


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--draft-tokens", 0), "--draft-tokens: expected 1 to 64, got 0"),
        (("--temperature", 0), "--temperature: expected a number above 0, got 0"),
        (("--temperature", -1), "--temperature: expected a number above 0, got -1"),
    ],
)
def test_numbers_out_of_range_are_refused(
    capsys: pytest.CaptureFixture[str],
    tiny_llama: Path,
    draft: Path,
    words: tuple[object, ...],
    message: str,
) -> None:
    found = run(capsys, "bench", tiny_llama, "--draft", draft, *FLAGS, *words)
    assert found.status == 2
    assert found.error.startswith(message)


@pytest.mark.parametrize("flag", ["--draft-tokens", "--temperature", "-c"])
def test_flags_of_drafts_mean_nothing_without_one(
    capsys: pytest.CaptureFixture[str], tiny_llama: Path, flag: str
) -> None:
    found = run(capsys, "bench", tiny_llama, flag, "1")
    assert found.status == 2
    assert found.error == f"{flag}: means nothing without --draft; add it, or drop it"
