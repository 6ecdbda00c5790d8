import numpy as np
import pytest
from scipy import stats

from depthprune.study.statistics.estimates import NotEstimable
from depthprune.study.statistics.overlap import jaccard_matrix
from depthprune.study.statistics.permanova import permanova


def test_by_hand():
    # Squared distances: 1 and 4 inside the groups, 9, 16, 9, 16 across.
    # SS_T = (1+4+9+16+9+16)/4 = 13.75; SS_W = 1/2 + 4/2 = 2.5; F = 11.25 / (2.5/2) = 9.
    distances = np.sqrt([[0, 1, 9, 16], [1, 0, 9, 16], [9, 9, 0, 4], [16, 16, 4, 0]])
    found = permanova(distances, np.asarray([0, 0, 1, 1]))
    assert found.f == pytest.approx(9)
    assert found.r2 == pytest.approx(11.25 / 13.75)
    # Of the three ways to halve four objects one is as extreme.
    assert found.p == pytest.approx(1 / 3, abs=0.05)


def test_on_one_variable_it_is_the_usual_f():
    """Anderson (2001), p. 37: with Euclidean distances and one variable."""
    rng = np.random.default_rng(0)
    groups = np.repeat([0, 1, 2], [5, 7, 4])
    values = rng.standard_normal(16) + groups
    found = permanova(np.abs(values[:, None] - values), groups, permutations=4999)
    usual = stats.f_oneway(*(values[groups == g] for g in range(3)))
    assert found.f == pytest.approx(usual.statistic)
    assert found.p == pytest.approx(usual.pvalue, abs=0.01)


def test_the_same_seed_gives_the_same_p():
    rng = np.random.default_rng(1)
    points = rng.standard_normal((12, 3))
    distances = np.linalg.norm(points[:, None] - points, axis=2)
    groups = np.arange(12) % 3
    assert permanova(distances, groups, seed=4) == permanova(distances, groups, seed=4)
    assert permanova(distances, groups, seed=4) != permanova(distances, groups, seed=5)


def test_sets_of_two_patterns_are_told_apart():
    sets = [
        (1, 2, 3),
        (1, 2, 4),
        (1, 3, 4),
        (2, 3, 5),
        (7, 8, 9),
        (7, 8, 10),
        (8, 9, 10),
        (7, 9, 11),
    ]
    groups = np.repeat([0, 1], 4)
    found = permanova(1 - jaccard_matrix(sets, 12), groups)
    assert found.r2 > 0.5
    assert found.p < 0.06
    # However plain it is, a chance is not nothing: what was observed is one permutation more.
    twice = permanova(1 - jaccard_matrix(sets * 4, 12), np.tile(groups, 4), permutations=99)
    assert twice.p == 1 / 100


def test_cells_of_one_draw_are_no_repetition():
    """Eight cells of four draws are clustered by their draw alone: as cells they mislead."""
    points = (
        np.repeat([0.0, 0.4, 1.0, 1.4], 4)[:, None] + np.tile([0, 0.01, 0.02, 0.03], 4)[:, None]
    )
    distances = np.abs(points - points.T)
    groups, draws = np.repeat([0, 1], 8), np.repeat(np.arange(4), 4)
    assert permanova(distances, groups).p < 0.01
    assert permanova(distances, groups, units=draws).p > 0.3


def test_searches_are_shuffled_within_their_draw():
    """The draw moves both searches much, the search moves each a little, always one way."""
    draws, searches = np.repeat(np.arange(8), 2), np.tile([0, 1], 8)
    values = 10.0 * draws + 0.5 * searches
    distances = np.abs(values[:, None] - values)
    assert permanova(distances, searches).p > 0.5
    assert permanova(distances, searches, within=draws).p < 0.02


@pytest.mark.parametrize(
    ("groups", "units", "reason"),
    [
        ([0, 0, 0, 0], None, "one group"),
        ([0, 1, 2, 3], None, "one member"),
        ([0, 0, 1, 1], [0, 0, 1, 1], "one member"),
    ],
)
def test_what_cannot_be_tested_is_said(groups, units, reason):
    distances = 1 - np.eye(4)
    units = None if units is None else np.asarray(units)
    found = permanova(distances, np.asarray(groups), units=units)
    assert isinstance(found, NotEstimable)
    assert reason in found.reason


def test_sets_that_are_all_alike_have_no_pattern():
    assert permanova(np.zeros((4, 4)), np.asarray([0, 0, 1, 1])) == NotEstimable(
        "all sets are alike"
    )
