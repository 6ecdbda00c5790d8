import numpy as np
import pytest

from depthprune.study.answers import Unsaid
from depthprune.study.panel import panel
from depthprune.study.transfer import Home, home, transfer

from .planted import Grid, noise_only


def own_is_best(**changes):
    """A text at home costs 3.5, elsewhere 4; planted per text, so rows are changed after."""
    rows = Grid(
        lambda cell: 3.5, lambda cell: 0.4, texts=("prose", "code", "poems"), **changes
    ).rows()
    found = []
    for row in rows:
        evaluations = tuple(
            each if each.name in (row.calibration.source, "arc-easy")
            else each.model_copy(update={"value": float(np.exp(4.0))})
            for each in row.evaluations
        )  # fmt: skip
        found.append(row.model_copy(update={"evaluations": evaluations}))
    return found


def test_the_matrix_is_calibrations_by_texts():
    found = transfer(panel(own_is_best()), "perplexity")
    assert found.calibrations == ("code", "law", "news", "prose")
    assert found.evaluations == ("prose", "code", "poems")
    assert found.mean == pytest.approx(np.asarray([[4, 3.5, 4], [4, 4, 4], [4, 4, 4], [3.5, 4, 4]]))
    assert np.argwhere(found.same).tolist() == [[0, 1], [3, 0]]
    assert found.cells == (12, 12, 12, 12)


def test_home_is_compared_with_elsewhere():
    assert home(transfer(panel(own_is_best()), "perplexity")) == Home(3.5, 4.0, 2)


def test_only_what_every_calibration_was_run_with_is_averaged():
    rows = [row for row in own_is_best() if row.search != "beam" or row.calibration.name == "prose"]
    found = transfer(panel(rows), "perplexity")
    assert found.cells == (9, 9, 9, 9)


def test_what_was_not_measured_is_said():
    assert isinstance(transfer(panel(Grid(lambda cell: 3.5).rows()), "accuracy"), Unsaid)
    accuracies = transfer(panel(noise_only()), "accuracy")
    assert isinstance(home(accuracies), Unsaid)
    apart = [r for r in noise_only() if (r.calibration.name == "prose") == (r.search == "beam")]
    assert isinstance(transfer(panel(apart), "perplexity"), Unsaid)
