"""What a grid cannot answer is named before anything runs, and refused where it is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from depthprune.errors import UsageError
from depthprune.study.estimable import check_estimable
from depthprune.study.grid import Grid, read_grid
from depthprune.study.plan import Margin, Stated

PLAN: dict[str, Any] = {
    "models": "demo",
    "k": [3, 6],
    "calibrations": dict.fromkeys(("a", "b", "c"), "stdlib-code,windows=4"),
    "objectives": ["nll", "kl"],
    "searches": ["one-shot", "greedy"],
    "draws": 3,
    "texts": {"code": "stdlib-code,windows=2"},
}
ITEMS = "choices:arc.jsonl,windows=8"


def _grid(folder: Path, **changes: Any) -> Grid:
    path = folder / "plan.yaml"
    path.write_text(yaml.safe_dump({**PLAN, **changes}, sort_keys=False), encoding="utf-8")
    return read_grid(path)


def test_a_crossed_plan_of_three_sources_and_three_draws_answers_everything(tmp_path: Path) -> None:
    assert check_estimable(_grid(tmp_path, test="joint")) == []


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"draws": 1}, "the noise of the draw, any test and any interval (one draw; run three"),
        ({"draws": 2}, "the interval of the difference between calibration and search (two draws"),
        ({"searches": "greedy"}, "what the search moves (one search only, greedy)"),
        (
            {"calibrations": {"a": "stdlib-code"}},
            "what the calibration moves (one calibration only, a)",
        ),
        (
            {"calibrations": {"a": {"spec": "stdlib-code", "length": [64, 128]}}},
            "what the source moves (one source only, a)",
        ),
        ({"texts": {}}, "what any set is worth (name texts or choices to judge on)"),
        (
            {"exclude": [{"search": "greedy", "calibration": ["b", "c"]}]},
            "the effect of search greedy (not crossed",
        ),
        (
            {"exclude": [{"calibration": "c", "objective": "kl"}]},
            "the effect of calibration c (not crossed",
        ),
        ({"exclude": [{"k": 6, "draw": [1, 2]}]}, "the effect of k 6 (not crossed"),
        (
            {"calibrations": {**PLAN["calibrations"], "q": ITEMS}, "objectives": ["nll"]},
            "choices calibrations: what the calibration moves (one calibration only, q)",
        ),
    ],
)
def test_what_is_open_is_named_and_refused_where_the_plan_asks_for_it(
    changes: dict[str, Any], line: str, tmp_path: Path
) -> None:
    found = check_estimable(_grid(tmp_path, **changes))
    assert any(each.startswith(line) for each in found), found
    with pytest.raises(UsageError) as caught:
        check_estimable(_grid(tmp_path, test="joint", **changes))
    assert str(caught.value).startswith("test: joint, and the grid cannot estimate ")
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_question_that_the_joint_test_does_not_ask_is_only_named(tmp_path: Path) -> None:
    changes = {"objectives": ["nll"], "calibrations": {"a": "stdlib-code", "b": "stdlib-prose"}}
    assert check_estimable(_grid(tmp_path, test="joint", **changes)) == [
        "on which source an answer rests (two sources; leaving one out needs three)",
        "what the objective moves (one objective only, nll)",
    ]


@pytest.mark.parametrize("name", ["balanced", "large"])
def test_the_balanced_recipes_answer_the_joint_test(name: str) -> None:
    grid = read_grid(Path(__file__).parents[2] / "docs" / "recipes" / f"{name}.yaml")
    assert grid.plan.test == "joint"
    assert grid.plan.margin is not None
    assert check_estimable(grid) == []
    draws = {each: {c.draw for c in grid.cells if c.model == each} for each in grid.plan.models}
    assert all(len(each) == {"balanced": 6, "large": 8}[name] for each in draws.values())


def test_the_papers_own_grid_says_what_it_cannot_tell() -> None:
    grid = read_grid(Path(__file__).parents[2] / "docs" / "recipes" / "paper-v1.yaml")
    assert list(grid.texts) == ["wikitext-2", "c4", "lambada"]
    assert any("one draw" in line for line in check_estimable(grid))


def test_what_holds_of_one_model_is_said_of_it(tmp_path: Path) -> None:
    left = [{"model": "other", "search": "greedy"}, {"model": "third", "search": "greedy"}]
    grid = _grid(tmp_path, models=["demo", "other", "third"], exclude=left)
    assert check_estimable(grid) == [
        "other, third: what the search moves (one search only, one-shot)"
    ]


def test_what_all_models_lack_is_said_once(tmp_path: Path) -> None:
    found = check_estimable(_grid(tmp_path, models=["demo", "other"], objectives="nll"))
    assert found == ["what the objective moves (one objective only, nll)"]


def test_fewer_items_than_the_plan_states_are_refused(tmp_path: Path) -> None:
    items = {"arc": "choices:arc.jsonl,windows=250"}
    assert check_estimable(_grid(tmp_path, choices=items, least_items=250)) == []
    with pytest.raises(UsageError, match=r"choices\.arc: least_items is 500, got 250 items"):
        check_estimable(_grid(tmp_path, choices=items, least_items=500))


def test_what_was_stated_is_part_of_what_the_plan_is(tmp_path: Path) -> None:
    plain = _grid(tmp_path).fingerprint
    stated = _grid(tmp_path, margin={"perplexity": 0.05})
    assert stated.plan.margin == Margin(perplexity=0.05, accuracy=0.01)
    fingerprints = {
        plain,
        stated.fingerprint,
        _grid(tmp_path, margin={"perplexity": 0.06}).fingerprint,
        _grid(tmp_path, test="joint").fingerprint,
    }
    assert len(fingerprints) == 4
    assert _grid(tmp_path, least_items=1).fingerprint == plain


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"margin": {"perplexity": 0}}, "margin.perplexity: "),
        ({"margin": {"accuracy": 1.5}}, "margin.accuracy: "),
        ({"margin": {"loss": 0.1}}, "margin.loss: unknown key"),
        ({"margin": 0.1}, "margin: "),
        ({"test": "pairwise"}, "test: "),
        ({"least_items": 0}, "least_items: "),
    ],
)
def test_what_cannot_be_stated_is_refused(
    changes: dict[str, Any], words: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError) as caught:
        _grid(tmp_path, **changes)
    assert words in str(caught.value)


def test_a_stored_plan_says_what_it_stated() -> None:
    assert Stated.of({"margin": {"accuracy": 0.02}, "test": "joint", "more": 1}) == Stated(
        Margin(accuracy=0.02), has_margin=True, has_test=True
    )
    assert Stated.of({}) == Stated.of(None) == Stated()
    with pytest.raises(UsageError, match=r"here: margin: accuracy: "):
        Stated.of({"margin": {"accuracy": -1}}, "here")
