import math

import pytest

from depthprune.study.statistics.data import data
from depthprune.study.statistics.estimates import NotEstimable
from depthprune.study.statistics.quality import (
    additivity_gap,
    pareto,
    quality_against_cost,
    regret,
)
from study.planted import SEARCHES, Grid, noise_only, search_only

# Evaluations at N = 32, k = 7, and WikiText-2 perplexity on Llama-3-8B (arXiv 2604.24938).
PUBLISHED = {
    "one-shot": (32, 13.12), "greedy": (203, 13.12), "beam": (887, 13.12),
    "genetic": (208, 13.16), "bayesian": (232, 13.12), "cbo": (538, 13.33),
}  # fmt: skip


def test_of_the_published_searches_one_shot_is_the_whole_front():
    cost, perplexity = zip(*PUBLISHED.values(), strict=True)
    front = pareto(cost, [-value for value in perplexity])
    assert [name for name, on in zip(PUBLISHED, front, strict=True) if on] == ["one-shot"]


def test_the_front_by_hand():
    assert pareto([1, 2, 3, 2], [1, 3, 2, 3]) == [True, True, False, True]
    assert pareto([1, 2, 3], [1, 2, 3]) == [True] * 3
    assert pareto([], []) == []


def test_the_additivity_gap_by_hand():
    row = noise_only()[0].model_copy(
        update={"loss": 3.9, "dense_loss": 3.0, "alone": (0.1, 0.1, 0.1, 0.1, 0.1, 0.15)}
    )
    assert additivity_gap(row) == pytest.approx(0.9 - 0.65)
    assert isinstance(additivity_gap(row.model_copy(update={"alone": None})), NotEstimable)
    assert isinstance(additivity_gap(row.model_copy(update={"loss": math.inf})), NotEstimable)


def test_regret_is_against_the_best_on_the_same_draw():
    found = regret(search_only())
    for row, value in found.items():
        assert value == pytest.approx(0.3 * SEARCHES.index(row.search), abs=0.02)
    assert len(found) == 48


def test_regret_is_under_one_objective():
    """Losses of another are of another scale."""
    rows = search_only(objectives=("nll", "kl"))
    scaled = [
        row.model_copy(update={"loss": row.loss - 3.0}) if row.objective == "kl" else row
        for row in rows
    ]
    assert list(regret(scaled).values()) == pytest.approx(list(regret(rows).values()))


def test_regret_says_where_there_is_nothing_to_compare_with():
    rows = search_only(searches=("greedy",), draws=1)
    assert set(regret(rows).values()) == {NotEstimable("no other search was run there")}
    broken = search_only(sources=("prose",), draws=1)
    broken[0] = broken[0].model_copy(update={"loss": math.inf})
    broken[1] = broken[1].model_copy(update={"error": "no memory"})
    found = regret(broken)
    assert broken[1] not in found
    assert found[broken[0]] == NotEstimable("its loss is not finite")
    assert found[broken[2]] == 0


def test_quality_against_cost_marks_the_front():
    grid = Grid(
        lambda cell: {"one-shot": 4.0, "greedy": 3.5, "beam": 3.6, "genetic": 3.4}[cell.search]
    )
    points = {
        point.search: point for point in quality_against_cost(data(grid.rows()), "perplexity")
    }
    assert {name for name, point in points.items() if point.front} == {
        "one-shot",
        "greedy",
        "genetic",
    }
    assert points["greedy"].quality == pytest.approx(3.5)
    assert points["greedy"].cost == 5_100_000
    assert points["greedy"].cells == 12


def test_searches_are_compared_where_all_were_run():
    rows = [r for r in search_only() if r.search != "beam" or r.calibration.name == "prose"]
    points = quality_against_cost(data(rows), "perplexity")
    assert {point.cells for point in points} == {3}


def test_a_cost_that_was_not_kept_is_said():
    rows = noise_only(changes={"cost": None})
    assert quality_against_cost(data(rows), "perplexity") == NotEstimable(
        "the cost of some cells was not kept"
    )
    assert isinstance(
        quality_against_cost(data(Grid(lambda c: 3.0).rows()), "accuracy"), NotEstimable
    )
