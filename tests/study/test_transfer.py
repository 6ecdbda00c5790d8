from dataclasses import replace

import numpy as np
import pytest

from depthprune.study.answers import Unsaid
from depthprune.study.panel import panel
from depthprune.study.transfer import Home, home, transfer

from .planted import Grid, calibration_only, noise_only, own_domain_only


def test_the_matrix_is_calibrations_by_texts():
    found = transfer(panel(own_domain_only()), "perplexity")
    assert found.calibrations == ("code", "law", "news", "prose")
    assert found.evaluations == ("prose", "code", "poems")
    assert found.mean == pytest.approx(np.asarray([[4, 3.5, 4], [4, 4, 4], [4, 4, 4], [3.5, 4, 4]]))
    assert np.argwhere(found.same).tolist() == [[0, 1], [3, 0]]
    assert found.cells == (12, 12, 12, 12)


def test_home_is_compared_with_elsewhere():
    found = home(transfer(panel(own_domain_only()), "perplexity"), lower_is_better=True)
    assert found == Home(pytest.approx(0.5), pytest.approx(3.5), pytest.approx(4.0), 2)


def test_a_calibration_that_is_good_everywhere_has_no_advantage_at_home():
    made = panel(calibration_only(texts=("prose", "code", "poems")))
    found = home(transfer(made, "perplexity"), lower_is_better=True)
    assert found.gain == pytest.approx(0, abs=1e-9)
    assert found.other - found.own > 0.3


def test_with_one_text_home_is_the_calibration_itself():
    made = panel(calibration_only(texts=("prose",)))
    found = home(transfer(made, "perplexity"), lower_is_better=True)
    assert found == Unsaid("the own domain cannot be told from the calibrations themselves")


def test_an_accuracy_gains_upwards():
    matrix = transfer(panel(own_domain_only()), "perplexity")
    turned = replace(matrix, mean=-matrix.mean)
    assert home(turned, lower_is_better=False).gain == pytest.approx(0.5)


def test_only_what_every_calibration_was_run_with_is_averaged():
    rows = [
        row for row in own_domain_only() if row.search != "beam" or row.calibration.name == "prose"
    ]
    found = transfer(panel(rows), "perplexity")
    assert found.cells == (9, 9, 9, 9)


def test_what_was_not_measured_is_said():
    assert isinstance(transfer(panel(Grid(lambda cell: 3.5).rows()), "accuracy"), Unsaid)
    accuracies = transfer(panel(noise_only()), "accuracy")
    assert isinstance(home(accuracies, lower_is_better=False), Unsaid)
    apart = [r for r in noise_only() if (r.calibration.name == "prose") == (r.search == "beam")]
    assert isinstance(transfer(panel(apart), "perplexity"), Unsaid)
