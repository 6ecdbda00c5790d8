import math

import numpy as np
import pytest
from scipy import stats

from depthprune.study import noise
from depthprune.study.answers import Unsaid
from depthprune.study.effects import analyse, evidence
from depthprune.study.panel import panel

from .planted import Grid, calibration_only, noise_only, search_only

SIMULATIONS = 1000
# Nominal 5%, plus two standard errors of a share of 1,000.
MOST = 0.065


def planted(values):
    """The values of a 2 × 2 × 2 grid, by source, draw, search, each asked for twice by a row."""
    return panel(
        Grid(lambda cell: values[cell.source, cell.draw, cell.search], draws=2,
             sources=("prose", "code"), searches=("one-shot", "greedy")).rows()
    )  # fmt: skip


BY_HAND = {
    ("prose", 0, "one-shot"): 3.0, ("prose", 0, "greedy"): 2.9,
    ("prose", 1, "one-shot"): 3.2, ("prose", 1, "greedy"): 2.8,
    ("code", 0, "one-shot"): 4.0, ("code", 0, "greedy"): 3.8,
    ("code", 1, "one-shot"): 4.1, ("code", 1, "greedy"): 3.9,
}  # fmt: skip


@pytest.mark.parametrize(
    ("vary", "expected", "pairs"),
    [
        # |3.0−3.2|, |2.9−2.8|, |4.0−4.1|, |3.8−3.9|
        ("draw", (0.2 + 0.1 + 0.1 + 0.1) / 4, 4),
        ("search", (0.1 + 0.4 + 0.2 + 0.2) / 4, 4),
        # one-shot: 1.0, 1.1, 0.8, 0.9; greedy: 0.9, 1.0, 1.0, 1.1
        ("calibration", (1.0 + 1.1 + 0.8 + 0.9 + 0.9 + 1.0 + 1.0 + 1.1) / 8, 8),
    ],
)
def test_what_a_factor_moves_by_hand(vary, expected, pairs):
    moves = noise.moved(planted(BY_HAND), vary)
    assert moves.mean == pytest.approx([expected])
    assert moves.pairs == pairs


def test_leaving_out_a_draw_leaves_out_its_pairs():
    made = planted(BY_HAND)
    moves = noise.moved(made, "search")
    gaps = dict(zip(made.levels["unit"], [0.2, 0.2, 0.1, 0.4], strict=True))
    assert list(gaps) == ["code, draw 0", "code, draw 1", "prose, draw 0", "prose, draw 1"]
    expected = [[(0.9 - gap) / 3] for gap in gaps.values()]
    assert moves.left_out == pytest.approx(np.asarray(expected))


def test_the_jackknife_of_a_mean_is_its_standard_error():
    """With one pair a draw and one calibration, the jackknife is s / √n exactly."""
    gaps = [0.1, 0.4, 0.2, 0.3]
    values = {
        ("prose", draw, search): 3.0 + (search == "greedy") * gap
        for draw, gap in enumerate(gaps)
        for search in ("one-shot", "greedy")
    }
    made = panel(
        Grid(lambda cell: values[cell.source, cell.draw, cell.search], sources=("prose",),
             searches=("one-shot", "greedy"), draws=4).rows()
    )  # fmt: skip
    found = noise.interval(noise.moved(made, "search"), np.asarray([0]))
    width = stats.t.ppf(0.975, 3) * stats.sem(gaps)
    assert found.value == pytest.approx(0.25)
    assert found.interval == pytest.approx((0.25 - width, 0.25 + width))


def test_two_draws_of_one_calibration_give_no_interval_of_the_floor():
    made = panel(noise_only(draws=2, sources=("prose",)))
    found = noise.interval(noise.moved(made, "draw"), np.asarray([0]))
    assert found.interval == Unsaid("too few draws for an interval")
    assert found.value > 0


@pytest.mark.parametrize("lost", [(), (0, 1, 16, 17)], ids=["balanced", "holes"])
def test_calibrations_are_tested_on_the_means_of_their_draws(lost):
    oneway = pytest.importorskip("statsmodels.stats.oneway")
    rows = noise_only(draws=5, searches=("greedy", "beam"))
    made = panel([row for i, row in enumerate(rows) if i not in lost])
    found = noise.tested(made, "calibration")
    means = {}
    for unit, name in enumerate(made.levels["unit"]):
        inside = made.codes["unit"] == unit
        means.setdefault(name.partition(",")[0], []).append(made.values[inside, 0].mean())
    usual = oneway.anova_oneway(list(means.values()), use_var="bf", welch_correction=True)
    assert found.df == (3, made.count("unit") - 4)
    assert found.f[0] == pytest.approx(usual.statistic)
    assert found.p[0] == pytest.approx(usual.pvalue)
    if not lost:
        assert found.f[0] == pytest.approx(stats.f_oneway(*means.values()).statistic)


def test_a_calibration_with_one_draw_takes_the_noise_of_the_others():
    rows = [row for row in calibration_only() if row.calibration.name != "law" or row.draw == 0]
    found = noise.tested(panel(rows), "calibration")
    assert found.df == (3, 6)
    assert 0 < found.p[0] < 1e-6


def test_two_searches_are_compared_as_by_a_paired_t_test():
    made = panel(noise_only(searches=("one-shot", "greedy")))
    found = noise.tested(made, "search")
    one = made.codes["search"] == 0
    usual = stats.ttest_rel(made.values[one, 0], made.values[~one, 0])
    assert found.f[0] == pytest.approx(usual.statistic**2)
    assert found.p[0] == pytest.approx(usual.pvalue)


def test_searches_are_compared_as_repeated_measures():
    pandas = pytest.importorskip("pandas")
    anova = pytest.importorskip("statsmodels.stats.anova")
    made = panel(noise_only())
    frame = pandas.DataFrame(
        {"y": made.values[:, 0], "unit": made.codes["unit"], "search": made.codes["search"]}
    )
    usual = anova.AnovaRM(frame, "y", "unit", within=["search"]).fit().anova_table
    found = noise.tested(made, "search")
    assert found.f[0] == pytest.approx(usual["F Value"].iloc[0])
    assert found.df == (3, 33)


def test_the_correction_is_one_where_all_searches_agree_alike():
    """A Latin square: every pair of its levels differs by the same variance."""
    scores = np.asarray([[0, 1, 2], [1, 2, 0], [2, 0, 1]], dtype=float)[:, :, None]
    assert noise._sphericity(scores) == pytest.approx([1.0])
    lone = np.zeros((6, 4, 1))
    lone[:, 0, 0] = [1, -2, 3, 0, 1, -1]
    assert noise._sphericity(lone) == pytest.approx([1 / 3])


def test_a_search_that_few_draws_saw_costs_the_test_of_the_others_nothing():
    """Beam was tried on one draw; that one-shot and greedy differ is as clear as without it."""
    rows = [
        row for row in search_only(searches=("one-shot", "greedy", "beam"))
        if row.search != "beam" or (row.calibration.name, row.draw) == ("prose", 0)
    ]  # fmt: skip
    found = noise.tested(panel(rows), "search")
    without = noise.tested(panel([row for row in rows if row.search != "beam"]), "search")
    assert sorted(found.levels) == ["greedy", "one-shot"]
    assert found.df == without.df == (1, 11)
    assert found.f == pytest.approx(without.f)
    assert found.p == pytest.approx(without.p)
    effect = analyse(rows)[0].effects["search", "perplexity"]
    assert effect.between == found.levels
    assert effect.claimed


def test_levels_are_tested_on_the_draws_that_saw_all_of_them():
    rows = [
        row for row in search_only()
        if row.search in ("one-shot", "greedy") or row.calibration.name in ("prose", "code")
    ]  # fmt: skip
    found = noise.tested(panel(rows), "search")
    assert found.p[0] < 1e-6
    assert found.df == (3, 5 * 3)
    calibration = noise.tested(panel(rows), "calibration")
    assert calibration.cells == 24


@pytest.mark.parametrize(
    ("changes", "vary", "reason"),
    [
        ({"draws": 1}, "calibration", "no configuration has two draws"),
        ({"sources": ("prose",)}, "calibration", "one calibration only"),
        ({"searches": ("beam",)}, "search", "one search only"),
        ({"draws": 1, "sources": ("prose",)}, "search", "fewer than two draws"),
    ],
)
def test_what_cannot_be_tested_is_said(changes, vary, reason):
    found = noise.tested(panel(noise_only(**changes)), vary)
    assert isinstance(found, Unsaid)
    assert reason in found.reason


def test_calibrations_that_share_no_search_are_not_compared():
    rows = [
        row for row in noise_only()
        if (row.calibration.name == "prose") == (row.search == "greedy")
    ]  # fmt: skip
    assert isinstance(noise.tested(panel(rows), "calibration"), Unsaid)


def test_an_effect_without_any_noise_is_certain():
    made = panel(Grid(lambda cell: 3.0 + 0.1 * len(cell.source), draws=2).rows())
    assert noise.tested(made, "calibration").p[0] == 0
    assert math.isinf(noise.tested(made, "calibration").f[0])
    assert noise.tested(made, "search").p[0] == 1


def test_holm_by_hand():
    assert noise.holm(np.asarray([0.01, 0.04, 0.03, 0.2])) == pytest.approx([0.04, 0.09, 0.09, 0.2])
    both = noise.holm(np.asarray([[0.01, 0.6], [0.04, 0.7]]))
    assert both == pytest.approx(np.asarray([[0.02, 1.0], [0.04, 1.0]]))


def test_nothing_below_the_floor_is_claimed():
    p = np.asarray([1e-9, 1e-9, 0.9])
    assert noise.claimed(p, np.asarray([2.0, 0.5, 2.0]), np.ones(3)).tolist() == [
        True,
        False,
        False,
    ]


def test_with_one_draw_nothing_is_claimed():
    found = evidence(panel(calibration_only(draws=1)))
    assert not noise.claimed(found.p, found.size, found.floor).any()
    assert "no configuration has two draws" in found.untested["calibration"].reason


def skewed(rng, shape):
    return rng.exponential(size=shape) - 1


def heavy(rng, shape):
    return rng.standard_t(3, size=shape)


def normal(rng, shape):
    return rng.standard_normal(shape)


DESIGNS = {
    "quick": {"sources": ("prose", "code"), "searches": ("one-shot", "greedy")},
    "study": {"objectives": ("nll", "kl"), "searches": ("one-shot", "greedy")},
    "wide": {"draws": 2},
    "sizes": {"ks": (3, 6), "draws": 4, "sources": ("prose", "code", "news")},
}


@pytest.mark.parametrize("design", DESIGNS)
@pytest.mark.parametrize("chance", [normal, skewed, heavy])
@pytest.mark.parametrize("shared", [0.0, 1.0, 4.0])
def test_of_pure_noise_an_effect_is_claimed_in_at_most_one_table_of_fifteen(design, chance, shared):
    """1,000 tables of two responses each; `shared` is how much of the luck is the draw's."""
    made = panel(noise_only(**DESIGNS[design]))
    rng = np.random.default_rng(20260424)
    units, cells = made.count("unit"), len(made.rows)
    luck = shared * chance(rng, (units, 2 * SIMULATIONS))[made.codes["unit"]]
    own = chance(rng, (cells, 2 * SIMULATIONS))
    found = evidence(made.with_values(3.5 + 0.1 * (luck + own)))
    stacked = [
        np.concatenate([each[:, :SIMULATIONS], each[:, SIMULATIONS:]])
        for each in (found.p, found.size, found.floor)
    ]
    claims = noise.claimed(*stacked)
    assert claims.any(axis=0).mean() <= MOST


@pytest.mark.parametrize("design", DESIGNS)
@pytest.mark.parametrize("scales", [(5, 1, 1, 1), (4, 4, 1, 1)])
def test_a_source_whose_draws_are_noisier_is_not_taken_for_a_different_one(design, scales):
    made = panel(noise_only(**DESIGNS[design]))
    rng = np.random.default_rng(12)
    scale = 0.1 * np.asarray(scales)[made.codes["calibration"]][:, None]
    luck = rng.standard_normal((made.count("unit"), SIMULATIONS))[made.codes["unit"]]
    own = 0.5 * rng.standard_normal((len(made.rows), SIMULATIONS))
    found = evidence(made.with_values(3.5 + scale * (luck + own)))
    assert noise.claimed(found.p, found.size, found.floor).any(axis=0).mean() <= MOST


def test_a_test_that_counts_cells_would_claim_far_too_much():
    """What the simulation above is able to catch: the luck of a draw taken for many cells'."""
    made = panel(noise_only())
    rng = np.random.default_rng(1)
    luck = rng.standard_normal((made.count("unit"), SIMULATIONS))[made.codes["unit"]]
    values = luck + 0.3 * rng.standard_normal(luck.shape)
    naive = stats.f_oneway(*(values[made.codes["calibration"] == i] for i in range(4)))
    assert (naive.pvalue < 0.05).mean() > 0.4
    assert (noise.tested(made.with_values(values), "calibration").p < 0.05).mean() <= MOST


def test_searches_that_agree_by_nature_are_not_taken_for_noise():
    """Three searches that all but always find the same set, and one that does not."""
    made = panel(noise_only())
    rng = np.random.default_rng(7)
    units, search = made.codes["unit"], made.codes["search"]
    alone = rng.standard_normal((made.count("unit"), SIMULATIONS))[units] * (search == 0)[:, None]
    values = 3.5 + alone + 0.05 * rng.standard_normal((len(units), SIMULATIONS))
    assert (noise.tested(made.with_values(values), "search").p < 0.05).mean() <= MOST


@pytest.mark.parametrize("gap", [0.5, 1.0])
def test_a_true_effect_is_found(gap):
    """Four sources three draws each, whose levels spread by some times the noise of the draw."""
    made = panel(noise_only())
    rng = np.random.default_rng(3)
    luck = rng.standard_normal((made.count("unit"), SIMULATIONS))[made.codes["unit"]]
    level = gap * 2.5 * made.codes["calibration"][:, None]
    found = evidence(made.with_values(3.5 + level + luck))
    claims = noise.claimed(found.p, found.size, found.floor)
    assert claims[0].mean() > (0.8 if gap == 1.0 else 0.3)
    assert claims[2].mean() < 0.05
