"""Acceptance is Σ min(p, q) by its definition, at any temperature; greedy, that arg-maxes agree."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from depthprune.calibration import Window
from depthprune.errors import UsageError
from depthprune.objectives import Acceptance, parse_objective
from depthprune.objectives import tiles as tiles_module

TARGETS = torch.zeros(29, dtype=torch.long)


def _logits(columns: int = 53) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    theirs = 3 * torch.randn(29, columns, generator=generator)
    return theirs + torch.randn(29, columns, generator=generator), theirs


def _probabilities(logits: torch.Tensor, temperature: float) -> np.ndarray:
    scaled = logits.double().numpy() / temperature
    found: np.ndarray = np.exp(scaled - scaled.max(1, keepdims=True))
    return found / found.sum(1, keepdims=True)


@pytest.mark.parametrize("columns", [1, 7, 53, 1000])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_a_token_is_lost_where_min_p_q_does_not_sum_to_one(
    temperature: float, columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiles_module, "COLUMNS", columns)
    monkeypatch.setattr(tiles_module, "ROWS", 10)
    ours, theirs = _logits()
    p, q = _probabilities(theirs, temperature), _probabilities(ours, temperature)
    losses = Acceptance(temperature).token_losses(ours, TARGETS, theirs)
    np.testing.assert_allclose(losses, 1 - np.minimum(p, q).sum(1), rtol=1e-4, atol=1e-6)


def test_it_is_the_chance_that_speculative_sampling_accepts() -> None:
    """Tokens drawn from q, each accepted with probability min(1, p/q), as the paper has it."""
    ours, theirs = _logits(5)
    p, q = _probabilities(theirs, 1.0)[0], _probabilities(ours, 1.0)[0]
    rng = np.random.default_rng(0)
    drawn = rng.choice(len(q), size=200_000, p=q)
    accepted = (rng.random(len(drawn)) < (p / q)[drawn]).mean()
    lost = float(Acceptance().token_losses(ours, TARGETS, theirs)[0])
    assert 1 - lost == pytest.approx(accepted, abs=0.005)


@pytest.mark.parametrize("columns", [1, 7, 1000])
def test_greedy_agrees_or_does_not(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles_module, "COLUMNS", columns)
    ours, theirs = _logits()
    losses = Acceptance(0).token_losses(ours, TARGETS, theirs)
    expected = (ours.argmax(1) != theirs.argmax(1)).float()
    assert 0 < expected.mean() < 1
    assert torch.equal(losses, expected)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_what_is_no_number_is_not_accepted_and_not_lost(temperature: float) -> None:
    ours, theirs = _logits()
    ours[3, 40] = torch.nan
    losses = Acceptance(temperature).token_losses(ours, TARGETS, theirs)
    assert losses.isnan().nonzero().tolist() == [[3]]
    assert math.isnan(Acceptance(temperature).window_loss(losses.double().numpy(), _window()))


def _window() -> Any:
    return Window(np.zeros(30, dtype=np.int64), np.arange(30) > 0, "text", 0)


def test_a_windows_loss_is_that_of_its_mean_acceptance_and_has_bounds() -> None:
    objective = Acceptance()
    assert objective.window_loss(np.array([0.5, 0.7]), _window()) == pytest.approx(-math.log(0.4))
    assert objective.window_loss(np.zeros(2), _window()) == 0
    assert objective.bounds is not None
    assert objective.window_loss(np.ones(2), _window()) == objective.bounds[1]


def test_its_name_tells_its_temperature() -> None:
    assert parse_objective("acceptance").name == "acceptance"
    assert parse_objective("acceptance:temperature=0").name == "acceptance:temperature=0"
    assert parse_objective("acceptance:temperature=0.7").name == "acceptance:temperature=0.7"
    assert parse_objective("acceptance:temperature=2").name == "acceptance:temperature=2"


@pytest.mark.parametrize("other", ["0.7000001", "1.0000001", "1e-07"])
def test_another_temperature_is_another_name(other: str) -> None:
    """Losses are kept under it: of the rounded name, one temperature recalled another's."""
    assert parse_objective(f"acceptance:temperature={other}").name.endswith(f"={other}")


@pytest.mark.parametrize("temperature", ["-1", "nan", "inf"])
def test_a_wrong_temperature_is_refused(temperature: str) -> None:
    with pytest.raises(UsageError, match="temperature"):
        parse_objective(f"acceptance:temperature={temperature}")
