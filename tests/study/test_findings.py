import numpy as np
import pytest

from depthprune.study import noise
from depthprune.study.effects import FACTORS, analyse, evidence
from depthprune.study.findings import findings
from depthprune.study.panel import panel

from .planted import (
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
    assert perplexity.sentence == (
        "Calibration mattered more than search for log-perplexity: changing the calibration moved "
        "log-perplexity by 0.499 (0.497–0.501), changing the search by 0.00239 (0.00200–0.00278), "
        "which is within noise; two draws of the same calibration differ by 0.0045 (0.0031–0.0058)."
    )
    assert perplexity.numbers["calibration"] == pytest.approx(0.499, abs=5e-4)
    assert perplexity.numbers["floor interval"] == pytest.approx((0.0031, 0.0058), abs=5e-5)
    shares = of(calibration_only(), "shares")[0]
    assert shares.numbers["calibration η²"] > 0.999
    assert "the calibration explains 99.99%" in shares.sentence


def test_a_pure_search_effect_is_called_one():
    perplexity, accuracy = of(search_only(), "verdict")
    assert perplexity.verdict == accuracy.verdict == "search"
    assert perplexity.sentence.startswith("Search mattered more than calibration")
    assert of(search_only(), "shares")[0].numbers["search η²"] > 0.999


def test_an_effect_on_one_text_alone_is_not_one_on_the_whole():
    """The search moves one text; the draw moves the other far more, and so the mean of both."""
    luck = np.random.default_rng(0).standard_normal((len(SOURCES), 3))
    rows = []
    for row in Grid(
        lambda cell: 3.5 + 0.1 * SEARCHES.index(cell.search) + 0.01 * cell.luck + 0.002 * cell.own,
        texts=("prose", "code"),
    ).rows():
        prose, code = row.evaluations
        value = np.exp(3.5 + luck[SOURCES.index(row.calibration.source), row.draw])
        changed = code.model_copy(update={"value": float(value)})
        rows.append(row.model_copy(update={"evaluations": (prose, changed)}))
    effect = analyse(rows)[0].effects["search", "perplexity"]
    assert effect.claimed == ("prose",)
    assert not effect.stands
    found = of(rows, "verdict")[0]
    assert found.verdict == "within noise"
    assert "which is within noise except on prose" in found.sentence


def test_what_is_within_noise_is_not_called_comparable():
    rows = Grid(
        lambda cell: 3.5 + 0.2 * SEARCHES.index(cell.search) + 0.25 * cell.luck + 0.02 * cell.own,
        draws=2,
        seed=4,
    ).rows()
    found = of(rows, "verdict")[0]
    assert found.verdict == "comparable"
    assert found.sentence.startswith(
        "Search mattered for log-perplexity, but not measurably more than calibration:"
    )
    assert found.sentence.startswith(found.lead)
    moved = analyse(rows)[0].effects["calibration", "perplexity"]
    assert moved.size.value > analyse(rows)[0].floors["perplexity"].value
    p = min(moved.p.values())
    assert f", which so few draws cannot tell from noise (p = {p:.2f}), changing" in found.sentence


def test_one_draw_speaks_for_no_search_and_against_none():
    assert of(noise_only(draws=1), "cost") == []


def test_effects_of_one_size_are_comparable():
    rows = Grid(
        lambda cell: 3.5 + 0.3 * SOURCES.index(cell.source) + 0.3 * SEARCHES.index(cell.search)
        + 0.02 * cell.luck + 0.01 * cell.own
    ).rows()  # fmt: skip
    assert of(rows, "verdict")[0].verdict == "comparable"


def test_noise_is_called_noise():
    found = findings(noise_only())
    assert {each.verdict for each in found if each.topic == "verdict"} == {"within noise"}
    assert not [each for each in found if each.topic == "shares"]
    assert "cannot be told: ρ" in sentences(noise_only())
    assert "Nothing here speaks for a dearer search than one-shot" in sentences(noise_only())


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
    assert "no two cells differ in the search alone" in text


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


def test_a_table_without_a_cell_says_so():
    failed = [row.model_copy(update={"error": "no memory"}) for row in calibration_only(draws=1)]
    assert [each.topic for each in findings(failed)] == ["missing"]
    assert "nothing can be said" in findings(failed)[0].sentence
    assert findings([])[0].topic == "missing"


def test_cells_without_an_evaluation_say_so():
    assert "share no evaluation" in sentences(calibration_only(changes={"evaluations": ()}))


def test_the_answer_stands_first_and_every_sentence_ends():
    found = findings(calibration_only(models=("a", "b")))
    assert [each.topic for each in found[:4]] == ["verdict"] * 4
    assert all(each.sentence.endswith(".") for each in found)


def test_a_home_advantage_is_named_only_above_the_floor():
    found = of(own_domain_only(noise=0.01), "transfer")[0]
    assert "own domain made it better: −0.50 in log-perplexity" in found.sentence
    assert found.numbers["gain at home"] == pytest.approx(0.5)
    for rows in (
        noise_only(texts=("prose", "code", "poems")),
        calibration_only(texts=("prose", "code", "poems")),
    ):
        assert "no difference that can be told from noise" in of(rows, "transfer")[0].sentence


def test_the_gap_of_each_objective_is_given():
    found = of(calibration_only(objectives=("nll", "kl")), "additivity")
    assert [each.sentence.split()[5] for each in found] == ["kl", "nll"]


def test_claims_of_a_table_are_those_of_its_evidence():
    """The slow way, row by row, agrees with the arrays that are simulated on."""
    for seed in range(20):
        rows = noise_only(seed=seed, draws=2, objectives=("nll", "kl"))
        found = evidence(panel(rows))
        expected = noise.claimed(found.p.ravel(), found.size.ravel(), found.floor.ravel())
        part = analyse(rows)[0]
        claims = [
            (name if name in part.effects[factor, measure].claimed else None) is not None
            for factor in FACTORS
            for name, measure in (("prose", "perplexity"), ("arc-easy", "accuracy"))
        ]
        assert claims == expected.tolist()


def test_of_noisy_tables_few_claim_anything():
    claims = [
        any(each.verdict != "within noise" for each in of(noise_only(seed=seed), "verdict"))
        for seed in range(60)
    ]
    assert np.mean(claims) <= 0.1
