import numpy as np
import pytest

from depthprune.study.statistics.core import core
from depthprune.study.statistics.data import data
from depthprune.study.statistics.estimates import NotEstimable
from study.planted import Grid, noise_only


def test_a_full_grid_is_its_own_core():
    made = data(noise_only(ks=(3, 6), objectives=("nll", "kl")))
    found = core(made)
    assert found.values.shape == (12, 4, 4, 2)
    assert found.blocks == ((3, "kl"), (3, "nll"), (6, "kl"), (6, "nll"))
    assert found.left_out == {}
    assert len(found.cells) == len(made.rows)
    assert found.draws.tolist() == [3, 3, 3, 3]
    for cell in (0, 17, 101):
        row, place = made.rows[cell], found.blocks.index
        unit = made.levels["unit"].index(f"{row.calibration.name}, draw {row.draw}")
        search = found.searches.index(row.search)
        value = found.values[unit, search, place((row.k, row.objective))]
        assert value == pytest.approx(made.values[cell])


def test_what_few_draws_saw_is_left_out_and_named():
    rows = [
        row for row in noise_only(ks=(3, 6))
        if (row.search != "beam" or (row.calibration.name, row.draw) == ("prose", 0))
        and (row.k == 3 or row.calibration.name in ("prose", "code", "law"))
    ]  # fmt: skip
    found = core(data(rows))
    assert found.left_out == {"search": ("beam",), "calibration": ("news",)}
    assert found.searches == ("genetic", "greedy", "one-shot")
    assert found.values.shape == (9, 3, 2, 2)


def test_an_objective_that_few_draws_saw_at_one_k_is_left_out_there_and_named():
    rows = [
        row for row in noise_only(ks=(3, 6), objectives=("nll", "kl"))
        if (row.k, row.objective) != (3, "kl") or row.draw == 0
    ]  # fmt: skip
    found = core(data(rows))
    assert found.blocks == ((3, "nll"), (6, "kl"), (6, "nll"))
    assert found.left_out == {"objective": ("kl at k = 3",)}


def test_one_failed_cell_costs_its_draw_and_no_more():
    rows = noise_only()
    rows[5] = rows[5].model_copy(update={"error": "no memory"})
    found = core(data(rows))
    assert sorted(found.draws) == [2, 3, 3, 3]
    assert found.left_out == {"draw": ("1 of prose",)}


def test_a_calibration_with_one_draw_has_nothing_to_be_compared_by():
    rows = [row for row in noise_only() if row.calibration.name != "law" or row.draw == 0]
    assert core(data(rows)).left_out == {"calibration": ("law (it has one complete draw)",)}
    assert len(core(data(noise_only(draws=1))).calibrations) == 4


def test_seeds_of_a_search_are_averaged():
    rows = noise_only()
    again = [row.model_copy(update={"search_seed": 1}) for row in rows if row.search == "genetic"]
    changed = [
        row.model_copy(
            update={
                "evaluations": tuple(
                    each.model_copy(update={"value": each.value * np.exp(0.2)})
                    if each.kind == "perplexity" else each for each in row.evaluations
                )
            }
        )
        for row in again
    ]  # fmt: skip
    one, both = core(data(rows)), core(data([*rows, *changed]))
    place = one.searches.index("genetic")
    difference = both.values - one.values
    assert difference[:, place, :, 0] == pytest.approx(0.1)
    assert np.delete(difference, place, axis=1) == pytest.approx(0)


def test_the_choice_looks_at_no_result():
    rows = [row for row in noise_only() if row.search != "beam" or row.draw == 0]
    other = [row for row in noise_only(seed=9) if row.search != "beam" or row.draw == 0]
    assert core(data(rows)).left_out == core(data(other)).left_out
    assert core(data(rows)).cells.tolist() == core(data(other)).cells.tolist()


def test_a_source_is_taken_out_with_all_its_calibrations():
    found = core(data(noise_only(lengths=(128, 512))))
    without = found.without_source("code")
    assert set(without.sources) == {"prose", "news", "law"}
    assert len(without.calibrations) == 6
    assert without.calibration.max() == 5
    kept = [i for i, c in enumerate(found.calibration) if found.sources[c] != "code"]
    assert np.array_equal(without.values, found.values[kept])


def test_without_an_evaluation_there_is_none():
    assert isinstance(core(data([])), NotEstimable)
    assert isinstance(
        core(data(Grid(lambda c: 3.0, changes={"evaluations": ()}).rows())), NotEstimable
    )
