"""`bench MODEL --draft DRAFT`: speed with a draft, and drafts that cannot draft."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest

import depthprune as dp
from command import run
from gguf_tiny import tiny_gguf
from rule_llama import rule_llama_cpp
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
    assert found["runtime"] == "transformers"
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


@pytest.fixture(scope="module")
def ggufs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("ggufs")
    file = tiny_gguf(folder / "model.gguf", tokenizer=True)
    dp.apply(file, "2,3", folder / "draft.gguf")
    return file, folder / "draft.gguf"


def test_two_gguf_files_are_run_by_llama_cpp(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    ggufs: tuple[Path, Path],
) -> None:
    monkeypatch.setitem(sys.modules, "llama_cpp", rule_llama_cpp())
    words = ("bench", ggufs[0], "--draft", ggufs[1], *FLAGS[:4])
    found = run(capsys, *words, "--json").document
    assert (found["runtime"], found["dtype"]) == ("llama.cpp", None)
    assert [each["equal"] for each in found["runs"]] == [2, None]
    assert all(0 < each["acceptance"] < 1 for each in found["runs"])
    told = " ".join(run(capsys, *words).out.split())
    assert f"drafts of 4 tokens by {ggufs[1]} for {ggufs[0]}, in llama.cpp;" in told


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--runtime", "vllm"), "--runtime: expected auto or transformers or llama.cpp, got"),
        (("--dtype", "float32"), "--dtype float32: llama.cpp computes in what a GGUF file holds;"),
        (("--device", "cuda:1"), "--device cuda:1: expected auto or cpu with llama.cpp"),
        ((), "--draft of two GGUF files: needs llama-cpp-python, which is not installed; run:"),
    ],
)
def test_what_llama_cpp_cannot_do_is_refused(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    ggufs: tuple[Path, Path],
    words: tuple[str, ...],
    message: str,
) -> None:
    monkeypatch.setitem(sys.modules, "llama_cpp", None)
    found = run(capsys, "bench", ggufs[0], "--draft", ggufs[1], *FLAGS[:4], *words)
    assert found.status == 2
    assert found.error.startswith(message)


def test_llama_cpp_runs_no_folder(
    capsys: pytest.CaptureFixture[str], tiny_llama: Path, draft: Path
) -> None:
    words = ("bench", tiny_llama, "--draft", draft, *FLAGS[:4], "--runtime", "llama.cpp")
    found = run(capsys, *words)
    assert found.status == 2
    assert f"--runtime llama.cpp: expected two .gguf files, and {tiny_llama} is none" in found.error


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--draft-tokens", 0), "--draft-tokens: expected 1 to 64, got 0"),
        (("--new-tokens", 1), "--new-tokens: expected 2 to 1,000,000 with --draft"),
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


@pytest.mark.parametrize("flag", ["--draft-tokens", "--temperature", "--runtime", "-c"])
def test_flags_of_drafts_mean_nothing_without_one(
    capsys: pytest.CaptureFixture[str], tiny_llama: Path, flag: str
) -> None:
    found = run(capsys, "bench", tiny_llama, flag, "1")
    assert found.status == 2
    assert found.error == f"{flag}: means nothing without --draft; add it, or drop it"
