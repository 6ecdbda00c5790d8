import math
import xml.etree.ElementTree as ET

import matplotlib
import pytest

from depthprune.manifest import BlockScore, PathPoint
from depthprune.report import export, figures

from .examples import REMOVED, block_scores, full, path

NAMES = ("mask", "many", "blocks", "path", "speed")
SVG = "{http://www.w3.org/2000/svg}"


def drawings():
    return {
        "mask": figures.mask_strip(30, REMOVED, [0, 29]),
        "many": figures.mask_strip(96, [40, 95]),
        "blocks": figures.block_bars(block_scores(), REMOVED, 3.106),
        "path": figures.path_curve(path(), limit=3.5, chosen=6),
        "speed": figures.speed_bars(full().speed),
    }


def svg(figure):
    return export.svg(figure, "A <title> & more", "What is seen")


def texts(figure):
    return ["".join(node.itertext()) for node in ET.fromstring(svg(figure)).iter(f"{SVG}text")]


@pytest.mark.parametrize("name", NAMES)
def test_svg_is_well_formed_and_named(name):
    root = ET.fromstring(svg(drawings()[name]))
    assert root.tag == f"{SVG}svg"
    assert root.find(f"{SVG}title").text == "A <title> & more"
    assert root.find(f"{SVG}desc").text == "What is seen"
    assert root.get("role") == "img"
    assert root.get("aria-label") == "A <title> & more"
    assert root.get("viewBox")
    assert root.get("width") is None


@pytest.mark.parametrize("name", NAMES)
def test_the_same_figure_gives_the_same_svg(name):
    assert svg(drawings()[name]) == svg(drawings()[name])


@pytest.mark.parametrize("name", NAMES)
def test_svg_takes_every_colour_from_the_page(name):
    drawn = svg(drawings()[name])
    for colour in ("#1b2129", "#3a6ea8", "#b9481f"):
        assert drawn.count(colour) == drawn.count(f", {colour})")
    assert "#000000" not in drawn
    assert "<style" not in drawn


def test_ids_differ_between_figures_of_one_page():
    ids = []
    for figure in drawings().values():
        found = [node.get("id") for node in ET.fromstring(svg(figure)).iter() if node.get("id")]
        assert len(found) == len(set(found))
        ids += found
    assert len(ids) == len(set(ids))


def test_every_reference_within_an_svg_is_met():
    drawn = svg(drawings()["blocks"])
    root = ET.fromstring(drawn)
    ids = {node.get("id") for node in root.iter()}
    assert {node.get("href")[1:] for node in root.iter(f"{SVG}use")} <= ids
    assert {part.split(")")[0] for part in drawn.split("url(#")[1:]} <= ids


def test_text_stays_text():
    assert {str(block) for block in range(30)} <= set(texts(drawings()["mask"]))
    assert "blocks removed, k" in texts(drawings()["path"])


def test_removed_blocks_are_marked_without_colour():
    assert texts(figures.mask_strip(30, REMOVED)).count("×") == len(REMOVED)
    assert "<pattern" in svg(drawings()["mask"])
    assert "<pattern" in svg(drawings()["blocks"])


def test_a_bar_that_runs_off_the_axis_carries_its_value():
    figure = drawings()["blocks"]
    assert {"9.9", "1.3"} <= set(texts(figure))
    assert figure.axes[0].get_ylim()[1] < 1


def test_a_loss_that_is_not_finite_is_written_in_place_of_its_bar():
    scores = block_scores()[:6]
    for block, value in ((2, math.nan), (4, math.inf)):
        scores[block] = BlockScore(
            block=block, loss=value, stderr=math.nan, increase=value, increase_stderr=math.nan
        )
    assert {"NaN", "∞"} <= set(texts(figures.block_bars(scores)))


def test_bars_are_drawn_where_no_loss_is_finite():
    nan = math.nan
    score = BlockScore(block=0, loss=nan, stderr=nan, increase=nan, increase_stderr=nan)
    assert "NaN" in texts(figures.block_bars([score], removed=[0]))


def test_a_loss_that_falls_is_within_the_axis():
    score = BlockScore(block=0, loss=2.9, stderr=0.1, increase=-0.3, increase_stderr=0.05)
    assert figures.block_bars([score]).axes[0].get_ylim()[0] < -0.35


def test_a_path_starts_at_the_whole_model():
    points = [PathPoint(k=1, removed=[3], loss=3.2, held_out=3.3, held_out_stderr=0.1)]
    axes = figures.path_curve(points, dense=3.1, held_out_dense=3.2).axes[0]
    assert [list(line.get_xdata()) for line in axes.lines[:1]] == [[0, 1]]


def test_a_path_without_held_out_losses_is_drawn():
    points = [PathPoint(k=k, removed=list(range(k)), loss=3.0 + k) for k in range(3)]
    assert "held out" not in texts(figures.path_curve(points))


def test_a_user_style_changes_nothing():
    before = svg(drawings()["blocks"])
    with matplotlib.rc_context({"font.size": 20, "axes.facecolor": "red", "hatch.linewidth": 9}):
        assert svg(drawings()["blocks"]) == before


def test_png_is_written_without_a_time_stamp(tmp_path):
    for name in ("a.png", "b.png"):
        export.png(drawings()["mask"], tmp_path / name)
    first = (tmp_path / "a.png").read_bytes()
    assert first.startswith(b"\x89PNG")
    assert first == (tmp_path / "b.png").read_bytes()
