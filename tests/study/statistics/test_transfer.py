from dataclasses import replace

import numpy as np
import pytest

from depthprune.study.statistics.core import core
from depthprune.study.statistics.data import data
from depthprune.study.statistics.estimates import NotEstimable
from depthprune.study.statistics.transfer import home, transfer
from study.planted import Grid, calibration_only, noise_only, own_domain_only


def test_the_matrix_is_calibrations_by_texts():
    found = transfer(data(own_domain_only()), "perplexity")
    assert found.calibrations == ("code", "law", "news", "prose")
    assert found.evaluations == ("prose", "code", "poems")
    assert found.mean == pytest.approx(np.asarray([[4, 3.5, 4], [4, 4, 4], [4, 4, 4], [3.5, 4, 4]]))
    assert np.argwhere(found.same).tolist() == [[0, 1], [3, 0]]
    assert found.cells == (12, 12, 12, 12)


def of_home(rows, kind="perplexity"):
    made = data(rows)
    return home(core(made).of(kind), made, lower_is_better=kind == "perplexity")


def test_home_is_compared_with_elsewhere():
    found = of_home(own_domain_only())
    assert found.gain.value == pytest.approx(0.5)
    assert (found.own, found.other) == (pytest.approx(3.5), pytest.approx(4.0))


def test_the_interval_of_home_is_that_of_its_draws():
    """A weighted sum of the draws' means, checked by leaving one calibration's draws alone."""
    quiet, loud = (of_home(own_domain_only(noise=size)).gain for size in (0.01, 0.1))
    assert np.ptp(loud.interval) == pytest.approx(10 * np.ptp(quiet.interval))
    # Luck that a draw's texts share is no luck of being at home.
    assert np.ptp(loud.interval) < 1e-9
    rng, made = np.random.default_rng(0), data(own_domain_only())
    of = core(made).of("perplexity")
    covered = 0
    for _ in range(200):
        noisy = replace(of, values=of.values + 0.1 * rng.standard_normal((12, 1, 1, 3)))
        low, high = home(noisy, made, lower_is_better=True).gain.interval
        covered += low <= 0.5 <= high
    assert 0.9 <= covered / 200 <= 0.99


def test_a_calibration_that_is_good_everywhere_has_no_advantage_at_home():
    found = of_home(calibration_only(texts=("prose", "code", "poems")))
    assert found.gain.value == pytest.approx(0, abs=1e-9)
    assert found.other - found.own > 0.3


def test_with_one_text_home_is_the_calibration_itself():
    found = of_home(calibration_only(texts=("prose",)))
    assert found == NotEstimable("the own domain cannot be told from the calibrations themselves")


def test_only_what_every_calibration_was_run_with_is_averaged():
    rows = [
        row for row in own_domain_only() if row.search != "beam" or row.calibration.name == "prose"
    ]
    found = transfer(data(rows), "perplexity")
    assert found.cells == (9, 9, 9, 9)


def test_what_was_not_measured_is_said():
    assert isinstance(transfer(data(Grid(lambda cell: 3.5).rows()), "accuracy"), NotEstimable)
    assert isinstance(of_home(noise_only(), "accuracy"), NotEstimable)
    apart = [r for r in noise_only() if (r.calibration.name == "prose") == (r.search == "beam")]
    assert isinstance(transfer(data(apart), "perplexity"), NotEstimable)
