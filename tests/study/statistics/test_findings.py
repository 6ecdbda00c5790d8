from dataclasses import replace

import numpy as np
import pytest

from depthprune.study.plan import Margin
from depthprune.study.statistics.effects import analyse
from depthprune.study.statistics.findings import findings
from depthprune.study.statistics.findings.own import own_rows
from depthprune.study.statistics.findings.verdicts import verdict
from study.planted import (
    SEARCHES,
    SOURCES,
    Grid,
    calibration_only,
    noise_only,
    own_domain_only,
    search_only,
)


def of(rows, topic):
    return [finding for finding in findings(rows) if finding.topic == topic]


def sentences(rows):
    return " ".join(finding.sentence for finding in findings(rows))


def test_a_pure_calibration_effect_is_called_one():
    perplexity, accuracy = of(calibration_only(), "verdict")
    assert perplexity.verdict == accuracy.verdict == "calibration"
    numbers = perplexity.numbers
    assert perplexity.sentence == (
        "Calibration mattered more than search for log-perplexity: changing the calibration moved "
        "log-perplexity by 0.499 (0.496–0.502), changing the search by 0.0046 (0.0007–0.0084), "
        f"which is within noise (p = {numbers['search p']:.2f}), a difference of 0.494 (0.487 to "
        "0.498); two draws of one configuration differ by 0.0045 (0.0003–0.0086)."
    )
    assert numbers["calibration"] == pytest.approx(0.499, abs=5e-4)
    assert numbers["difference"] == pytest.approx(numbers["calibration"] - numbers["search"])
    assert numbers["floor interval"] == pytest.approx((0.0003, 0.0086), abs=5e-5)
    shares = of(calibration_only(), "shares")[0]
    assert shares.numbers["calibration η²"] > 0.999
    assert "the calibration explains 99.99%" in shares.sentence


def test_a_pure_search_effect_is_called_one():
    perplexity, accuracy = of(search_only(), "verdict")
    assert perplexity.verdict == accuracy.verdict == "search"
    assert perplexity.sentence.startswith("Search mattered more than calibration")
    assert of(search_only(), "shares")[0].numbers["search η²"] > 0.999


def test_a_verdict_rests_on_its_own_part_alone():
    """Another kind of calibration in the table changes neither figures nor p."""
    alone = of(calibration_only(), "verdict")
    for other in (noise_only(kind="choices"), search_only(kind="choices", draws=5)):
        beside = [f for f in of(calibration_only() + other, "verdict") if "text" in f.sentence]
        assert [each.numbers for each in beside] == [each.numbers for each in alone]


def test_an_interval_that_leaves_out_nothing_is_no_verdict_where_the_adjusted_chance_is_not_small():
    (part,) = analyse(calibration_only())
    more = part.more["perplexity"]
    assert verdict(part, "perplexity") == "calibration"
    for p, told in ((0.049, "calibration"), (0.05, "not separable")):
        other = replace(part, more={"perplexity": replace(more, p=p)})
        assert verdict(other, "perplexity") == told


def test_what_is_not_proven_alike_is_not_called_comparable():
    rows = Grid(
        lambda cell: 3.5 + 0.2 * SEARCHES.index(cell.search) + 0.35 * cell.luck + 0.02 * cell.own,
        seed=0,
    ).rows()
    found = of(rows, "verdict")[0]
    assert found.verdict == "not separable"
    assert found.sentence.startswith("Calibration and search cannot be separated")
    assert found.sentence.startswith(found.lead)
    low, high = found.numbers["difference interval"]
    assert low < 0 < high
    assert "a difference of " in found.sentence


def test_effects_of_one_size_are_comparable_within_the_margin():
    rows = Grid(
        lambda cell: 3.5 + 0.3 * SOURCES.index(cell.source) + 0.3 * SEARCHES.index(cell.search)
        + 0.02 * cell.luck + 0.01 * cell.own
    ).rows()  # fmt: skip
    found = of(rows, "verdict")[0]
    assert found.verdict == "comparable"
    assert "alike means within 0.02 in log-perplexity" in found.sentence
    assert max(map(abs, found.numbers["difference interval"])) < 0.02


def test_what_counts_as_alike_is_what_the_plan_states():
    """Both ends of the interval decide, and a difference above 0 may still be alike."""
    rows = calibration_only()
    (first, *_) = of(rows, "verdict")
    low, high = first.numbers["difference interval"]
    assert 0 < low < high
    for margin, told in ((high * 1.001, "comparable"), (high * 0.999, "calibration")):
        found = findings(rows, Margin(perplexity=margin))[0]
        assert found.verdict == told
        assert found.numbers["difference interval"] == (low, high)
    noisy = Grid(
        lambda cell: 3.5 + 0.2 * SEARCHES.index(cell.search) + 0.35 * cell.luck + 0.02 * cell.own,
        seed=0,
    ).rows()
    assert [findings(noisy, Margin(perplexity=m))[0].verdict for m in (0.02, 9.0)] == [
        "not separable",
        "comparable",
    ]


def test_the_source_that_decides_is_named():
    """Searches differ by 0.12; three sources are alike, and one is far off."""
    rows = Grid(
        lambda c: 3.5 + 0.4 * (c.source == "law") + 0.06 * SEARCHES.index(c.search)
        + 0.01 * c.luck + 0.005 * c.own,
    ).rows()  # fmt: skip
    assert of(rows, "verdict")[0].verdict == "calibration"
    found = of(rows, "rests")[0]
    assert found.sentence.startswith("The answer would be another without law: the difference")
    assert found.numbers["without law"] < 0 < found.numbers["without code"]


def test_an_answer_that_cannot_be_told_without_a_source_is_not_said_to_stand():
    """Without code the calibration still moves more, by what noise alone might be."""
    rows = Grid(
        lambda c: 3.5 + 0.4 * (c.source == "law") - 0.3 * (c.source == "code")
        + 0.06 * SEARCHES.index(c.search) + 0.12 * c.luck + 0.02 * c.own,
        draws=6,
    ).rows()  # fmt: skip
    (part,) = analyse(rows)
    assert of(rows, "verdict")[0].verdict == "calibration"
    low, high = part.without["perplexity"]["law"].interval
    assert low < 0 < high
    assert part.without["perplexity"]["law"].value > 0
    assert "another without law" in of(rows, "rests")[0].sentence


def test_an_interaction_alone_is_no_noise():
    """What is good for one source is bad for the next, and neither is better on the whole."""
    rows = Grid(
        lambda c: 3.5 + 0.3 * (-1) ** (SOURCES.index(c.source) + SEARCHES.index(c.search))
        + 0.02 * c.luck + 0.01 * c.own,
    ).rows()  # fmt: skip
    assert of(rows, "verdict")[0].verdict in ("comparable", "not separable")
    assert "depends on the calibration" in of(rows, "interaction")[0].sentence


def test_a_gain_says_what_its_interval_is_of():
    rows = Grid(
        lambda c: 3.5 - (c.search == "greedy") * (0.3 if c.objective == "nll" else 0.1)
        * (1 + 0.2 * SOURCES.index(c.source)) + 0.02 * c.luck + 0.01 * c.own,
        searches=("one-shot", "greedy"), objectives=("nll", "kl"), lengths=(128, 512),
    ).rows()  # fmt: skip
    (found,) = of(rows, "gain")
    assert found.sentence.startswith("greedy is better than one-shot in log-perplexity")
    assert all(
        words in found.sentence
        for words in ("for further draws", "for further calibrations", "for further sources")
    )
    assert "under kl" in found.sentence
    assert found.numbers["gain"] == pytest.approx(0.26, abs=0.02)
    assert of(noise_only(), "gain") == []


def test_gains_are_on_the_search_that_costs_least_a_cell():
    """Greedy costs 99 evaluations a cell and one-shot 100, and greedy has more cells."""
    grid = {"searches": ("one-shot", "greedy"), "ks": (3, 4, 6)}
    rows = [
        row.model_copy(
            update={
                "cost": row.cost.model_copy(
                    update={"evaluations": 99 if row.search == "greedy" else 100}
                )
            }
        )
        for row in search_only(**grid)
        if row.search == "greedy" or row.k != 3
    ]
    (part,) = analyse(rows)
    assert [(g.search, g.against) for g in part.gains["perplexity"]] == [("one-shot", "greedy")]


def test_no_search_is_called_better_where_searches_are_within_noise():
    """Of many intervals of noise some leave out 0, as those of two searches here."""
    rows = noise_only(seed=41, draws=4)
    (part,) = analyse(rows)
    apart = [g for g in part.gains["perplexity"] if not g.draws.low <= 0 <= g.draws.high]
    assert [each.search for each in apart] == ["beam", "greedy"]
    assert not part.effects["search", "perplexity"].claimed
    assert of(rows, "gain") == []


def test_one_draw_speaks_for_no_search_and_against_none():
    assert of(noise_only(draws=1), "cost") == []


def test_noise_is_called_noise():
    found = findings(noise_only())
    assert {each.verdict for each in found if each.topic == "verdict"} == {"within noise"}
    assert not [each for each in found if each.topic == "shares"]
    assert "cannot be told: ρ" in sentences(noise_only())
    nothing = "For log-perplexity nothing here speaks for a dearer search than one-shot"
    assert nothing in sentences(noise_only())


def test_one_draw_says_what_it_cannot():
    rows = calibration_only(draws=1)
    perplexity = of(rows, "verdict")[0]
    assert perplexity.verdict == "unsaid"
    assert "what the draw alone does is not known" in perplexity.sentence
    assert "draws of several seeds" in perplexity.sentence
    assert not of(rows, "shares")
    assert "nan" not in sentences(rows).lower()


def test_a_single_search_leaves_search_unsaid():
    text = sentences(calibration_only(searches=("greedy",)))
    assert "cannot be said" in text
    assert "there is one search only that every draw saw" in text


def test_what_the_search_moves_is_named_where_the_calibration_was_not_measured():
    perplexity = of(noise_only(sources=("prose",)), "verdict")[0]
    told = (
        "changing the calibration was not measured (there is one calibration only), changing the "
    )
    assert f"{told}search moved log-perplexity by " in perplexity.sentence


def test_an_objective_that_moves_is_named():
    rows = Grid(
        lambda cell: 3.5 + 0.4 * (cell.objective == "kl") + 0.02 * cell.luck + 0.01 * cell.own,
        objectives=("nll", "kl"),
    ).rows()
    assert of(rows, "objective")[0].numbers["objective"] == pytest.approx(0.4, abs=0.02)
    assert not of(noise_only(objectives=("nll", "kl")), "objective")


def test_models_and_kinds_are_told_apart():
    rows = calibration_only(models=("a", "b")) + search_only(models=("a",), kind="choices")
    found = {each.sentence.partition(":")[0]: each.verdict for each in of(rows, "verdict")}
    assert found == {
        "a, text calibrations": "calibration",
        "b, text calibrations": "calibration",
        "a, choices calibrations": "search",
    }


def test_cells_that_failed_are_counted():
    rows = calibration_only()
    rows[3] = rows[3].model_copy(update={"error": "no memory"})
    assert findings(rows)[-1].sentence == "1 of 48 cells failed and are left out of every figure."
    assert "on the 44 of 47 cells" in sentences(rows)
    assert "not among them: draw 0 of prose." in sentences(rows)


def test_a_table_without_a_cell_says_so():
    failed = [row.model_copy(update={"error": "no memory"}) for row in calibration_only(draws=1)]
    assert [each.topic for each in findings(failed)] == ["missing"]
    assert "nothing can be said" in findings(failed)[0].sentence
    assert findings([])[0].topic == "missing"


def test_cells_without_an_evaluation_say_so():
    assert "share no evaluation" in sentences(calibration_only(changes={"evaluations": ()}))


def test_the_answer_stands_first_and_every_sentence_ends():
    found = findings(calibration_only(models=("a", "b")))
    assert [each.topic for each in found[:8]] == ["verdict", "rests"] * 4
    assert all(each.sentence.endswith(".") for each in found)


def test_a_home_advantage_is_named_only_where_its_interval_leaves_out_nothing():
    found = of(own_domain_only(noise=0.01), "transfer")[0]
    assert "own domain made it better: 0.50 (0.50 to 0.50) in log-perplexity" in found.sentence
    assert found.numbers["gain at home"] == pytest.approx(0.5)
    made = noise_only(texts=("prose", "code", "poems"))
    rng = np.random.default_rng(0)
    noisy = [
        row.model_copy(
            update={
                "evaluations": tuple(
                    each.model_copy(update={"value": each.value * np.exp(0.1 * rng.normal())})
                    if each.kind == "perplexity" else each
                    for each in row.evaluations
                )
            }
        )
        for row in made
    ]  # fmt: skip
    assert "no difference that can be told from noise" in of(noisy, "transfer")[0].sentence


def test_the_gap_of_each_objective_is_given():
    found = of(calibration_only(objectives=("nll", "kl")), "additivity")
    assert [each.sentence.split()[5] for each in found] == ["kl", "nll"]


def test_the_gap_is_of_the_cells_that_are_in_every_other_figure():
    rows = calibration_only()
    broken = [each.model_copy(update={"value": np.inf}) for each in rows[0].evaluations]
    broken_down = rows[0].model_copy(update={"evaluations": tuple(broken), "loss": 90.0})
    assert of([broken_down, *rows[1:]], "additivity") == of(rows[1:], "additivity")


def test_the_gap_of_each_model_is_its_own():
    rows = calibration_only(models=("a", "b"))
    rows = [
        row.model_copy(update={"loss": row.loss + 0.5}) if row.model == "b" else row for row in rows
    ]
    one, other = of(rows, "additivity")
    assert one.sentence.startswith("a: Removing the blocks together changed nll by")
    assert other.numbers["mean gap"] == pytest.approx(one.numbers["mean gap"] + 0.5, abs=0.01)


def test_a_set_of_one_block_has_no_part_in_the_gap():
    rows = calibration_only()
    single = [
        row.model_copy(update={"k": 1, "removed": row.removed[:1], "alone": row.alone[:1]})
        for row in rows
    ]
    assert of([*rows, *single], "additivity") == of(rows, "additivity")
    assert of(single, "additivity") == []


def test_what_is_not_compared_is_named():
    rows = [row for row in noise_only() if row.search != "beam" or row.draw == 0]
    found = of(rows, "missing")[0]
    assert "36 of 40 cells" in found.sentence
    assert "search beam" in found.sentence


def test_of_noisy_tables_few_claim_anything():
    claims = [
        any(each.verdict != "within noise" for each in of(noise_only(seed=seed), "verdict"))
        for seed in range(30)
    ]
    assert np.mean(claims) <= 0.1


def test_a_part_without_a_core_says_so():
    (part,) = analyse(calibration_only(changes={"evaluations": ()}))
    assert part.effects == {}


def on_own_data(of_cell, **changes):
    """Rows whose judged texts are noise and whose own loss rises by a formula."""
    rows = noise_only(**changes)
    return [row.model_copy(update={"loss": row.dense_loss + of_cell(row)}) for row in rows]


def test_the_calibrations_own_perplexity_is_told_apart_from_what_is_judged():
    def rise(row):
        return 0.3 * SOURCES.index(row.calibration.source) + 0.001 * row.draw

    rows = on_own_data(rise)
    (own,) = of(rows, "own")
    assert own.verdict == "calibration"
    assert own.sentence.startswith(
        "Calibration mattered more than search for the rise of log-perplexity on the calibrated "
        "data itself: changing the calibration moved it by 0.50"
    )
    # Mean |difference| of four sources 0.3 apart: (3 x 0.3 + 2 x 0.6 + 0.9) / 6.
    assert own.numbers["calibration"] == pytest.approx(0.5, abs=0.002)
    assert all(each.verdict == "within noise" for each in of(rows, "verdict"))


def test_only_losses_under_nll_are_perplexities():
    def rise(row):
        return 9.0 * (row.objective == "kl") + 0.3 * SEARCHES.index(row.search) + 0.001 * row.draw

    (own,) = of(on_own_data(rise, objectives=("nll", "kl")), "own")
    assert own.verdict == "search"
    assert own.numbers["search"] == pytest.approx(0.5, abs=0.002)
    assert not of(on_own_data(rise, objectives=("kl",)), "own")


@pytest.mark.parametrize("loss", [np.inf, np.nan])
def test_an_own_loss_that_is_no_number_is_left_out(loss):
    def rise(row):
        return 0.3 * SOURCES.index(row.calibration.source) + 0.001 * row.draw

    rows = on_own_data(rise, draws=4)
    whole = of(rows, "own")[0].numbers["calibration"]
    rows[0] = rows[0].model_copy(update={"loss": loss})
    assert of(rows, "own")[0].numbers["calibration"] == pytest.approx(whole, abs=0.02)


def test_an_own_loss_beyond_any_perplexity_is_the_largest_there_is():
    (found,) = own_rows(on_own_data(lambda row: 9e4)[:1])
    assert found.evaluations[0].value == np.exp(700.0)


def test_the_level_of_a_text_is_not_what_its_calibration_moved():
    rows = [
        row.model_copy(
            update={
                "dense_loss": 2.0 + SOURCES.index(row.calibration.source),
                "loss": 2.4 + SOURCES.index(row.calibration.source) + 0.01 * (row.draw % 2),
            }
        )
        for row in noise_only()
    ]
    assert of(rows, "own")[0].verdict == "within noise"


def test_the_calibrations_that_may_be_the_best_are_named():
    (for_text, for_tasks) = of(calibration_only(), "standings")
    assert for_text.sentence.startswith(
        "The best calibration for log-perplexity on all that was judged is prose (95%, for further "
        "draws); behind the best: code 0.30"
    )
    assert for_tasks.sentence.startswith("The best calibration for accuracy on all that was")
    assert "code 4.0" in for_tasks.sentence
    assert not of(noise_only(), "standings")
