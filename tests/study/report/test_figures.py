import xml.etree.ElementTree as ET

import numpy as np
import pytest

from depthprune.report import export
from depthprune.study.report import captions, figures, maps
from depthprune.study.statistics.data import data
from depthprune.study.statistics.estimates import IntervalEstimate, NotEstimable
from depthprune.study.statistics.quality import quality_against_cost
from depthprune.study.statistics.transfer import transfer
from depthprune.study.statistics.variance import decompose
from study.planted import SEARCHES, calibration_only, noise_only, own_domain_only

SVG = "{http://www.w3.org/2000/svg}"
FIRST = np.asarray([0])


def drawings():
    made = data(own_domain_only(noise=0.02))
    points = quality_against_cost(made, "perplexity")
    sizes = [
        figures.EffectBar("calibration", IntervalEstimate(0.4, 0.3, 0.5, 20), claimed=True),
        figures.EffectBar(
            "search", IntervalEstimate(0.1, NotEstimable("one draw"), 0.2, 20), claimed=False
        ),
    ]
    ranks = np.arange(1.0, 9.0)
    return {
        "effects": figures.effect_bars([("log-perplexity", sizes, 0.15), ("x", sizes, None)]),
        "variance": figures.variance_bars(
            [("log-perplexity", decompose(data(noise_only()), FIRST))]
        ),
        "ranks": figures.rank_scatter(
            [
                figures.RankPanel("k = 3, nll", ranks, ranks[::-1], SEARCHES[:2] * 4),
                figures.RankPanel("k = 6, nll", ranks, ranks, SEARCHES[2:] * 4),
            ]
        ),
        "cost": figures.cost_front(points, perplexity=True),
        "masks": maps.mask_map(["a", "b"], np.asarray([[0, 0.5, 1.0], [1.0, 0, 0]])),
        "jaccard": maps.jaccard_map(["a", "b"], np.asarray([[1, 0.3], [0.3, np.nan]])),
        "transfer": maps.transfer_map(
            transfer(data(own_domain_only()), "perplexity"), perplexity=True
        ),
    }


NAMES = ("effects", "variance", "ranks", "cost", "masks", "jaccard", "transfer")


def svg(figure):
    return export.svg(figure, "A <title>", "What is seen")


def texts(figure):
    return ["".join(node.itertext()) for node in ET.fromstring(svg(figure)).iter(f"{SVG}text")]


@pytest.fixture(scope="module")
def drawn():
    return drawings()


@pytest.mark.parametrize("name", NAMES)
def test_every_figure_takes_its_colours_from_the_page_and_holds_no_image(drawn, name):
    source = svg(drawn[name])
    assert ET.fromstring(source).get("viewBox")
    for colour in ("#1b2129", "#3a6ea8", "#b9481f", "#d9dee4"):
        assert source.count(colour) == source.count(f", {colour})")
    assert "#000000" not in source
    assert "<image" not in source


def test_the_same_table_gives_the_same_figures():
    one, other = drawings(), drawings()
    assert all(svg(one[name]) == svg(other[name]) for name in NAMES)


def test_the_noise_floor_is_named_where_it_is_known(drawn):
    assert texts(drawn["effects"]).count("noise floor") == 1
    # There the draw has many more degrees of freedom than what stands beside it.
    assert "noise floor" not in texts(drawn["variance"])
    one_draw = decompose(data(noise_only(draws=1)), FIRST)
    assert "noise floor" not in texts(figures.variance_bars([("x", one_draw)]))


def test_what_is_not_called_an_effect_is_hatched(drawn):
    assert "<pattern" in svg(drawn["effects"])
    claimed = [figures.EffectBar("search", IntervalEstimate(0.1, 0.0, 0.2, 9), claimed=True)]
    assert "<pattern" not in svg(figures.effect_bars([("x", claimed, 0.05)]))


def test_a_term_that_one_measure_lacks_is_named(drawn):
    both = [
        ("a", decompose(data(noise_only()), FIRST)),
        ("b", decompose(data(noise_only(draws=1)), FIRST)),
    ]
    assert "not estimated" in texts(figures.variance_bars(both))


def test_a_matrix_carries_its_numbers_and_leaves_out_what_is_not_known(drawn):
    assert texts(drawn["jaccard"]).count("0.30") == 2
    assert "NaN" not in texts(drawn["jaccard"])
    assert texts(drawn["transfer"]).count("54.6") == 10


def test_a_shade_is_an_opacity(drawn):
    source = svg(drawn["masks"])
    assert "opacity: 0.5" in source


def test_ranks_are_compared_inside_one_k_and_objective():
    """Where k alone moves everything, each panel still has ranks from 1 to its own number."""
    rows = noise_only(ks=(3, 6), objectives=("nll", "kl"))
    drawing = captions.rank_scatter(data(rows))
    for name in ("k = 3, nll", "k = 3, kl", "k = 6, nll", "k = 6, kl"):
        assert f"{name}: {len(rows) // 4} cells, the best by perplexity" in drawing


def test_names_that_are_cut_to_the_same_label_keep_a_row_each():
    rows = [
        row.model_copy(
            update={
                "calibration": row.calibration.model_copy(
                    update={"name": "a" * 40 + row.calibration.name + "z" * 40}
                )
            }
        )
        for row in noise_only(searches=("greedy",))
    ]
    drawing, _ = captions.mask_map(data(rows))
    assert drawing.count("greedy: ") == len({row.calibration.name for row in rows}) == 4


def test_every_search_is_in_the_legend_and_on_the_front_s_figure(drawn):
    assert set(SEARCHES) <= set(texts(drawn["ranks"]))
    assert set(SEARCHES) <= set(texts(drawn["cost"]))


@pytest.mark.parametrize(
    "label", ["$\\frac{", "a$b$c", "_hidden", "<b>&amp;", "tab\tbell\x07", "x" * 200]
)
def test_any_label_can_be_drawn(label):
    ranks = np.arange(1.0, 4.0)
    for figure in (
        figures.rank_scatter([figures.RankPanel("k = 6", ranks, ranks, [label] * 3)]),
        maps.jaccard_map([label, "b"], np.eye(2)),
    ):
        shown = " ".join(texts(figure))
        assert label.replace("\t", " ").replace("\x07", " ")[:12].strip() in shown


def test_a_planted_calibration_fills_its_bar():
    figure = figures.variance_bars([("x", decompose(data(calibration_only()), FIRST))])
    assert "100.0" in texts(figure)


def test_a_name_that_this_machine_has_no_font_for_is_left_to_the_reader():
    """matplotlib would warn of every letter."""
    rows = [
        row.model_copy(
            update={"calibration": row.calibration.model_copy(update={"name": "\u65e5\u672c"})}
        )
        for row in noise_only(sources=("prose",))
    ]
    assert "\u65e5\u672c" in captions.mask_map(data(rows))[0]
