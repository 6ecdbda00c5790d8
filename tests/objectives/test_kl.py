"""KL is Σ p log(p/q) by its definition, in either direction, exact or with the rest as one."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from depthprune.errors import UsageError
from depthprune.objectives import KL, parse_objective


def _distributions() -> tuple[torch.Tensor, torch.Tensor, np.ndarray, np.ndarray]:
    generator = torch.Generator().manual_seed(0)
    ours, theirs = (3 * torch.randn(29, 53, generator=generator) for _ in range(2))
    p, q = (np.exp(x.double().numpy()) for x in (theirs, ours))
    return ours, theirs, p / p.sum(1, keepdims=True), q / q.sum(1, keepdims=True)


TARGETS = torch.zeros(29, dtype=torch.long)


def test_forward_is_from_the_dense_to_the_pruned_model() -> None:
    ours, theirs, p, q = _distributions()
    losses = KL().token_losses(ours, TARGETS, theirs)
    np.testing.assert_allclose(losses, (p * np.log(p / q)).sum(1), rtol=1e-4)


def test_reverse_is_from_the_pruned_to_the_dense_model() -> None:
    ours, theirs, p, q = _distributions()
    losses = KL("reverse").token_losses(ours, TARGETS, theirs)
    np.testing.assert_allclose(losses, (q * np.log(q / p)).sum(1), rtol=1e-4)


@pytest.mark.parametrize("direction", ["forward", "reverse"])
@pytest.mark.parametrize("top", [1, 7, 52])
def test_with_top_all_other_tokens_count_as_one(direction: str, top: int) -> None:
    ours, theirs, p, q = _distributions()
    expected = []
    for dense, pruned in zip(p, q, strict=True):
        chosen = np.argsort(-dense)[:top]
        a = np.append(dense[chosen], 1 - dense[chosen].sum())
        b = np.append(pruned[chosen], 1 - pruned[chosen].sum())
        a, b = (a, b) if direction == "forward" else (b, a)
        expected.append((a * np.log(a / b)).sum())
    losses = KL(direction, top).token_losses(ours, TARGETS, theirs)  # type: ignore[arg-type]
    np.testing.assert_allclose(losses, expected, rtol=1e-4, atol=1e-6)


def test_top_is_a_lower_bound_that_grows() -> None:
    ours, theirs, *_ = _distributions()
    by_top = [KL(top=top).token_losses(ours, TARGETS, theirs) for top in (1, 4, 16, 0)]
    for fewer, more in itertools.pairwise(by_top):
        assert (fewer <= more + 1e-5).all()


def test_a_model_is_no_distance_from_itself() -> None:
    ours, *_ = _distributions()
    for objective in (KL(), KL("reverse"), KL(top=5)):
        assert objective.token_losses(ours, TARGETS, ours).abs().max() == 0


def test_a_token_that_neither_model_can_say_adds_nothing() -> None:
    ours, theirs, p, q = _distributions()
    wall = torch.full((29, 3), float("-inf"))
    wide = KL().token_losses(torch.cat([ours, wall], 1), TARGETS, torch.cat([theirs, wall], 1))
    np.testing.assert_allclose(wide, (p * np.log(p / q)).sum(1), rtol=1e-4)


def test_its_name_tells_its_parameters() -> None:
    assert parse_objective("kl").name == "kl"
    assert parse_objective("kl:top=64,direction=reverse").name == "kl:direction=reverse,top=64"


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("kl:direction=up", "forward or reverse"),
        ("kl:top=-1", "0 (all tokens)"),
        ("kl:top=x", "whole"),
    ],
)
def test_a_wrong_parameter_is_refused(text: str, word: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_objective(text)
    assert word in str(caught.value)
