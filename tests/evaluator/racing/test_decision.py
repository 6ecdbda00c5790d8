"""What a round decides: of ties one goes on, and a strict bound is not helped out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from depthprune.evaluator.racing import decision
from depthprune.evaluator.racing.bounds import bound_for
from depthprune.evaluator.racing.decision import Decision, decide
from depthprune.evaluator.racing.differences import Earlier, Strata

SEEN, TOTAL = 20, 40


def strata(seen: int = SEEN) -> Strata:
    return Strata(np.zeros(seen, int), np.ones(seen), np.ones(1), np.array([TOTAL]))


def decided(losses: np.ndarray, wanted: int, tie: float, **more: Any) -> Decision:
    bound = bound_for([SEEN], TOTAL, more.pop("width", None))
    chances = np.full(len(losses), 0.001)
    return decide(losses, strata(), wanted, bound, chances, tie, **more)


def test_of_candidates_that_tie_the_first_are_kept_and_the_others_dropped() -> None:
    alike = np.tile(np.random.default_rng(0).normal(size=SEEN), (4, 1))
    found = decided(alike, 2, 0.01)
    assert found.kept.tolist() == [True, True, False, False]
    assert found.dropped.tolist() == [False, False, True, True]


def test_of_those_that_tie_the_lower_mean_comes_first() -> None:
    losses = np.repeat([[1.002], [1.001], [1.0]], SEEN, axis=1)
    found = decided(losses, 1, 0.01)
    assert found.kept.tolist() == [False, False, True]
    assert found.dropped.tolist() == [True, True, False]


def test_without_a_tolerance_candidates_that_were_alike_so_far_are_undecided() -> None:
    found = decided(np.ones((3, SEEN)), 1, 0.0)
    assert not found.kept.any()
    assert not found.dropped.any()


@pytest.mark.parametrize("width", [None, 1.0])
def test_a_strict_bound_is_told_neither_others_variances_nor_predecessors(
    width: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def watched(name: str, given: Any) -> Any:
        def call(*values: Any) -> Any:
            asked.append((name, values[-1] is not None))
            return given(*values)

        return call

    monkeypatch.setattr(decision, "pooled", watched("pooled", decision.pooled))
    monkeypatch.setattr(decision, "differences", watched("earlier", decision.differences))
    losses = np.random.default_rng(0).random((8, TOTAL))
    earlier = Earlier(losses, strata(TOTAL))
    decided(losses[:, :SEEN], 2, 0.0, width=width, pool=True, earlier=earlier)
    estimated = width is None
    assert asked == [("earlier", estimated)] + [("pooled", True)] * estimated
