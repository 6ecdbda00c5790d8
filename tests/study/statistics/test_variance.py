import warnings
from dataclasses import replace

import numpy as np
import pytest

from depthprune.study.statistics.data import data
from depthprune.study.statistics.estimates import NotEstimable
from depthprune.study.statistics.variance import decompose
from study.planted import SOURCES, Grid, calibration_only, noise_only, search_only

FIRST = np.asarray([0])


def terms(rows):
    found = decompose(data(rows), FIRST)
    return {term.name: term for term in found.terms}


def test_one_factor_by_hand():
    """Values 1, 3 and 5, 7: SS_T = 20, SS_A = 16, SS_E = 4, MS_E = 2, ω² = 14 / 22."""
    values = {("prose", 0): 1, ("prose", 1): 3, ("code", 0): 5, ("code", 1): 7}
    rows = Grid(lambda cell: values[cell.source, cell.draw], sources=("prose", "code"),
                searches=("greedy",), draws=2).rows()  # fmt: skip
    source = terms(rows)["source"]
    assert (source.df, source.error) == (1, "draw")
    assert source.ss == pytest.approx(16)
    assert source.eta2 == pytest.approx(0.8)
    assert source.omega2 == pytest.approx(14 / 22)


def unbalanced():
    rng = np.random.default_rng(2)
    rows = Grid(
        lambda cell: 3 + 0.2 * cell.k + 0.1 * SOURCES.index(cell.source) * (cell.search == "beam")
        + 0.1 * cell.own + 0.05 * cell.luck,
        ks=(3, 6),
        draws=2,
    ).rows()  # fmt: skip
    return [rows[i] for i in np.sort(rng.choice(len(rows), len(rows) - 9, replace=False))]


@pytest.mark.parametrize("rows", [noise_only(ks=(3, 6)), unbalanced()], ids=["crossed", "holes"])
def test_sums_of_squares_are_those_of_statsmodels(rows):
    pandas = pytest.importorskip("pandas")
    formula = pytest.importorskip("statsmodels.formula.api")
    anova = pytest.importorskip("statsmodels.stats.anova")
    made = data(rows)
    frame = pandas.DataFrame(
        {name: made.codes[name].astype(str) for name in ("k", "source", "search", "unit")}
    ).assign(y=made.values[:, 0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # The draw is left out of theirs, whose type II knows no nesting; so it is of ours.
        fitted = formula.ols("y ~ (k + source + search) ** 2", frame).fit()
        theirs = anova.anova_lm(fitted, typ=2)
    one_draw = replace(
        made,
        codes={**made.codes, "unit": made.codes["calibration"]},
        levels={**made.levels, "unit": made.levels["calibration"]},
    )
    ours = {term.name: term for term in decompose(one_draw, FIRST).terms}
    total = ((made.values[:, 0] - made.values[:, 0].mean()) ** 2).sum()
    error = theirs["sum_sq"]["Residual"] / theirs["df"]["Residual"]
    for name, ss, df in zip(theirs.index, theirs["sum_sq"], theirs["df"], strict=True):
        if name != "Residual":
            term = ours[name.replace(":", " × ")]
            assert (term.ss, term.df) == (pytest.approx(ss), df)
            assert term.omega2 == pytest.approx((ss - df * error) / (total + error))


def test_in_a_crossed_design_the_parts_are_the_whole():
    found = decompose(data(noise_only(ks=(3, 6), lengths=(256, 512))), FIRST)
    assert sum(term.eta2 for term in found.terms) + found.residual == pytest.approx(1)
    assert sum(term.df for term in found.terms) + found.residual_df == found.cells - 1
    parts = [t.within for t in found.terms if t.name in ("source", "length", "source × length")]
    assert found.calibration == pytest.approx(sum(parts))


def test_a_planted_calibration_effect_is_all_the_calibration_s():
    found = decompose(data(calibration_only(lengths=(256, 512))), FIRST)
    assert found.share("calibration") > 0.999
    assert found.share("search") < 1e-3
    assert terms(calibration_only())["source"].omega2 > 0.999


def test_a_planted_search_effect_is_all_the_search_s():
    found = decompose(data(search_only()), FIRST)
    assert found.share("search") > 0.999
    assert found.share("calibration") < 1e-3


def test_a_planted_interaction_is_found_between_its_factors():
    rows = Grid(
        lambda cell: 3 + 0.3 * ((cell.source == "code") == (cell.search == "greedy"))
        + 0.001 * cell.own,
        sources=("prose", "code"),
        searches=("one-shot", "greedy"),
    ).rows()  # fmt: skip
    found = terms(rows)
    assert found["source × search"].eta2 > 0.99
    assert found["source"].eta2 < 0.01


def test_size_takes_none_of_the_share_of_the_rest():
    grid = {"sources": ("prose", "code"), "ks": (3, 9)}
    rows = Grid(lambda cell: cell.k + 0.01 * (cell.source == "code") + 1e-4 * cell.own, **grid)
    found = decompose(data(rows.rows()), FIRST)
    shares = {term.name: term for term in found.terms}
    assert shares["k"].eta2 > 0.999
    assert shares["k"].within is None
    assert shares["source"].eta2 < 0.001
    assert shares["source"].within > 0.99


def test_opposite_effects_on_two_texts_do_not_cancel():
    made = data(calibration_only())
    both = np.stack([made.values[:, 0], 10 - made.values[:, 0]], axis=1)
    found = decompose(replace(made, values=both), np.asarray([0, 1]))
    assert found.calibration > 0.999


@pytest.mark.parametrize(
    ("changes", "term", "reason"),
    [
        ({}, "model", "one model only"),
        ({}, "windows", "one number of windows only"),
        ({"draws": 1}, "draw", "no configuration has two draws"),
    ],
)
def test_what_the_table_cannot_tell_is_named(changes, term, reason):
    found = decompose(data(noise_only(**changes)), FIRST)
    assert reason in found.not_estimable[term].reason
    assert term not in {each.name for each in found.terms}


def test_confounded_factors_are_named_and_their_calibration_is_not():
    """Each source has a length of its own."""
    rows = noise_only(sources=("prose",), lengths=(256,)) + noise_only(
        sources=("code",), lengths=(512,), seed=1
    )
    found = decompose(data(rows), FIRST)
    assert "confounded" in found.not_estimable["source"].reason
    assert "confounded" in found.not_estimable["length"].reason
    assert "calibration" in {term.name for term in found.terms}
    assert 0 < found.share("calibration") < 1


def test_draws_are_told_from_what_source_and_length_do_together():
    draw = terms(noise_only(sources=("prose", "code"), lengths=(256, 512)))["draw"]
    assert draw.df == 4 * 3 - 4


def test_an_interaction_run_in_part_is_named():
    rows = [
        row for row in noise_only()
        if row.search in ("one-shot", "greedy") or row.calibration.name == "prose"
    ]  # fmt: skip
    found = decompose(data(rows), FIRST)
    assert found.not_estimable["source × search"].reason.startswith("the grid separates 3 of its 9")
    assert {"source", "search", "draw"} <= {term.name for term in found.terms}


def test_an_objective_that_goes_with_one_search_is_not_told_from_it():
    rows = [row for row in noise_only(objectives=("nll", "kl"))
            if (row.objective == "kl") == (row.search == "beam")]  # fmt: skip
    found = decompose(data(rows), FIRST)
    assert {"objective", "search"} <= set(found.not_estimable)


def test_text_and_choices_are_taken_apart():
    rows = noise_only() + noise_only(sources=("arc",), kind="choices", objectives=("margin",))
    assert "one kind at a time" in decompose(data(rows), FIRST).reason


def test_values_that_are_all_equal_have_no_variance():
    assert decompose(data(Grid(lambda cell: 3.5).rows()), FIRST) == NotEstimable(
        "all values are equal"
    )
    assert isinstance(decompose(data([]), FIRST), NotEstimable)


def test_a_saturated_design_says_what_it_cannot():
    found = terms(noise_only(draws=1, searches=("one-shot", "greedy"), sources=("prose", "code")))
    assert isinstance(found["source"].omega2, NotEstimable)
