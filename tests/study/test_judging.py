"""Sets that workers judge: each once, whoever waits for it, and a failure as one process has it."""

from __future__ import annotations

from functools import partial
from typing import Any

from depthprune.engine.pool import Lost
from depthprune.errors import EvaluationError
from depthprune.study.evaluation import Part
from depthprune.study.judging import Judged, Judging
from depthprune.study.table import DenseRow, Evaluation

PARTS: tuple[Part, ...] = (("perplexity", "wiki"), ("accuracy", "quiz"))
WIKI = Evaluation(name="wiki", kind="perplexity", value=9.0, n=4)
QUIZ = Evaluation(name="quiz", kind="accuracy", value=0.5, n=4)


def _line(name: str, judged: Judged) -> DenseRow:
    if isinstance(judged, EvaluationError):
        return DenseRow(model=name, blocks=6, error=str(judged))
    assert isinstance(judged, tuple)
    return DenseRow(model=name, blocks=6, evaluations=judged)


def _ask(judging: Judging, removed: tuple[int, ...], name: str) -> list[Any]:
    return list(judging.ask([(removed, partial(_line, name))]))


def test_a_set_is_judged_once_however_many_lines_wait_for_it() -> None:
    work: list[tuple[Any, ...]] = [("search",)]
    judging = Judging(PARTS, work)
    assert _ask(judging, (1,), "first") == []
    assert _ask(judging, (1,), "second") == []
    assert work[1:] == [("judge", part, ((1,),)) for part in PARTS]
    assert list(judging.take(2, [QUIZ])) == []
    lines = list(judging.take(1, [WIKI]))
    assert lines == [_line("first", (WIKI, QUIZ)), _line("second", (WIKI, QUIZ))]
    assert _ask(judging, (1,), "later") == [_line("later", (WIKI, QUIZ))]
    assert len(work) == 3


def test_sets_of_one_search_are_judged_together_but_for_those_that_were_before() -> None:
    work: list[tuple[Any, ...]] = []
    judging = Judging(PARTS[:1], work)
    assert _ask(judging, (3,), "known") == []
    assert list(judging.take(0, [WIKI])) == [_line("known", (WIKI,))]
    names = {(5,): "b", (3,): "again", (1, 2): "a"}
    found = list(judging.ask([(s, partial(_line, name)) for s, name in names.items()]))
    assert found == [_line("again", (WIKI,))]
    assert work[1:] == [("judge", PARTS[0], ((1, 2), (5,)))]
    worse = WIKI.model_copy(update={"value": 11.0})
    assert list(judging.take(1, [WIKI, worse])) == [_line("a", (WIKI,)), _line("b", (worse,))]


def test_of_several_failures_the_first_in_the_order_of_a_row_is_told() -> None:
    judging = Judging(PARTS, [])
    assert _ask(judging, (2,), "cell") == []
    assert list(judging.take(1, [EvaluationError("the quiz is infinite")])) == []
    (line,) = judging.take(0, Lost("it was killed"))
    assert isinstance(line, DenseRow)
    assert line.error == "3 workers died over it: it was killed"


def test_where_nothing_judges_a_line_comes_at_once() -> None:
    work: list[tuple[Any, ...]] = []
    assert _ask(Judging((), work), (3,), "cell") == [_line("cell", ())]
    assert work == []
