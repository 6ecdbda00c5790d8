import numpy as np
import pytest
from scipy import stats

from depthprune.study.statistics.correlation import averaged
from depthprune.study.statistics.data import data
from depthprune.study.statistics.estimates import NotEstimable
from depthprune.study.statistics.ranks import (
    objective_ranks,
    perplexity_ranks,
    perplexity_ranks_by_cell,
)
from study.planted import SEARCHES, Grid, calibration_only, noise_only


def opposed(**changes):
    """What lowers perplexity lowers accuracy too."""
    return Grid(
        lambda cell: 3.5 + 0.1 * cell.own,
        lambda cell: 0.4 + 0.01 * cell.own,
        **changes,
    ).rows()


def test_ranks_run_from_best_to_worst():
    assert perplexity_ranks(data(calibration_only())).spearman.value > 0.8
    assert perplexity_ranks(data(opposed())).spearman.value == pytest.approx(-1)


def test_sizes_and_objectives_are_ranked_apart():
    """Larger k is worse on both sides; inside a k the two are opposed."""
    rows = Grid(
        lambda cell: 3.0 + cell.k + 0.1 * cell.own,
        lambda cell: 0.6 - 0.05 * cell.k + 0.01 * cell.own,
        ks=(3, 9),
        objectives=("nll", "kl"),
    ).rows()
    assert perplexity_ranks(data(rows)).kendall.value == pytest.approx(-1)
    apart = perplexity_ranks_by_cell(data(rows))
    assert list(apart) == ["k = 3, kl", "k = 3, nll", "k = 9, kl", "k = 9, nll"]
    assert all(each.spearman.value == pytest.approx(-1) for each in apart.values())


def test_a_cell_apart_is_scipy_s():
    made = data(noise_only())
    found = perplexity_ranks_by_cell(made)["k = 6, nll"]
    usual = stats.spearmanr(-made.values[:, 0], made.values[:, 1]).statistic
    assert found.spearman.value == pytest.approx(usual)


def test_a_loss_is_compared_on_its_own_draw_only():
    """The planted loss is the judged log-perplexity less a constant."""
    made = data(noise_only())
    assert objective_ranks(made, "perplexity").spearman.value == pytest.approx(1)
    apart = [
        row.model_copy(update={"loss": SEARCHES.index(row.search) - 50.0 * row.draw})
        for row in Grid(lambda cell: 3 + 0.1 * SEARCHES.index(cell.search)).rows()
    ]
    found = objective_ranks(data(apart), "perplexity")
    assert found.spearman.value == pytest.approx(1)
    assert found.spearman.interval == pytest.approx((1, 1))


def test_an_average_is_the_mean_of_its_groups():
    up, mixed = np.arange(3.0), np.asarray([1.0, 0.0, 2.0])
    found = averaged([up] * 5, [up, mixed, -up, up, -up], range(5))
    assert found.spearman.value == pytest.approx(0.5 / 5)
    assert found.kendall.value == pytest.approx(1 / 3 / 5)
    assert found.spearman.low == pytest.approx(-0.8, abs=0.25)
    assert found.spearman.n == 15


def test_too_few_draws_have_no_interval():
    """Of three draws a ninth of all resamples hold one alone, and say nothing about the others."""
    up = np.arange(3.0)
    for draws, told in ((4, False), (5, True)):
        found = averaged([up] * draws, [up, -up] * 2 + [up] * (draws - 4), range(draws))
        assert isinstance(found.spearman.interval, tuple) == told


def test_what_cannot_be_ranked_is_said():
    no_task = data(Grid(lambda cell: 3.5 + cell.own).rows())
    assert isinstance(perplexity_ranks(no_task), NotEstimable)
    assert perplexity_ranks_by_cell(no_task) == {}
    assert isinstance(objective_ranks(no_task, "accuracy"), NotEstimable)
    two = data(noise_only(searches=("one-shot", "greedy")))
    assert "three cells" in objective_ranks(two, "perplexity").reason
    no_loss = data(noise_only(changes={"loss": None}))
    assert "not kept" in objective_ranks(no_loss, "accuracy").reason
