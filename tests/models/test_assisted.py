"""DraftCounts text is the model's own, and what became of drafts is counted as it happened."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import depthprune as dp
from depthprune.models.assisted import (
    DraftCounts,
    best_length,
    first_mismatch,
    log_odds,
    predicted_speedup,
    write,
)

PROMPT = (5, 17, 40, 8, 99, 23)


@pytest.fixture(scope="module")
def model(tiny_llama: Path) -> Any:
    return dp.load(tiny_llama, dtype="float32", device="cpu").module


@pytest.fixture(scope="module")
def draft(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("draft") / "cut"
    dp.apply(tiny_llama, "2,3", folder)
    return dp.load(folder, dtype="float32", device="cpu").module


def test_a_model_that_drafts_for_itself_is_always_right(model: Any) -> None:
    drafted = DraftCounts(4)
    alone = write(model, PROMPT, 21)
    helped = write(model, PROMPT, 21, draft=model, drafted=drafted)
    assert helped.tokens == alone.tokens
    assert len(alone.tokens) == 21
    assert drafted.acceptance == 1.0
    assert sum(drafted.taken) + len(drafted.taken) == 21
    assert max(drafted.offered) == 4


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_a_draft_samples_at_the_model_s_temperature(model: Any, temperature: float) -> None:
    """At any other a model that drafts for itself would at times be refused."""
    drafted = DraftCounts(4)
    write(model, PROMPT, 31, draft=model, drafted=drafted, temperature=temperature)
    assert drafted.acceptance == 1.0


def test_no_token_of_a_text_counts_as_padding(model: Any) -> None:
    drafted = DraftCounts(4)
    write(model, (5, 0, 17, 0, 40, 0), 25, draft=model, drafted=drafted, temperature=1.0)
    assert drafted.acceptance == 1.0


def test_greedy_text_is_the_model_s_own_whoever_drafts(model: Any, draft: Any) -> None:
    drafted = DraftCounts(3)
    alone = write(model, PROMPT, 24)
    helped = write(model, PROMPT, 24, draft=draft, drafted=drafted)
    assert first_mismatch(alone.tokens, helped.tokens) is None
    assert 0.0 <= drafted.acceptance < 1.0
    assert sum(drafted.taken) + len(drafted.taken) == 24


def test_sampled_text_is_the_seed_s(model: Any, draft: Any) -> None:
    first, again, other = (
        write(model, PROMPT, 12, draft=draft, drafted=DraftCounts(3), temperature=0.8, seed=seed)
        for seed in (1, 1, 2)
    )
    assert first.tokens == again.tokens != other.tokens


def test_the_models_settings_and_transformers_are_as_before(model: Any, draft: Any) -> None:
    from transformers.generation.candidate_generator import AssistedCandidateGenerator

    kind = AssistedCandidateGenerator
    before = (kind.update_candidate_strategy, kind.get_candidates)
    settings = [each.generation_config.to_dict() for each in (model, draft)]
    write(model, PROMPT, 5, draft=draft, drafted=DraftCounts(2))
    assert (kind.update_candidate_strategy, kind.get_candidates) == before
    assert [each.generation_config.to_dict() for each in (model, draft)] == settings


def test_acceptance_counts_what_was_looked_at() -> None:
    drafted = DraftCounts(4, taken=[4, 0, 2], offered=[4, 4, 3])
    # All four, one that was refused, two and a third that was refused.
    assert drafted.acceptance == 6 / (4 + 1 + 3)
    assert math.isnan(DraftCounts(4).acceptance)


@pytest.mark.parametrize("acceptance", [0.0, 0.3, 0.8, 1.0])
def test_the_predicted_speedup_is_what_independent_acceptances_give(acceptance: float) -> None:
    rng = np.random.default_rng(0)
    length, cost = 4, 0.25
    taken = (rng.random((200_000, length)) < acceptance).cumprod(axis=1).sum(axis=1)
    simulated = (taken + 1).mean() / (length * cost + 1)
    assert predicted_speedup(acceptance, length, cost) == pytest.approx(simulated, rel=0.01)


def test_longer_drafts_pay_for_better_and_cheaper_ones() -> None:
    assert best_length(0.2, 0.5) == 1
    assert best_length(0.9, 0.1) > best_length(0.6, 0.1) >= best_length(0.6, 0.4)
    best = best_length(0.8, 0.2)
    speeds = [predicted_speedup(0.8, length, 0.2) for length in range(1, 17)]
    assert speeds[best - 1] == max(speeds)


def test_where_texts_part_the_odds_are_the_models(model: Any) -> None:
    assert first_mismatch((1, 2, 3), (1, 2, 3)) is None
    assert first_mismatch((1, 2, 3), (1, 4, 3)) == 1
    assert log_odds(model, PROMPT, 7, 7) == 0.0
    assert log_odds(model, PROMPT, 7, 8) == log_odds(model, PROMPT, 8, 7) > 0.0
