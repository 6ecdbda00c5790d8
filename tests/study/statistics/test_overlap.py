import itertools
import tracemalloc

import numpy as np
import pytest

from depthprune.study.statistics.data import data
from depthprune.study.statistics.estimates import NotEstimable
from depthprune.study.statistics.overlap import (
    agreement,
    agreement_p,
    expected_jaccard,
    jaccard_matrix,
    pairs,
)
from study.planted import calibration_only, noise_only

from .test_masks import BY_NLL, BY_OPTIONS


def jaccard(a, b):
    left, right = set(a), set(b)
    return len(left & right) / len(left | right) if left | right else 1.0


def test_the_index_by_hand():
    found = jaccard_matrix([(1, 2, 3), (2, 3, 4), (0,), (), ()], 5)
    assert (found[0, 1], found[0, 2], found[3, 4]) == (0.5, 0, 1)


def test_the_published_sets_of_two_objectives_share_a_fifth():
    assert jaccard_matrix([BY_NLL, BY_OPTIONS], 32)[0, 1] == 2 / 10


def test_the_matrix_is_every_pair():
    sets = [(0, 1), (1, 2), (0, 1), ()]
    expected = [[jaccard(a, b) for b in sets] for a in sets]
    assert jaccard_matrix(sets, 4) == pytest.approx(np.asarray(expected))


@pytest.mark.parametrize(
    ("free", "a", "b"), [(6, 3, 3), (5, 2, 4), (4, 3, 3), (7, 1, 3), (4, 0, 2)]
)
def test_the_expectation_is_the_mean_over_every_two_sets(free, a, b):
    every = [
        jaccard(one, other)
        for one in itertools.combinations(range(free), a)
        for other in itertools.combinations(range(free), b)
    ]
    assert expected_jaccard(free, a, b) == pytest.approx(np.mean(every))


@pytest.mark.parametrize(
    ("vary", "same", "count"),
    [
        ("search", ("calibration", "draw"), 12 * 6),
        ("calibration", ("search",), 4 * 9 * 6),
        ("draw", ("calibration", "search"), 16 * 3),
    ],
)
def test_pairs_differ_in_one_thing(vary, same, count):
    made = data(noise_only())
    one, other = pairs(made, vary)
    assert len(one) == count
    assert len({frozenset(pair) for pair in zip(one, other, strict=True)}) == count

    def value(row, name):
        return row.calibration.name if name == "calibration" else getattr(row, name)

    for i, j in zip(one, other, strict=True):
        a, b = made.rows[i], made.rows[j]
        assert all(value(a, name) == value(b, name) for name in same)
        assert value(a, vary) != value(b, vary)


def test_sets_that_the_calibration_decides_agree_within_it():
    made = data(calibration_only())
    within, across = agreement(made, "search"), agreement(made, "calibration")
    assert within.mean > 0.6 > 0.1 > across.mean
    assert within.chance == pytest.approx(expected_jaccard(29, 6, 6))
    assert agreement(made, "objective") == NotEstimable(
        "no two cells differ in the objective alone"
    )


def test_chance_is_the_mean_over_the_same_pairs():
    rows = noise_only(sources=("prose",), searches=("one-shot", "greedy"), ks=(3, 6))
    few = [row for row in rows if row.k == 3 or row.search == "greedy" or row.draw == 0]
    found = agreement(data(few), "search")
    assert found.pairs == 4
    three, six = (expected_jaccard(29, k, k) for k in (3, 6))
    assert found.chance == pytest.approx((3 * three + six) / 4)


def few_cells(removed, protect=(0,)):
    """Three draws of one search on one source, without these blocks."""
    rows = noise_only(sources=("prose",), searches=("one-shot",), ks=(3,))
    changes = [{"removed": each, "protect": protect} for each in removed]
    return data([row.model_copy(update=u) for row, u in zip(rows, changes, strict=True)])


def test_sets_that_agree_do_so_beyond_chance():
    same = [(1, 2, 3)] * 3
    assert agreement_p(few_cells(same), "draw", permutations=199) == 1 / 200
    none_else = tuple({*range(30)} - {1, 2, 3})
    assert agreement_p(few_cells(same, none_else), "draw", permutations=99) == 1
    alone = agreement_p(few_cells(same), "objective")
    assert alone == NotEstimable("no two cells differ in the objective alone")


def test_random_sets_reach_each_p_as_often():
    rng = np.random.default_rng(5)
    found = []
    for seed in range(200):
        sets = [tuple(sorted(map(int, rng.choice(10, 3, replace=False)))) for _ in range(3)]
        made = few_cells(sets, tuple(range(10, 30)))
        found.append(agreement_p(made, "draw", permutations=39, seed=seed))
    assert np.mean(np.asarray(found) <= 0.1) < 0.16


def test_agreement_is_judged_by_permutation_over_the_same_pairs():
    """Planted sets share all blocks but one within a source, and none between sources."""
    cells = data(calibration_only())
    assert agreement_p(cells, "search") == 1 / 1000
    assert agreement_p(cells, "calibration") > 0.9


def test_no_more_is_held_than_the_pairs_that_are_compared():
    """Of 400 cells 200 pairs are of one draw, and every two of them would be 160,000."""
    cells = data(noise_only(sources=("prose",), searches=("one-shot", "greedy"), draws=200))
    tracemalloc.start()
    agreement_p(cells, "search")
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 8 * 400**2
