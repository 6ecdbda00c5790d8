"""The protocol is all that a search from elsewhere needs, and the built-in ones keep it."""

from __future__ import annotations

import inspect
import random

import pytest

from depthprune.evaluator import Score
from depthprune.searches import (
    SEARCHES,
    Ask,
    ChosenSize,
    Measure,
    Search,
    Space,
    search,
)
from depthprune.searches.common.protocol import Plan
from landscapes import additive


class Reversed:
    """The last k blocks: a search that another package could bring."""

    name = "reversed"
    summary = "the last k blocks"
    grows = False

    def plan(self, space: Space, rng: random.Random):
        chosen = space.free[-space.k :]
        (score,) = yield Ask((chosen,), keep=1)
        assert isinstance(score, Score)
        return chosen


def test_a_search_may_be_given_itself_instead_of_its_name() -> None:
    result = search(Reversed(), additive([0.1, 0.2, 0.3, 0.4]), k=2)
    assert (result.removed, result.search, result.path) == ((2, 3), "reversed", ())
    assert result.cost.evaluations == 1


def test_a_search_is_sent_the_scores_in_the_order_it_asked() -> None:
    told: list[float] = []

    class Probe(Reversed):
        def plan(self, space: Space, rng: random.Random):
            scores = yield Ask(((2,), (0,), (1, 3)), keep=3)
            told.extend(score.loss for score in scores)
            return (2, 3)

    search(Probe(), additive([0.1, 0.2, 0.3, 0.4]), k=2)
    assert told == pytest.approx([1.3, 1.1, 1.6])


@pytest.mark.parametrize("name", SEARCHES.names())
def test_a_search_goes_by_its_name_and_says_what_it_does(name: str) -> None:
    algorithm: Search = SEARCHES.get(name)()
    assert algorithm.name == name
    assert algorithm.summary
    assert "\n" not in algorithm.summary
    assert inspect.isgenerator(algorithm.plan(Space(4, 2, (0, 1, 2, 3)), random.Random(0)))


@pytest.mark.parametrize("name", [n for n in SEARCHES.names() if SEARCHES.get(n)().grows])
def test_a_search_that_grows_reports_every_size_in_turn(name: str) -> None:
    # The last three blocks are the cheapest, so that the blind control takes them too.
    landscape, sizes = additive([0.9, 0.4, 0.7, 0.1, 0.2, 0.3]), []

    def play(plan: Plan):
        answer = None
        while True:
            event = plan.send(answer)
            if isinstance(event, ChosenSize):
                sizes.append(len(event.removed))
                answer = False
            elif isinstance(event, Measure):
                answer = landscape.measure(event.name)
            else:
                answer = landscape.score(event.sets)

    with pytest.raises(StopIteration) as stopped:
        play(SEARCHES.get(name)().plan(Space(6, 3, tuple(range(6))), random.Random(0)))
    assert stopped.value.value == (3, 4, 5)
    assert sizes == [1, 2, 3]
