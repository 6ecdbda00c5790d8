"""A search's parameters are written behind its name, and its name says those not the defaults."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest

from depthprune.errors import UsageError
from depthprune.searches import (
    SEARCHES,
    make_search,
    search,
)
from landscapes import additive, rugged

DAMAGE = [0.9, 0.2, 0.7, 0.1, 0.4, 0.3]


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("beam", "beam"),
        ("beam:width=5", "beam"),
        ("beam:width=8", "beam:width=8"),
        ("genetic:mutation=0.3,population=8", "genetic:population=8,mutation=0.3"),
        ("local-search:start=random", "local-search:start=random"),
        ("evolution:few=0.125", "evolution:few=0.125"),
        ("exhaustive:limit=100", "exhaustive:limit=100"),
    ],
)
def test_the_name_of_a_search_makes_it_again(text: str, name: str) -> None:
    made = make_search(text)
    assert made.name == name
    assert make_search(name) == made


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("beam:with=8", "search beam: unknown parameter 'with=8'; expected width="),
        ("beam:name=x", "search beam: unknown parameter 'name=x'; expected width="),
        ("beam:width", "search beam: unknown parameter 'width'; expected width="),
        ("beam:width=wide", "search beam: width: expected a whole number, got 'wide'"),
        ("beam:width=0", "search beam: width: expected 1 or more, got 0"),
        ("beam:width=2,width=3", "search beam: width is given twice; give it once"),
        ("greedy:width=2", "search greedy: unknown parameter 'width=2'; it takes none"),
        ("genetic:mutation=nan", "search genetic: mutation: expected 0 to 1, got nan"),
        ("genetic:mutation=5", "search genetic: mutation: expected 0 to 1, got 5"),
        ("genetic:elitism=1.5", "search genetic: elitism: expected 0 to 1, got 1.5"),
        ("annealing:heat=inf", "search annealing: heat: expected 0 or more, got inf"),
        ("evolution:many=2", "search evolution: many: expected 1e-09 to 1, got 2"),
        ("genetic:population=3", "search genetic: population: expected 4 or more, got 3"),
        ("bayesian:trials=0", "search bayesian: trials: expected 1 or more, got 0"),
        ("cbo:candidates=0", "search cbo: candidates: expected 1 or more, got 0"),
        ("evolution:few=0", "search evolution: few: expected 1e-09 to 1, got 0"),
        ("local-search:start=greedy", "start: expected one-shot or random, got 'greedy'"),
        ("baem", "unknown search 'baem'; did you mean 'beam'"),
    ],
)
def test_a_wrong_parameter_is_refused_in_one_line(text: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        make_search(text)
    assert message in str(caught.value)


def test_the_result_has_the_name_with_its_parameters() -> None:
    assert search("beam:width=2", additive(DAMAGE), k=2).search == "beam:width=2"
    assert search("beam:width=5", additive(DAMAGE), k=2).search == "beam"


@pytest.mark.parametrize("name", SEARCHES.names())
def test_the_summary_names_every_parameter(name: str) -> None:
    made: Any = make_search(name)
    assert [f.name for f in fields(made) if f"{f.name}=" not in made.summary] == []


def test_a_beam_of_width_1_is_greedy() -> None:
    for seed in range(3):
        narrow = search("beam:width=1", rugged(12, seed), k=4)
        assert narrow.removed == search("greedy", rugged(12, seed), k=4).removed
        wide = search("beam:width=400", rugged(12, seed), k=4)
        assert wide.removed == search("exhaustive", rugged(12, seed), k=4).removed


def test_local_search_ends_where_no_swap_improves() -> None:
    landscape = rugged(12, 4)
    found = search("local-search:start=random", landscape, k=4)
    for out in found.removed:
        for into in set(range(12)) - set(found.removed):
            swapped = tuple(sorted({*found.removed, into} - {out}))
            assert landscape._loss(swapped) >= found.score.loss


@pytest.mark.parametrize(("name", "library"), [("bayesian", "sklearn"), ("cbo", "ortools")])
def test_a_missing_library_is_named_with_its_extra_before_anything_is_paid_for(
    name: str, library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(module: str) -> Any:
        assert module.partition(".")[0] == library
        raise ModuleNotFoundError(module)

    monkeypatch.setattr("depthprune.extras.import_module", missing)
    landscape = additive(DAMAGE)
    with pytest.raises(UsageError) as caught:
        search(name, landscape, k=2)
    assert str(caught.value) == (
        f"search {name}: needs {library}, which is not installed; "
        "run: pip install 'depthprune[search]'"
    )
    assert landscape.calls == []
