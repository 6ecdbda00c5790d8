"""A forecast rehearses what will run, at each model's own speed, and bounds what judging costs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

import depthprune as dp
from depthprune.calibration.generated import GeneratedPool
from depthprune.errors import UsageError
from depthprune.evaluator.rehearsal import TokenCosts
from depthprune.progress import SILENT
from depthprune.study import forecast as forecast_module
from depthprune.study import runner as runner_module
from depthprune.study.forecast import Spent, forecast
from depthprune.study.grid import Grid, read_grid
from depthprune.study.runner import Study
from tiny import save_tiny

WINDOWS, LENGTH = 5, 32
PLAN: dict[str, Any] = {
    "k": [1, 2],
    "calibrations": {"prose": f"stdlib-prose,windows={WINDOWS},length={LENGTH}"},
    "searches": ["one-shot", "greedy"],
    "draws": 2,
    "dtype": "float32",
    "device": "cpu",
}


def _grid(folder: Path, models: list[Path], **changes: Any) -> Grid:
    path = folder / "plan.yaml"
    plan = {**PLAN, "models": [str(model) for model in models], **changes}
    path.write_text(yaml.safe_dump(plan), encoding="utf-8")
    return read_grid(path)


@pytest.fixture
def items(tmp_path: Path) -> str:
    line = '{"prompt": "The river is", "options": [" high", " long and wide"], "answer": 1}\n'
    (tmp_path / "items.jsonl").write_text(line * 20, encoding="utf-8")
    return "choices:items.jsonl,windows=6"


def test_what_is_shared_is_counted_once(tmp_path: Path, tiny_llama: Path) -> None:
    found = forecast(_grid(tmp_path, [tiny_llama]), SILENT).searching
    tokens = WINDOWS * LENGTH
    # Of one draw, greedy's first step is one-shot's, and its k = 1 lies on the way to k = 2.
    assert 0 < found.block_tokens < 2 * tokens * (21 + 15 + 12)
    assert found.seconds > 0


def test_no_model_writes_text_to_be_told_what_a_study_costs(
    tmp_path: Path, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("text was written")

    monkeypatch.setattr(GeneratedPool, "_write", refuse)
    own = {"own": f"self,windows={WINDOWS},length={LENGTH}"}
    prose = forecast(_grid(tmp_path, [tiny_llama]), SILENT).searching
    found = forecast(_grid(tmp_path, [tiny_llama], calibrations=own), SILENT).searching
    assert found.block_tokens == prose.block_tokens


def test_each_model_is_told_at_its_own_speed(
    tmp_path: Path, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = save_tiny(tmp_path / "short", blocks=4)

    def speed(model: dp.Model, window: Any) -> TokenCosts:
        return TokenCosts(1.0, 10.0) if model.blocks == 4 else TokenCosts(100.0, 1000.0)

    monkeypatch.setattr(forecast_module, "measure_speed", speed)
    texts = {"code": "stdlib-code,windows=3,length=48"}
    both, first, second = (
        forecast(_grid(tmp_path, models, texts=texts), SILENT)
        for models in ([tiny_llama, short], [tiny_llama], [short])
    )
    assert both.searching == first.searching + second.searching
    assert both.judging == first.judging + second.judging
    expected = 100 * first.searching.block_tokens + 1000 * first.searching.head_tokens
    assert first.searching.seconds == pytest.approx(expected)
    expected = second.searching.block_tokens + 10 * second.searching.head_tokens
    assert second.searching.seconds == pytest.approx(expected)


def test_protected_blocks_and_the_budget_are_rehearsed(tmp_path: Path, tiny_llama: Path) -> None:
    whole = forecast(_grid(tmp_path, [tiny_llama]), SILENT).searching
    protected = forecast(_grid(tmp_path, [tiny_llama], protect="0,5"), SILENT).searching
    assert protected.block_tokens < whole.block_tokens
    # Greedy takes six sets and then five.
    greedy, limited = (
        forecast(_grid(tmp_path, [tiny_llama], searches="greedy", k=2, **more), SILENT).searching
        for more in ({}, {"budget": "evaluations=8"})
    )
    assert limited.block_tokens < greedy.block_tokens
    tokens = WINDOWS * LENGTH
    one = _grid(tmp_path, [tiny_llama], protect="0,5", searches="one-shot", draws=1, k=1)
    sets = [(1,), (2,), (3,), (4,)]
    # Each of four sets of five blocks, what lies before its block shared; and the whole model.
    found = forecast(one, SILENT).searching
    assert found.block_tokens <= tokens * (5 * len(sets) + 6)
    assert found.head_tokens == WINDOWS * (LENGTH - 1) * (len(sets) + 1)


def test_a_budget_of_seconds_bounds_the_seconds(
    tmp_path: Path, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forecast_module, "measure_speed", lambda *_: TokenCosts(1.0, 1.0))
    grid = _grid(tmp_path, [tiny_llama], budget="10s")
    assert forecast(grid, SILENT).searching.seconds == 10.0 * len(grid.cells)


def test_judging_costs_at_most_what_is_told(
    tmp_path: Path, tiny_llama: Path, items: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = {"code": "stdlib-code,windows=3,length=48"}
    grid = _grid(tmp_path, [tiny_llama], texts=texts, choices={"quiz": items})
    juries = []

    def make_suite(*arguments: Any) -> Any:
        juries.append(runner_suite(*arguments))
        return juries[-1]

    runner_suite = runner_module.make_suite
    monkeypatch.setattr(runner_module, "make_suite", make_suite)
    Study(grid, tmp_path).run()
    (suite,) = juries
    evaluators = (*suite.texts.values(), *suite.items.values())
    told = forecast(grid, SILENT).judging
    spent = sum(evaluator.cost.block_tokens for evaluator in evaluators)
    heads = sum(evaluator.cost.head_tokens for evaluator in evaluators)
    assert 0 < spent <= told.block_tokens
    assert 0 < heads <= told.head_tokens
    left = sum(6 - cell.k for cell in grid.cells)
    assert told.block_tokens > 3 * 48 * left


def test_a_plan_that_judges_nothing_pays_nothing_for_it(tmp_path: Path, tiny_llama: Path) -> None:
    assert forecast(_grid(tmp_path, [tiny_llama]), SILENT).judging == Spent()


def test_more_blocks_than_the_model_has_are_refused(tmp_path: Path, tiny_llama: Path) -> None:
    with pytest.raises(UsageError, match="k"):
        forecast(_grid(tmp_path, [tiny_llama], k=6), SILENT)


def test_what_a_calibration_reads_too_is_judged_on_the_part_that_no_draw_sees(
    tmp_path: Path, tiny_llama: Path
) -> None:
    line = "The river is 49 feet high at the bridge, and the bridge is older than the mill.\n"
    for name in ("seen.txt", "other.txt"):
        (tmp_path / name).write_text(line * 60, encoding="utf-8")

    def told(text: str) -> Spent:
        calibrations = {"seen": "text:seen.txt,windows=3,length=16"}
        texts = {"text": f"text:{text},windows=all,length=16"}
        grid = _grid(tmp_path, [tiny_llama], calibrations=calibrations, texts=texts)
        return forecast(grid, SILENT).judging

    assert 0 < 5 * told("seen.txt").block_tokens < told("other.txt").block_tokens
