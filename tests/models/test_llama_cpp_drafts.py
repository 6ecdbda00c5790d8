"""Drafts in llama.cpp: text is the model's own, and what became of drafts is counted.

The fast tests hold the logic against a module that decodes as llama-cpp-python does, by a rule in
place of a model; the slow ones run llama.cpp itself.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import depthprune as dp
from depthprune.errors import ModelError, UsageError
from depthprune.models.assisted import DraftCounts
from depthprune.models.llama_cpp import Drafter, LlamaCppPair
from depthprune.models.source import demo_file
from rule_llama import RuleLlama, rule_llama_cpp

PROMPT = (5, 17, 40, 8)
WHY = "llama-cpp-python is not installed; run: make llama-cpp (it needs a C++ compiler)"


@pytest.fixture
def rules(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llama_cpp", rule_llama_cpp())
    monkeypatch.setattr(RuleLlama, "passes", [])


def pair(model: str = "model.gguf", draft: str = "draft.gguf") -> LlamaCppPair:
    return LlamaCppPair([Path(model), Path(draft)], 64, device="cpu", threads=1)


@pytest.mark.usefixtures("rules")
@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("length", [1, 3, 8])
@pytest.mark.parametrize("new", [1, 2, 17])
def test_text_is_the_model_s_own_and_no_draft_goes_beyond_its_end(
    temperature: float, length: int, new: int
) -> None:
    both, drafted = pair(), DraftCounts(length)
    alone = both.write(0, PROMPT, new, temperature=temperature, seed=3)
    helped = both.write(0, PROMPT, new, drafted=drafted, temperature=temperature, seed=3)
    assert helped.tokens == alone.tokens
    assert len(helped.tokens) == new
    # The first token; what was taken of each draft, and one more; the last where one is left.
    assert new - 1 - sum(taken + 1 for taken in drafted.taken) in (0, 1)
    assert all(t <= o <= length for t, o in zip(drafted.taken, drafted.offered, strict=True))
    assert sum(drafted.offered) == sum(RuleLlama.passes)


@pytest.mark.usefixtures("rules")
def test_a_model_that_drafts_for_itself_is_always_right() -> None:
    both, drafted = pair(draft="model.gguf"), DraftCounts(4)
    both.write(0, PROMPT, 21, drafted=drafted)
    assert drafted.acceptance == 1.0
    assert drafted.taken == drafted.offered == [4, 4, 4, 4]


@pytest.mark.usefixtures("rules")
def test_acceptance_is_that_of_tokens_that_were_looked_at() -> None:
    both, drafted = pair(), DraftCounts(2)
    both.write(0, PROMPT, 40, drafted=drafted)
    # The draft errs where a multiple of four tokens stand before: at one place of four.
    assert drafted.acceptance == pytest.approx(0.75, abs=0.1)
    assert 0 in drafted.taken
    assert 2 in drafted.taken


@pytest.mark.usefixtures("rules")
def test_the_draft_alone_writes_its_own_text() -> None:
    both = pair()
    assert both.write(1, PROMPT, 9).tokens != both.write(0, PROMPT, 9).tokens


@pytest.mark.usefixtures("rules")
def test_the_odds_of_two_tokens_are_read_behind_what_stands_before() -> None:
    assert pair().log_odds(PROMPT, 7, 2) == 3 * 5.0


@pytest.mark.usefixtures("rules")
def test_only_the_model_that_is_helped_keeps_the_logits_of_all_places() -> None:
    both = pair()
    assert [each.draft_model for each in both._alone] == [None, None]
    assert isinstance(both._assisted.draft_model, Drafter)
    assert both._assisted.settings == both._alone[0].settings
    assert both._alone[0].settings["n_ctx"] == 64


@pytest.mark.usefixtures("rules")
def test_a_file_that_llama_cpp_cannot_load_is_refused() -> None:
    with pytest.raises(ModelError, match=r"broken.gguf: llama.cpp cannot load it \(Failed to load"):
        pair(draft="broken.gguf")


@pytest.mark.usefixtures("rules")
def test_a_model_that_cannot_take_tokens_back_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RuleLlama, "recurrent", True)
    with pytest.raises(ModelError, match=r"model.gguf: its blocks carry a state .* --runtime"):
        pair()


def test_without_llama_cpp_python_one_line_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "llama_cpp", None)
    with pytest.raises(UsageError) as caught:
        pair()
    assert str(caught.value) == (
        "--draft of two GGUF files: needs llama-cpp-python, which is not installed; run: pip "
        "install 'depthprune[llama]' (it is compiled, which takes a C++ compiler and minutes), or "
        "pass --runtime transformers"
    )


@pytest.mark.slow
def test_llama_cpp_itself_writes_the_model_s_own_text(tmp_path: Path) -> None:
    """Passes over several tokens multiply by other kernels, so a text may part, but near a tie."""
    pytest.importorskip("llama_cpp", reason=WHY)
    draft = tmp_path / "draft.gguf"
    dp.apply(demo_file(), "10,12,20", draft)
    text = "stdlib-prose,windows=3,length=48"
    found = dp.bench_draft(demo_file(), draft, new_tokens=24, prompts=text)
    assert (found.runtime, found.dtype) == ("llama.cpp", None)
    greedy, sampled = found.runs
    assert greedy.equal is not None
    assert greedy.equal >= 1
    assert (greedy.parted_by or 0.0) < 0.5
    assert 0.05 < sampled.acceptance < greedy.acceptance < 1.0
