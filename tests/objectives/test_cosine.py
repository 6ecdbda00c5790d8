"""Cosine distance by its definition."""

from __future__ import annotations

import numpy as np
import torch

from depthprune.objectives import Cosine


def test_it_is_one_minus_the_cosine_of_each_tokens_states() -> None:
    generator = torch.Generator().manual_seed(0)
    ours, theirs = (torch.randn(11, 7, generator=generator) for _ in range(2))
    a, b = ours.double().numpy(), theirs.double().numpy()
    expected = 1 - (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    losses = Cosine().token_losses(ours, torch.zeros(11, dtype=torch.long), theirs)
    np.testing.assert_allclose(losses, expected, rtol=1e-4, atol=1e-6)


def test_scale_does_not_count() -> None:
    states = torch.randn(5, 4, generator=torch.Generator().manual_seed(1))
    losses = Cosine().token_losses(3 * states, torch.zeros(5, dtype=torch.long), states)
    assert losses.abs().max() < 1e-6
