import itertools

import numpy as np
import pytest
from scipy import stats

from depthprune.study.statistics import noise
from depthprune.study.statistics.core import core
from depthprune.study.statistics.data import data
from depthprune.study.statistics.estimates import NotEstimable
from depthprune.study.statistics.simulation import Design
from study.planted import Grid, calibration_only, noise_only, search_only

BY_HAND = {
    ("prose", 0, "one-shot"): 3.0, ("prose", 0, "greedy"): 2.9,
    ("prose", 1, "one-shot"): 3.2, ("prose", 1, "greedy"): 2.8,
    ("code", 0, "one-shot"): 4.0, ("code", 0, "greedy"): 3.8,
    ("code", 1, "one-shot"): 4.1, ("code", 1, "greedy"): 3.9,
}  # fmt: skip


def planted(values, **changes):
    grid = {"draws": 2, "sources": ("prose", "code"), "searches": ("one-shot", "greedy")}
    made = Grid(lambda c: values[c.source, c.draw, c.search], **(grid | changes)).rows()
    return core(data(made))


@pytest.mark.parametrize(
    ("vary", "expected", "pairs"),
    [
        # |3.0−3.2|, |2.9−2.8|, |4.0−4.1|, |3.8−3.9|
        ("draw", (0.2 + 0.1 + 0.1 + 0.1) / 4, 2),
        # Across draws: |3.0−2.8|, |2.9−3.2|, |4.0−3.9|, |3.8−4.1|
        ("search", (0.2 + 0.3 + 0.1 + 0.3) / 4, 2),
        # one-shot: 1.0, 1.1, 0.8, 0.9; greedy: 0.9, 1.0, 1.0, 1.1
        ("calibration", (1.0 + 1.1 + 0.8 + 0.9 + 0.9 + 1.0 + 1.0 + 1.1) / 8, 4),
    ],
)
def test_what_a_factor_moves_by_hand(vary, expected, pairs):
    found = noise.moved(planted(BY_HAND), vary)
    assert found.value == pytest.approx(expected)
    assert found.n == pairs


def slowly(of, vary, without=None):
    """The figure by loops over cells, each pair of levels averaged before the levels are."""
    found = {}
    units, searches, blocks = (range(size) for size in of.values.shape[:3])
    for u, v in itertools.permutations(units, 2):
        a, b = of.calibration[u], of.calibration[v]
        if without in (u, v) or (a == b) == (vary == "calibration"):
            continue
        for s, t, i, j in itertools.product(searches, searches, blocks, blocks):
            same_k = of.blocks[i][0] == of.blocks[j][0]
            wanted = {
                "search": s != t and i == j,
                "objective": s == t and i != j and same_k,
            }.get(vary, s == t and i == j)
            if wanted:
                gap = np.abs(of.values[u, s, i] - of.values[v, t, j])
                found.setdefault((min(a, b), max(a, b)), []).append(gap)
    return np.mean([np.mean(gaps, axis=0) for gaps in found.values()], axis=0)


@pytest.mark.parametrize("vary", ["calibration", "search", "objective", "draw"])
def test_figures_and_what_is_left_without_a_draw_are_those_of_the_slow_way(vary):
    rows = noise_only(ks=(3, 6), objectives=("nll", "kl"), searches=("greedy", "beam"))
    lost = [row for row in rows if (row.calibration.name, row.draw) != ("law", 2)]
    of = core(data(lost))
    assert sorted(of.draws) == [2, 3, 3, 3]
    whole, *left_out = noise.figures(of, vary)
    assert whole == pytest.approx(slowly(of, vary))
    for unit in (0, 4, len(of.values) - 1):
        if of.draws[of.calibration[unit]] > 2 or vary == "calibration":
            assert left_out[unit] == pytest.approx(slowly(of, vary, without=unit))
        else:
            assert np.isnan(left_out[unit]).all()


def test_under_pure_noise_every_figure_is_the_floor():
    rng, design = np.random.default_rng(0), Design(draws=4, searches=3)
    found = {vary: [] for vary in ("calibration", "search", "objective", "draw")}
    for _ in range(200):
        of = design.core(rng)
        for vary, figures in found.items():
            figures.append(noise.moved(of, vary).value)
    floor = np.mean(found["draw"])
    for figures in found.values():
        error = np.std(np.asarray(figures) - np.asarray(found["draw"])) / 200**0.5
        assert abs(np.mean(figures) - floor) <= 4 * error + 1e-12


def test_the_jackknife_of_a_mean_is_its_standard_error():
    """With one calibration's draws against a single other value, the jackknife is s / √n."""
    values = np.random.default_rng(1).standard_normal(5)
    without = np.asarray([np.delete(values, i).mean() for i in range(5)])[:, None]
    error, freedom = noise._jackknife(without, np.zeros(5, dtype=np.int64))
    assert error == pytest.approx([stats.sem(values)])
    assert freedom == pytest.approx([4])


def test_calibrations_of_unequal_spread_have_the_degrees_of_freedom_of_satterthwaite():
    rng = np.random.default_rng(2)
    values = [rng.standard_normal(4), 5 * rng.standard_normal(6)]
    without = np.concatenate(
        [
            [np.delete(mine, i).mean() - other.mean() * sign for i in range(len(mine))]
            for mine, other, sign in ((values[0], values[1], 1), (values[1], values[0], 1))
        ]
    )[:, None]
    strata = np.repeat([0, 1], [4, 6])
    welch = stats.ttest_ind(*values, equal_var=False)
    error, freedom = noise._jackknife(without, strata)
    assert error[0] == pytest.approx(abs((values[0].mean() - values[1].mean()) / welch.statistic))
    assert freedom[0] == pytest.approx(welch.df)


def test_two_draws_of_one_calibration_give_no_interval_of_the_floor():
    found = noise.moved(core(data(noise_only(draws=2, sources=("prose",)))), "draw")
    assert found.interval == NotEstimable("too few draws for an interval")
    assert found.value > 0


@pytest.mark.parametrize(
    ("changes", "vary", "reason"),
    [
        ({"draws": 1}, "draw", "no configuration has two draws"),
        ({"draws": 1}, "search", "no configuration has two draws"),
        ({"sources": ("prose",)}, "calibration", "one calibration only"),
        ({"searches": ("beam",)}, "search", "one search only"),
        ({}, "objective", "one objective only"),
    ],
)
def test_what_cannot_be_measured_is_said(changes, vary, reason):
    found = noise.moved(core(data(noise_only(**changes))), vary)
    assert isinstance(found, NotEstimable)
    assert reason in found.reason


def test_the_difference_is_that_of_the_figures_and_the_same_each_time():
    of = core(data(noise_only(texts=("prose", "code")))).of("perplexity")
    found = noise.difference(of)
    figures = [noise.moved(of, vary).value for vary in ("calibration", "search")]
    assert found.estimate.value == pytest.approx(figures[0] - figures[1])
    assert found == noise.difference(of)
    assert found.estimate.low < found.estimate.value < found.estimate.high


def test_a_difference_as_plain_as_day_is_seen():
    for rows, sign in ((calibration_only(), 1), (search_only(), -1)):
        found = noise.difference(core(data(rows)).of("perplexity"))
        # However plain, a chance is not nothing: the table itself is one of a thousand.
        assert found.p == 1 / 1000
        assert sign * found.estimate.low > 0
        assert sign * found.estimate.high > 0


def test_without_any_noise_a_difference_is_certain():
    of = core(data(Grid(lambda cell: 3.0 + 0.1 * len(cell.source), draws=3).rows()))
    found = noise.difference(of)
    assert found.p == 0
    assert found.estimate.interval == (found.estimate.value, found.estimate.value)


def test_two_draws_give_a_difference_without_an_interval():
    found = noise.difference(core(data(noise_only(draws=2))).of("perplexity"))
    assert isinstance(found.p, NotEstimable)
    assert "run at least three" in found.p.reason


@pytest.mark.parametrize(
    "planted",
    [{}, {"calibration": 1.0, "search": 1.0}, {"together": 1.0}, {"spread": (3, 1, 1, 1)}],
    ids=["noise", "equal effects", "interaction", "unequal spread"],
)
def test_intervals_cover_and_neither_factor_is_favoured(planted):
    """150 tables of a small design: near 95%, and as often above 0 as below where both are equal.

    What is covered is the mean over many tables of the same levels.
    """
    rng = np.random.default_rng(11)
    design = Design(calibrations=4, draws=4, searches=3, sizes=1, responses=2, **planted)
    # As many levels as searches would make both equal exactly; the levels are drawn anew instead.
    means = design.means(rng)
    truth = {
        vary: np.mean([noise.figures(design.core(rng, means), vary)[0].mean() for _ in range(300)])
        for vary in ("calibration", "search", "draw")
    }
    covered = dict.fromkeys((*truth, "difference"), 0)
    for _ in range(150):
        of = design.core(rng, means)
        for vary, value in truth.items():
            low, high = noise.moved(of, vary).interval
            covered[vary] += low <= value <= high
        low, high = noise.difference(of, resamples=199).estimate.interval
        covered["difference"] += low <= truth["calibration"] - truth["search"] <= high
    # Of 150, three standard errors of a share of 95% are 5%.
    assert all(share / 150 >= 0.88 for share in covered.values()), covered


def test_a_calibration_with_one_draw_leaves_no_interval_of_what_calibrations_move():
    """Its luck is in the figure, and nobody knows how large it is."""
    rows = noise_only(sources=("prose", "code"), draws=6)
    rows = [row for row in rows if row.calibration.name == "prose" or row.draw == 0]
    of = core(data(rows)).of("perplexity")
    calibrations = noise.moved(of, "calibration")
    assert isinstance(calibrations.interval, NotEstimable)
    searches = noise.moved(of, "search")
    assert not isinstance(searches.interval, NotEstimable)
