"""The chance of an error is shared out, most of it to those that may well be the best."""

from __future__ import annotations

import numpy as np
import pytest

from depthprune.evaluator.racing.chances import chances, equal_chances


@pytest.mark.parametrize("wanted", [1, 3])
def test_all_that_may_go_wrong_together_has_the_chance_that_was_given(wanted: int) -> None:
    """A candidate may beat each of the wanted wrongly, so its chance counts as often."""
    shares = chances(0.05, np.random.default_rng(0).normal(size=20).tolist(), wanted)
    assert wanted * shares.sum() == pytest.approx(0.05)


def test_the_wanted_count_alike_and_the_others_less_and_less() -> None:
    shares = chances(0.05, [3.0, 1.0, float("inf"), 2.0, 4.0], 2)
    np.testing.assert_allclose(shares / shares.max(), [1 / 4, 1, 1 / 16, 1, 1 / 9])


def test_equal_chances_add_up_over_the_pairs_of_a_kept_and_a_dropped_candidate() -> None:
    assert equal_chances(0.05, 10, 3) * 3 * 7 == pytest.approx(0.05)
