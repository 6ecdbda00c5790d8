"""Tables made anew have the noise of the residuals, and level means that noise alone is taken off.

What is planted is known, and so is what comes out on average.
"""

import numpy as np
import pytest

from depthprune.study.statistics.bootstrap import made_anew
from depthprune.study.statistics.simulation import Design


class Still:
    """A source of chance that never moves, so that tables are their fitted means."""

    def standard_normal(self, shape):
        return np.zeros(shape)


def effects(means):
    """Mean squares of calibrations, searches, and both together, of level means."""
    grand = means.mean()
    one, other = means.mean(axis=1) - grand, means.mean(axis=0) - grand
    both = means - grand - one[:, None] - other
    return np.array([(one**2).mean(), (other**2).mean(), (both**2).mean()])


def test_what_noise_adds_to_the_effects_is_taken_off_them():
    design = Design(
        calibrations=4, draws=5, searches=3, sizes=1, objectives=1, responses=1,
        luck=1.0, own=1.0, texts=0.0, calibration=1.3, search=0.5, together=0.9,
    )  # fmt: skip
    rng = np.random.default_rng(0)
    planted, seen, found = np.zeros(3), np.zeros(3), np.zeros(3)
    for _ in range(400):
        means = design.means(rng)
        of = design.core(rng, means)
        planted += effects(0.05 * means)
        seen += effects(of.values.reshape(4, 5, 3).mean(axis=1))
        found += effects(made_anew(of, 1, Still()).reshape(4, 5, 3).mean(axis=1))
    assert (seen / planted > [1.1, 1.1, 1.1]).all()
    assert found / planted == pytest.approx([1, 1, 1], abs=0.06)


def test_draws_spread_by_their_calibrations_own_spread_drawn_towards_that_of_all():
    of = Design(calibrations=3, draws=5, responses=2, spread=(3.0, 1.0, 0.2)).core(
        np.random.default_rng(1)
    )
    residuals = of.values.reshape(3, 5, -1)
    residuals = residuals - residuals.mean(axis=1, keepdims=True)
    own = (residuals**2).sum(axis=(1, 2)) / 4
    # Five draws say as much as four that have the spread of all.
    expected = 0.5 * own + 0.5 * own.mean()
    count = 3000
    made = made_anew(of, count, np.random.default_rng(2))
    made = made.reshape(3, 5, -1, count, 2)
    found = made.var(axis=3).sum(axis=(2, 3)).mean(axis=1)
    assert found == pytest.approx(expected, rel=0.05)
