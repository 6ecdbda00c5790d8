"""Which calibrations may be the best: a planted order is found, and noise shuts out nobody."""

from __future__ import annotations

import numpy as np
import pytest

from depthprune.study.statistics.core import Core, core
from depthprune.study.statistics.data import data
from depthprune.study.statistics.estimates import NotEstimable
from depthprune.study.statistics.simulation import Design
from depthprune.study.statistics.standings import standings
from study.planted import SOURCES, Grid, calibration_only, noise_only


def of(rows, measure: str = "perplexity") -> Core:
    whole = core(data(rows))
    assert isinstance(whole, Core)
    return whole.of(measure)


def found(rows, measure: str = "perplexity"):
    made = standings(of(rows, measure), lower_is_better=measure == "perplexity")
    assert not isinstance(made, NotEstimable)
    return made


@pytest.mark.parametrize("measure", ["perplexity", "accuracy"])
def test_a_planted_order_is_found_with_how_far_each_is_behind(measure: str) -> None:
    made = found(calibration_only(), measure)
    assert [each.calibration for each in made] == list(SOURCES)
    assert [each.may_be_best for each in made] == [True, False, False, False]
    step = 0.3 if measure == "perplexity" else 0.04
    assert made[0].behind is None
    for place, each in enumerate(made[1:], start=1):
        assert each.behind is not None
        assert each.behind.value == pytest.approx(place * step, abs=0.02)
        assert 0 < each.behind.low < place * step < each.behind.high


def test_noise_shuts_out_the_best_in_at_most_one_table_of_twenty() -> None:
    """The first source is the best by a hair; it is in the subset, and mostly so are all."""
    kept, whole, tables = 0, 0, 150
    for seed in range(tables):
        rows = Grid(
            lambda cell: 3.5 + 0.001 * SOURCES.index(cell.source) + 0.05 * cell.luck,
            seed=seed,
            draws=4,
            searches=("one-shot", "greedy"),
        ).rows()
        made = found(rows)
        kept += any(each.calibration == SOURCES[0] and each.may_be_best for each in made)
        whole += all(each.may_be_best for each in made)
    assert kept >= 0.95 * tables
    assert 0.9 * tables <= whole < tables


def test_intervals_hold_together() -> None:
    """Of five comparisons with a known best, all cover what is true in about 95% of tables."""
    rng = np.random.default_rng(0)
    truth = np.array([0.0, 1.0, 1.1, 1.2, 1.3, 1.4])
    plain = of(Grid(lambda _: 3.5, sources=tuple("abcdef"), draws=5, blocks=60).rows())
    covered = 0
    for _ in range(400):
        luck = 0.1 * rng.standard_normal(len(plain.values))
        values = plain.values * 0 + (truth[plain.calibration] + luck)[:, None, None, None]
        made = standings(Core(**{**vars(plain), "values": values}), lower_is_better=True)
        assert not isinstance(made, NotEstimable)
        covered += all(
            each.behind is None
            or each.behind.low <= truth["abcdef".index(each.calibration)] <= each.behind.high
            for each in made
        )
    assert 0.95 <= covered / 400 < 1.0


def test_intervals_hold_together_where_no_calibration_is_better() -> None:
    """Which comes out best is then luck alone, and nothing is behind anything."""
    rng = np.random.default_rng(0)
    design = Design(calibrations=10, draws=10, searches=1, sizes=1, objectives=1, responses=1)
    covered = 0
    for _ in range(200):
        made = standings(design.core(rng), lower_is_better=True)
        assert not isinstance(made, NotEstimable)
        covered += all(each.behind is None or each.behind.low <= 0 for each in made)
    assert covered >= 0.95 * 200


def test_one_draw_tells_no_two_apart() -> None:
    made = found(noise_only(draws=1))
    assert all(each.may_be_best for each in made)
    assert made[1].behind is not None
    assert isinstance(made[1].behind.interval, NotEstimable)


def test_one_calibration_has_no_standing() -> None:
    assert isinstance(
        standings(of(noise_only(sources=("prose",))), lower_is_better=True), NotEstimable
    )
