"""A plan becomes its cells; what is wrong with it is said at once."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from depthprune.errors import UsageError
from depthprune.study.grid import Grid, check_files, read_grid

PLAN: dict[str, Any] = {
    "models": "demo",
    "k": [3, 6],
    "calibrations": {
        "prose": {"spec": "stdlib-prose,windows=4", "length": [64, 128]},
        "code": "stdlib-code,windows=4",
        "arc": "choices:arc.jsonl,windows=8",
    },
    "objectives": ["nll", "option-ce"],
    "searches": ["one-shot", "greedy"],
    "draws": 2,
}


def _grid(folder: Path, **changes: Any) -> Grid:
    path = folder / "plan.yaml"
    path.write_text(yaml.safe_dump({**PLAN, **changes}, sort_keys=False), encoding="utf-8")
    return read_grid(path)


def test_every_combination_is_a_cell_but_for_what_cannot_be_judged(tmp_path: Path) -> None:
    grid = _grid(tmp_path)
    assert list(grid.calibrations) == ["prose/length=64", "prose/length=128", "code", "arc"]
    # Text has nll, items have both; two k, two searches, two draws.
    assert len(grid.cells) == (3 * 1 + 1 * 2) * 2 * 2 * 2
    assert grid.unfit == 3 * 8
    assert len(set(grid.cells)) == len(grid.cells)


def test_what_shares_a_draw_stands_together_the_largest_k_first(tmp_path: Path) -> None:
    grid = _grid(tmp_path, calibrations={"code": "stdlib-code,windows=4"}, objectives="nll")
    order = [(cell.draw, cell.search, cell.k) for cell in grid.cells]
    assert order[:4] == [(0, "one-shot", 6), (0, "one-shot", 3), (0, "greedy", 6), (0, "greedy", 3)]


def test_excluded_cells_are_left_out_by_level_or_by_family(tmp_path: Path) -> None:
    grid = _grid(
        tmp_path,
        exclude=[{"calibration": "prose", "search": "greedy"}, {"k": [3], "calibration": "code"}],
    )
    assert not any(c.calibration.startswith("prose") and c.search == "greedy" for c in grid.cells)
    assert {c.k for c in grid.cells if c.calibration == "code"} == {6}
    assert any(c.calibration.startswith("prose") for c in grid.cells)


def test_paths_are_resolved_against_the_plan(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    grid = _grid(tmp_path, models=["model", "demo"], texts={"t": "text:sub/t.txt,windows=2"})
    assert grid.calibrations["arc"].specs[0].target == str(tmp_path / "arc.jsonl")
    assert grid.texts["t"][0].target == str(tmp_path / "sub" / "t.txt")
    assert grid.place("model") == str(tmp_path / "model")
    assert grid.place("demo") == "demo"


@pytest.mark.parametrize("budget", [200, "200", "5e7bt"])
def test_a_budget_is_a_number_of_evaluations_or_words(tmp_path: Path, budget: int | str) -> None:
    assert _grid(tmp_path, budget=budget).plan.budget == str(budget)


def test_what_finalists_are_judged_on_decides_nothing_about_a_cell(tmp_path: Path) -> None:
    texts = {"t": "stdlib-code,windows=2"}
    before = _grid(tmp_path, texts=texts)
    more = _grid(
        tmp_path,
        texts=texts,
        finalists=5,
        tasks=["arc_easy", "mine.yaml"],
        generate={"sums": "jsonl:sums.jsonl,prompt=q,answer=a,format=few-shot,shots=2"},
    )
    assert more.fingerprint == before.fingerprint
    assert more.tasks == ("arc_easy", str(tmp_path / "mine.yaml"))
    assert more.problems["sums"].target == str(tmp_path / "sums.jsonl")
    assert more.problems["sums"].mask == "answer"
    assert more.plan.generate["sums"].max_new_tokens == 256


def test_files_that_are_missing_are_all_named_before_anything_runs(tmp_path: Path) -> None:
    (tmp_path / "arc.jsonl").write_text("", encoding="utf-8")
    grid = _grid(
        tmp_path,
        texts={"t": "text:no.txt,windows=2"},
        choices={"c": "choices:arc.jsonl,windows=2,against=seen.txt"},
        tasks=["arc_easy", "mine.yaml"],
        generate={"sums": "jsonl:sums.jsonl,prompt=q,answer=a,format=few-shot,shots=2"},
    )
    with pytest.raises(UsageError) as caught:
        check_files(grid)
    words = str(caught.value)
    for name in ("texts.t: no such", f"choices.c: no such file {tmp_path / 'seen.txt'}"):
        assert name in words
    for name in ("tasks: no such file", "generate.sums: no such file"):
        assert name in words
    assert "arc_easy" not in words
    assert "arc.jsonl" not in words


def test_a_device_that_is_not_there_is_named_before_anything_runs(tmp_path: Path) -> None:
    (tmp_path / "arc.jsonl").write_text("", encoding="utf-8")
    check_files(_grid(tmp_path, device="cpu"))
    with pytest.raises(UsageError, match="device: --device: expected auto, cpu, cuda"):
        check_files(_grid(tmp_path, device="abacus"))


def test_the_fingerprint_is_of_what_decides_a_result(tmp_path: Path) -> None:
    before = _grid(tmp_path).fingerprint
    assert _grid(tmp_path, name="another").fingerprint == before
    assert _grid(tmp_path, draws=3).fingerprint != before
    assert _grid(tmp_path, exact=True).fingerprint != before


def test_a_plan_that_moves_with_its_files_keeps_its_fingerprint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = {"t": "text:sub/t.txt,windows=2,against=../seen.txt;/data/all.txt"}
    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    before = _grid(tmp_path / "here", texts=texts).fingerprint
    assert _grid(tmp_path / "there", texts=texts).fingerprint == before
    monkeypatch.chdir(tmp_path / "here")
    assert _grid(Path("."), texts=texts).fingerprint == before
    assert _grid(Path("."), texts={"t": "text:t.txt,windows=2"}).fingerprint != before


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sizes": [3]}, "sizes: unknown key"),
        ({"k": []}, "k: "),
        ({"models": []}, "models: "),
        ({"searches": []}, "searches: "),
        ({"objectives": []}, "objectives: "),
        ({"draws": 0}, "draws: "),
        ({"seeds": []}, "seeds: "),
        ({"finalists": 0}, "finalists: "),
        ({"task_items": 0}, "task_items: "),
        ({"tasks": "arc_easy"}, "finalists are chosen by what texts or choices say"),
        ({"tasks": ["a", "b", "a"]}, "tasks: expected each once"),
        ({"generate": {"g": {"spec": "stdlib-code", "tokens": 4}}}, "generate.g.tokens: unknown"),
        ({"generate": {"g": {"max_new_tokens": 4}}}, "generate.g.spec: "),
        ({"generate": {"g": "stdlib-code"}}, "generate.g: expected one source of questions"),
        ({"generate": {"g": "jsonl:q,prompt=q,answer=a"}}, "with format=zero-shot"),
        ({"generate": {"g": "choices:arc.jsonl,format=few-shot,shots=1"}}, "questions and answers"),
        ({"k": [0]}, "k.0: "),
        ({"searches": ["gredy"]}, "searches: unknown search 'gredy'"),
        ({"objectives": ["nil"]}, "objectives: unknown objective 'nil'"),
        ({"calibrations": {}}, "calibrations: "),
        ({"calibrations": {"a": "txt:x"}}, "calibrations.a: unknown calibration source 'txt'"),
        ({"calibrations": {"a": {"length": [3]}}}, "calibrations.a: expected spec and axes"),
        ({"calibrations": {"a": {"spec": "stdlib-code", "length": []}}}, "at least one value"),
        ({"exclude": [{"searches": "greedy"}]}, "exclude.0: expected model, k"),
        ({"homes": {"x": "prose"}}, "homes.x: expected a name of texts"),
        ({"budget": "lots"}, "budget: --budget"),
        ({"protect": "first"}, "protect: protect 'first': expected block numbers"),
        ({"dtype": "float8"}, "dtype: --dtype: expected auto, float32"),
        ({"choices": {"c": "stdlib-code"}}, "choices.c: expected items, from a choices: source"),
        ({"k": True}, "k: value error, expected no true or false; got true"),
        ({"draws": [True]}, "draws: value error, expected no true or false"),
        ({"margin": {"accuracy": True}}, "margin.accuracy: value error, expected no true or"),
        ({"exclude": [{"draw": True}]}, "exclude.0: expected a level, or a list of levels"),
        ({"texts": {"t": "text:"}}, "texts.t: "),
        ({"objectives": "option-ce", "calibrations": {"a": "stdlib-code"}}, "no cell is left"),
    ],
)
def test_what_is_wrong_with_a_plan_is_said(
    changes: dict[str, Any], words: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError) as caught:
        _grid(tmp_path, **changes)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_all_that_is_wrong_is_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        _grid(tmp_path, searches=["gredy"], objectives=["nil"], texts={"t": "txt:a"})
    assert all(word in str(caught.value) for word in ("gredy", "nil", "txt"))


@pytest.mark.parametrize("content", [b"[1, 2]", b"a: [", b"\xff\xfe"])
def test_a_file_that_is_no_plan_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "plan.yaml"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=r"plan\.yaml"):
        read_grid(path)
    with pytest.raises(UsageError, match="cannot be read"):
        read_grid(tmp_path / "none.yaml")


def test_the_recipes_are_plans() -> None:
    recipes = sorted((Path(__file__).parents[2] / "docs" / "recipes").glob("*.yaml"))
    assert [path.stem for path in recipes] == [
        "balanced", "large", "paper-smol", "paper-v1", "quick", "two-families",
    ]  # fmt: skip
    for path in recipes:
        assert read_grid(path).cells


def test_what_a_calibration_reads_is_judged_on_the_part_that_no_draw_sees(tmp_path: Path) -> None:
    grid = _grid(
        tmp_path,
        texts={"code": "stdlib-code,windows=2,seed=9", "prose": "stdlib-prose", "w": "text:w.txt"},
        choices={"arc": "choices:arc.jsonl", "test": "choices:arc-test.jsonl"},
    )
    judged = {**grid.texts, **grid.choices}
    assert {name: grid.split_of(specs) for name, specs in judged.items()} == {
        "code": "held-out",
        "prose": "held-out",
        "w": "whole",
        "arc": "held-out",
        "test": "whole",
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"draws": 100_000_000}, "draws: .*expected 1 to 100,000, .* got 100000000"),
        ({"draws": 0}, "draws: .*expected 1 to 100,000, or a list of draws; got 0"),
        ({"budget": 0.0}, "budget: .*above 0; got 0"),
        ({"draws": 90_000, "k": [1, 2, 3]}, "the axes of its grid have .* combinations"),
        (
            {
                "calibrations": {
                    "a": {
                        "spec": "stdlib-code",
                        "seed": list(range(99)),
                        "length": [*range(32, 99)],
                    }
                }
            },
            "its axes have 6633 combinations, expected at most 2,000",
        ),
        ({"exclude": [{"k": [[1]]}]}, "exclude.0: expected a level, or a list of levels"),
        (
            {"calibrations": {"a": [{"b": 1}]}},
            "calibrations.a: expected a spec, or a list",
        ),
        ({"k": 2**70}, "beyond 64 bits"),
    ],
)
def test_a_plan_that_no_one_could_run_is_refused_before_it_is_written_out(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        _grid(tmp_path, **changes)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_a_pipe_is_no_plan(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "plan.yaml")
    with pytest.raises(UsageError, match="expected a file, found a pipe"):
        read_grid(tmp_path / "plan.yaml")


@pytest.mark.parametrize("key", ["models", "k", "objectives", "searches", "draws", "seeds"])
def test_a_level_given_twice_is_refused(tmp_path: Path, key: str) -> None:
    levels = {"models": ["demo"], "draws": [0], "seeds": [0]}.get(key) or PLAN[key]
    with pytest.raises(UsageError, match=f"{key}: expected each once"):
        _grid(tmp_path, **{key: [*levels, levels[0]]})


@pytest.mark.parametrize(
    ("key", "spellings"),
    [
        ("searches", ["beam", "beam:width=5"]),
        ("objectives", ["kl", "kl:top=0"]),
        ("searches", ["annealing:steps=20,heat=1", "annealing:heat=1.0,steps=20"]),
    ],
)
def test_two_spellings_of_one_level_are_refused(
    key: str, spellings: list[str], tmp_path: Path
) -> None:
    first, second = spellings
    with pytest.raises(UsageError, match=f"{key}: {first} and {second} are one; name it once"):
        _grid(tmp_path, **{key: spellings})


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"k": "3"}, "exclude.0: k: the plan has no '3'; name one of 3, 6"),
        ({"search": "gredy"}, "exclude.0: search: the plan has no 'gredy'; name one of one-shot"),
        ({"draw": [0, 2]}, "exclude.0: draw: the plan has no 2; name one of 0, 1"),
        ({"calibration": "prose/length=32"}, "the plan has no 'prose/length=32'; name one of"),
    ],
)
def test_excluding_what_the_plan_does_not_have_is_refused(
    tmp_path: Path, entry: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        _grid(tmp_path, exclude=[entry])


def test_two_configurations_of_one_name_are_refused(tmp_path: Path) -> None:
    made = {**PLAN["calibrations"], "prose/length=64": "stdlib-code,windows=4"}
    with pytest.raises(UsageError, match="prose/length=64 is another's name too; name each once"):
        _grid(tmp_path, calibrations=made)


@pytest.mark.parametrize("spec", ["text:sub/../w.txt", "text:link.txt", "jsonl:w.txt"])
def test_a_file_is_held_out_by_whatever_name_it_is_judged_on(tmp_path: Path, spec: str) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "w.txt").write_text("a river\n", encoding="utf-8")
    (tmp_path / "link.txt").symlink_to("w.txt")
    grid = _grid(
        tmp_path,
        calibrations={"w": "text:w.txt,windows=2"},
        objectives="nll",
        texts={"same": f"{spec},windows=2", "other": "text:o.txt,windows=2"},
    )
    assert {name: grid.split_of(specs) for name, specs in grid.texts.items()} == {
        "same": "held-out",
        "other": "whole",
    }


def test_a_margin_without_end_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"margin.perplexity: input should be a finite number"):
        _grid(tmp_path, margin={"perplexity": float("inf")})
