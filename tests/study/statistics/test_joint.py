import itertools

import numpy as np
import pytest
from scipy import stats

from depthprune.study.statistics import joint
from depthprune.study.statistics.core import core
from depthprune.study.statistics.data import data
from depthprune.study.statistics.estimates import NotEstimable
from depthprune.study.statistics.simulation import Design
from study.planted import Grid, calibration_only, noise_only, search_only

# Nominal 5%, plus three standard errors of a share of 400.
MOST = 0.083


def rng():
    return np.random.default_rng(0)


def test_two_searches_on_few_draws_are_the_exact_sign_flip_test():
    """All 2^7 flips counted by hand; the sampled p is near."""
    values = np.random.default_rng(3).standard_normal((7, 1)) + 1.2
    calibration = np.zeros(7, dtype=np.int64)
    flips = np.asarray(list(itertools.product([-1, 1], repeat=7)))
    exact = np.mean(np.abs(flips @ values[:, 0]) >= abs(values.sum()) - 1e-12)
    found = joint.within_draws(values, calibration, 4000, rng())
    assert found == pytest.approx(exact, abs=0.02)


def test_two_calibrations_are_the_exact_permutation_test():
    values = np.concatenate([np.arange(5.0), np.arange(5.0) + 1.7])[:, None]
    calibration = np.repeat([0, 1], 5)
    gaps = [
        abs(values[list(chosen)].mean() - np.delete(values, list(chosen)).mean())
        for chosen in itertools.combinations(range(10), 5)
    ]
    exact = np.mean(np.asarray(gaps) >= 1.7 - 1e-9)
    box = stats.ttest_ind(values[:5, 0], values[5:, 0], equal_var=False).pvalue
    found = joint.between_draws(values, calibration, 4000, rng())
    assert found == pytest.approx(max(exact, box), abs=0.02)


def test_few_draws_are_students_paired_t_and_the_f_of_repeated_measures():
    values = np.random.default_rng(6).standard_normal((5, 3)) + np.arange(3.0)
    pair = (values[:, [1]] - values[:, [0]]) / 2
    calibration = np.zeros(5, dtype=np.int64)
    found = joint.within_draws(np.hstack([pair, -pair]), calibration, 99, rng())
    assert found == pytest.approx(stats.ttest_rel(values[:, 0], values[:, 1]).pvalue)
    pandas = pytest.importorskip("pandas")
    anova = pytest.importorskip("statsmodels.stats.anova")
    frame = pandas.DataFrame(
        {"y": values.ravel(), "unit": np.repeat(range(5), 3), "search": np.tile(range(3), 5)}
    )
    usual = anova.AnovaRM(frame, "y", "unit", within=["search"]).fit().anova_table
    centred = values - values.mean(axis=1, keepdims=True)
    residuals = centred - centred.mean(axis=0)
    f = 5 * (centred.mean(axis=0) ** 2).sum() / ((residuals**2).sum() / 4)
    assert f == pytest.approx(usual["F Value"].iloc[0])
    p = joint.within_draws(centred, calibration, 99, rng())
    # Between no correction and the most that Greenhouse and Geisser can ask for.
    assert usual["Pr > F"].iloc[0] <= p <= stats.f.sf(f, 1, 4)


def test_one_column_is_the_f_of_brown_and_forsythe():
    """Box's approximation for one column and equal draws: `anova_oneway(use_var="bf")`."""
    oneway = pytest.importorskip("statsmodels.stats.oneway")
    values = np.random.default_rng(4).standard_normal((20, 1)) * np.repeat([1, 3, 1, 2], 5)[:, None]
    calibration = np.repeat(np.arange(4), 5)
    usual = oneway.anova_oneway(list(values[:, 0].reshape(4, 5)), use_var="bf")
    assert joint._box(values, calibration, np.full(4, 5)) == pytest.approx(usual.pvalue, abs=0.02)


def test_holm_by_hand():
    assert joint.holm(np.asarray([0.01, 0.04, 0.03, 0.2])) == pytest.approx([0.04, 0.09, 0.09, 0.2])
    both = joint.holm(np.asarray([[0.01, 0.6], [0.04, 0.7]]))
    assert both == pytest.approx(np.asarray([[0.02, 1.0], [0.04, 1.0]]))


@pytest.mark.parametrize(
    ("changes", "factor", "reason"),
    [
        ({"draws": 1}, "calibration", "no configuration has two draws"),
        ({"sources": ("prose",)}, "calibration", "one calibration only"),
        ({"searches": ("beam",)}, "search", "one search only"),
        ({"sources": ("prose",), "draws": 1}, "search", "one draw cannot be told from noise"),
        ({}, "objective", "one objective only"),
        ({}, "objective × search", "one objective only"),
    ],
)
def test_what_cannot_be_tested_is_said(changes, factor, reason):
    found = joint.joint_tests(core(data(noise_only(**changes))))[factor]
    assert isinstance(found, NotEstimable)
    assert reason in found.reason


def test_planted_effects_are_found_where_they_are():
    of = core(data(calibration_only())).of("perplexity")
    found = joint.joint_tests(of)
    assert found["calibration"] < 0.002
    assert found["search"] > 0.05
    found = joint.joint_tests(core(data(search_only())).of("perplexity"))
    assert found["search"] < 0.002
    assert found["calibration"] > 0.05


def test_an_effect_without_any_noise_is_as_sure_as_the_permutations():
    found = joint.joint_tests(core(data(Grid(lambda c: 3.0 + 0.1 * len(c.source)).rows())))
    assert found["calibration"] < 0.002
    assert found["search"] == 1.0


def test_opposite_effects_on_two_texts_do_not_cancel():
    design = Design(calibrations=4, draws=4, responses=2)
    generator = rng()
    of = design.core(generator)
    opposite = np.linspace(-0.2, 0.2, 4)[of.calibration][:, None, None, None] * np.asarray([1, -1])
    changed = type(of)(**{**vars(of), "values": of.values + opposite})
    assert joint.joint_tests(changed)["calibration"] < 0.01
    assert changed.values.mean(axis=-1) == pytest.approx(of.values.mean(axis=-1))


@pytest.mark.parametrize("spread", [None, (3, 1)])
def test_of_few_draws_no_test_claims_more_than_its_share(spread):
    design = Design(calibrations=2, draws=3, sizes=1, responses=2, spread=spread)
    generator, claims = np.random.default_rng(9), dict.fromkeys(joint.FACTORS, 0)
    for _ in range(600):
        found = joint.joint_tests(design.core(generator), permutations=9)
        for name in claims:
            claims[name] += found[name] <= 0.05
    assert max(claims.values()) / 600 <= MOST, claims


NOISE = {
    "pure": {},
    "nothing shared": {"luck": 0.0},
    "draws of one source spread four times": {"spread": (4, 1, 1, 1)},
    "one outlier draw": {"outlier": ("draw", 6.0)},
    "one outlier cell": {"outlier": ("cell", 6.0)},
}


@pytest.mark.parametrize("planted", NOISE, ids=list(NOISE))
def test_of_noise_no_test_claims_more_than_its_share(planted):
    design = Design(calibrations=4, draws=4, sizes=1, responses=2, **NOISE[planted])
    generator = np.random.default_rng(20260424)
    claims = dict.fromkeys((*joint.FACTORS, *joint.INTERACTIONS), 0)
    for _ in range(400):
        for name, p in joint.joint_tests(design.core(generator), permutations=99).items():
            claims[name] += p <= 0.05
    assert max(claims.values()) / 400 <= MOST, claims


def test_a_test_that_counts_cells_would_claim_far_too_much():
    """What the simulation above is able to catch: the luck of a draw taken for many cells'."""
    design, generator, naive = Design(calibrations=4, draws=3, responses=1), rng(), 0
    for _ in range(200):
        of = design.core(generator)
        groups = [of.values[of.calibration == c].ravel() for c in range(4)]
        naive += stats.f_oneway(*groups).pvalue < 0.05
    assert naive / 200 > 0.4


def test_searches_that_agree_by_nature_are_not_taken_for_noise():
    """Three searches that all but always find the same set, and one that does not."""
    generator, claims = rng(), 0
    design = Design(searches=4, own=0.02, texts=0.02, sizes=1, responses=1)
    for _ in range(300):
        of = design.core(generator)
        alone = np.zeros_like(of.values)
        alone[:, 0] = 0.05 * generator.standard_normal((len(alone), 1, 1))
        changed = type(of)(**{**vars(of), "values": of.values + alone})
        claims += joint.joint_tests(changed, permutations=99)["search"] <= 0.05
    assert claims / 300 <= 0.09


@pytest.mark.parametrize("effect", ["calibration", "search", "together"])
def test_true_effects_are_found(effect):
    design, generator = Design(calibrations=4, draws=6, **{effect: 1.0}), rng()
    named = {"together": "calibration × search"}.get(effect, effect)
    found = [joint.joint_tests(design.core(generator), permutations=199)[named] for _ in range(40)]
    assert np.mean(np.asarray(found) <= 0.05) > 0.6
