import pytest

from depthprune.study.statistics.estimates import NotEstimable
from depthprune.study.statistics.masks import (
    Contiguity,
    contiguity,
    masks,
)

# SmolLM2-135M, k = 6, one-shot on NLL of 8,192 WikiText tokens, and on option cross-entropy.
BY_NLL = (3, 4, 12, 13, 14, 26)
BY_OPTIONS = (5, 13, 17, 18, 19, 26)


def test_masks_are_rows_of_booleans():
    assert masks([(0, 2), ()], 3).tolist() == [[True, False, True], [False, False, False]]


def test_contiguity_of_published_sets():
    assert contiguity(BY_NLL, 30) == Contiguity(3, 3, 24, 12 / 29)
    assert contiguity(BY_OPTIONS, 30) == Contiguity(4, 3, 22, pytest.approx(98 / 6 / 29))


@pytest.mark.parametrize(
    ("removed", "blocks", "expected"),
    [
        ((4,), 8, Contiguity(1, 1, 1, 4 / 7)),
        ((7, 0), 8, Contiguity(2, 1, 8, 0.5)),
        ((2, 3, 4), 8, Contiguity(1, 3, 3, 3 / 7)),
        ((0,), 1, Contiguity(1, 1, 1, 0.0)),
    ],
)
def test_contiguity_by_hand(removed, blocks, expected):
    assert contiguity(removed, blocks) == expected


def test_nothing_is_said_of_nothing():
    assert isinstance(contiguity((), 8), NotEstimable)
