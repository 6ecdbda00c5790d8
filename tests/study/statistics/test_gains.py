import numpy as np
import pytest
from scipy import stats

from depthprune.study.statistics.core import core
from depthprune.study.statistics.data import data
from depthprune.study.statistics.estimates import NotEstimable
from depthprune.study.statistics.gains import (
    between_draws,
    between_means,
    gain,
)
from study.planted import Grid, noise_only


def test_with_one_calibration_draws_are_a_paired_t_test():
    of = core(data(noise_only(sources=("prose",), searches=("one-shot", "greedy"), draws=5)))
    found = gain(of.of("perplexity"), "greedy", "one-shot", lower_is_better=True)
    values = of.of("perplexity").values[:, :, 0, 0]
    gaps = values[:, of.searches.index("one-shot")] - values[:, of.searches.index("greedy")]
    width = stats.t.ppf(0.975, 4) * stats.sem(gaps)
    assert found.draws.interval == pytest.approx((gaps.mean() - width, gaps.mean() + width))
    assert found.calibrations.interval == NotEstimable("there is one calibration only")


def test_draws_calibrations_and_sources_are_three_errors_of_one_mean():
    """What the calibrations differ by is no error of further draws, and all of further sources'."""
    rows = Grid(
        lambda c: 3.5 - (c.search == "greedy") * 0.1 * len(c.source) + 0.001 * c.own,
        searches=("one-shot", "greedy"), lengths=(128, 512),
    ).rows()  # fmt: skip
    found = gain(core(data(rows)).of("perplexity"), "greedy", "one-shot", lower_is_better=True)
    assert found.draws.value == found.calibrations.value
    assert found.draws.value == pytest.approx(found.sources.value)
    widths = [np.ptp(each.interval) for each in (found.draws, found.calibrations, found.sources)]
    assert widths[0] < 0.01 < widths[1] < widths[2]
    lengths = [0.1 * len(name) for name in ("prose", "code", "news", "law")]
    expected = 2 * stats.t.ppf(0.975, 3) * stats.sem(lengths)
    assert widths[2] == pytest.approx(expected, rel=0.02)


def test_a_gain_that_depends_on_the_objective_is_told_apart():
    rows = Grid(
        lambda c: 3.5 - (c.search == "greedy") * (0.2 if c.objective == "nll" else 0.05)
        + 0.1 * c.luck + 0.002 * c.own,
        lambda c: 0.4 + (c.search == "greedy") * 0.02,
        searches=("one-shot", "greedy"), objectives=("nll", "kl"),
    ).rows()  # fmt: skip
    found = gain(core(data(rows)).of("perplexity"), "greedy", "one-shot", lower_is_better=True)
    assert found.by_objective["nll"].value == pytest.approx(0.2, abs=0.01)
    assert found.by_objective["kl"].value == pytest.approx(0.05, abs=0.01)
    assert found.interaction.value == pytest.approx(-0.15, abs=0.01)
    assert found.interaction.high < -0.13
    points = gain(core(data(rows)).of("accuracy"), "greedy", "one-shot", lower_is_better=False)
    assert points.draws.value == pytest.approx(0.02)


def test_objectives_are_compared_at_the_sizes_that_both_were_run_at():
    gains = {("nll", 3): 0.2, ("kl", 3): 0.05, ("nll", 6): 0.9}
    rows = Grid(
        lambda c: 3.5 - (c.search == "greedy") * gains.get((c.objective, c.k), 0) + 0.002 * c.own,
        searches=("one-shot", "greedy"), objectives=("nll", "kl"), ks=(3, 6),
    ).rows()  # fmt: skip
    of = core(data([row for row in rows if (row.objective, row.k) in gains])).of("perplexity")
    found = gain(of, "greedy", "one-shot", lower_is_better=True)
    assert of.objectives == ("kl", "nll")
    assert found.by_objective["nll"].value == pytest.approx(0.55, abs=0.01)
    assert found.interaction.value == pytest.approx(0.05 - 0.2, abs=0.01)


def test_between_draws_is_welchs_with_two_calibrations():
    rng = np.random.default_rng(5)
    one, other = rng.standard_normal(4), 3 * rng.standard_normal(7)
    values = np.concatenate([2 * one, -2 * other])
    found = between_draws(values, np.repeat([0, 1], [4, 7]))
    welch = stats.ttest_ind(one, other, equal_var=False)
    assert found.interval == pytest.approx(tuple(welch.confidence_interval()))
    assert between_draws(values[[0, 4]], np.asarray([0, 1])).interval == NotEstimable(
        "one draw of a calibration gives no interval"
    )


def test_between_means_is_students():
    values = np.asarray([0.1, 0.4, 0.2])
    low, high = between_means(values, "source").interval
    usual = stats.ttest_1samp(values, 0).confidence_interval()
    assert (low, high) == pytest.approx(tuple(usual))
