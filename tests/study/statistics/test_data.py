import math

import numpy as np

from depthprune.study.statistics.data import Response, data
from study.planted import Grid, calibration_only, noise_only


def test_perplexities_are_logged_and_accuracies_are_not():
    rows = Grid(lambda cell: 3.5, lambda cell: 0.4, draws=1).rows()
    made = data(rows)
    assert made.responses == (Response("prose", "perplexity"), Response("arc-easy", "accuracy"))
    assert np.allclose(made.values, [[3.5, 0.4]] * len(rows))


def test_a_unit_is_one_draw_of_one_calibration():
    made = data(noise_only(draws=3))
    assert made.count("unit") == 4 * 3
    for unit in range(12):
        inside = made.codes["unit"] == unit
        assert inside.sum() == 4
        assert len(set(made.codes["calibration"][inside])) == 1


def test_what_only_some_cells_have_is_named():
    rows = noise_only()
    rows[0] = rows[0].model_copy(update={"evaluations": rows[0].evaluations[:1]})
    made = data(rows)
    assert made.responses == (Response("prose", "perplexity"),)
    assert made.partial == (Response("arc-easy", "accuracy"),)


def test_cells_that_failed_or_broke_down_are_left_out():
    rows = noise_only()
    broken = rows[1].evaluations[0].model_copy(update={"value": math.inf})
    rows[0] = rows[0].model_copy(update={"error": "no memory"})
    rows[1] = rows[1].model_copy(update={"evaluations": (broken, rows[1].evaluations[1])})
    made = data(rows)
    assert len(made.rows) == len(rows) - 2
    assert made.left_out == 1


def test_a_panel_is_of_one_model_and_kind_when_asked():
    rows = calibration_only(models=("a", "b")) + calibration_only(models=("a",), kind="choices")
    assert {row.model for row in data(rows, model="b").rows} == {"b"}
    assert {row.calibration.kind for row in data(rows, kind="choices").rows} == {"choices"}
    assert len(data(rows).rows) == 48 * 3


def test_an_empty_table_is_an_empty_panel():
    made = data([])
    assert made.values.shape == (0, 0)
    assert made.responses == ()


def test_joint_codes_tell_every_combination_apart():
    made = data(noise_only(draws=1))
    assert len(set(made.joint("calibration", "search"))) == 16
    assert set(made.joint()) == {0}
