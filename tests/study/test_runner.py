"""A study writes each cell as it is judged, goes on where it was, and records what fails."""

from __future__ import annotations

import json
import weakref
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest
import yaml

import depthprune as dp
from depthprune.errors import EvaluationError, NoWorkersError, UsageError
from depthprune.evaluator import Memo
from depthprune.study import cells as cells_module
from depthprune.study.cells import key_of
from depthprune.study.evaluation import EvaluationSuite, make_suite
from depthprune.study.grid import Grid, read_grid
from depthprune.study.items import unpack
from depthprune.study.runner import Study
from depthprune.study.table import read
from depthprune.study.waiting import count

if TYPE_CHECKING:
    from depthprune.engine.cluster import Cluster

PLAN: dict[str, Any] = {
    "k": [1, 2],
    "calibrations": {"prose": "stdlib-prose,windows=5,length=32", "items": "choices:items.jsonl"},
    "objectives": ["nll", "option-ce"],
    "searches": ["one-shot", "greedy"],
    "exclude": [{"calibration": "items", "objective": "nll"}],
    "draws": 2,
    "texts": {"code": "stdlib-code,windows=3,length=48"},
    "choices": {"quiz": "choices:items.jsonl,windows=all"},
    "homes": {"quiz": "items"},
    "dtype": "float32",
    "device": "cpu",
}


@pytest.fixture
def grid(tmp_path: Path, tiny_llama: Path) -> Grid:
    items = (
        {
            "prompt": f"The river is {i} feet",
            "options": [" high", " long", f" {i}"],
            "answer": i % 3,
        }
        for i in range(40)
    )
    lines = "\n".join(map(json.dumps, items))
    (tmp_path / "items.jsonl").write_text(lines, encoding="utf-8")
    plan = {**PLAN, "models": str(tiny_llama), "calibrations": dict(PLAN["calibrations"])}
    plan["calibrations"]["items"] += ",windows=6"
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(plan), encoding="utf-8")
    return read_grid(tmp_path / "plan.yaml")


def _rows(folder: Path) -> Any:
    rows = read(folder / "results.jsonl").rows
    return [row.model_copy(update={"cost": None}) for row in rows]


def test_every_cell_is_searched_and_judged(grid: Grid, tmp_path: Path) -> None:
    outcome = Study(grid, tmp_path).run()
    rows = read(tmp_path / "results.jsonl").rows
    assert (outcome.done, outcome.failed, outcome.new) == (len(grid.cells), 0, len(grid.cells))
    assert len(rows) == 2 * 2 * 2 * 2
    for row in rows:
        assert len(row.removed) == row.k
        assert [e.name for e in row.evaluations] == ["code", "quiz"]
        assert [e.kind for e in row.evaluations] == ["perplexity", "accuracy"]
        assert row.evaluations[1].source == "items"


def test_too_few_items_stop_the_study_before_any_cell(grid: Grid, tmp_path: Path) -> None:
    few = replace(grid, plan=grid.plan.model_copy(update={"least_items": 30}))
    with pytest.raises(UsageError, match=r"choices\.quiz: least_items is 30, got \d+ items; raise"):
        Study(few, tmp_path).run()
    table = read(tmp_path / "results.jsonl")
    assert (table.rows, table.dense) == ((), ())


def test_results_are_kept_by_item_beside_the_whole_model_s(
    grid: Grid, tmp_path: Path, tiny_llama: Path
) -> None:
    Study(grid, tmp_path).run()
    table = read(tmp_path / "results.jsonl")
    model = dp.load(tiny_llama, dtype="float32", device="cpu")
    (dense,) = table.dense
    assert (dense.model, dense.error) == (str(tiny_llama), None)
    for removed, judged in (
        ((), dense.evaluations),
        (table.rows[0].removed, table.rows[0].evaluations),
    ):
        for each, spec, objective in (
            (judged[0], "stdlib-code,windows=3,length=48", "nll"),
            (judged[1], f"choices:{tmp_path / 'items.jsonl'},windows=all", "accuracy:by=byte"),
        ):
            split = "whole" if each.name == "code" else "held-out"
            drawn = dp.calibrate(spec, model, split=split)
            losses = dp.Evaluator(model, drawn, objective).score([removed])[0].window_losses
            expected = losses if each.kind == "perplexity" else 1 - losses
            assert unpack(each.items, each.n) == pytest.approx(expected, abs=1e-5)


def test_a_cell_is_what_its_search_gives_alone(
    grid: Grid, tmp_path: Path, tiny_llama: Path
) -> None:
    Study(grid, tmp_path).run()
    row = next(
        row
        for row in read(tmp_path / "results.jsonl").rows
        if (row.calibration.name, row.search, row.k, row.draw) == ("prose", "greedy", 2, 1)
    )
    model = dp.load(tiny_llama, dtype="float32", device="cpu")
    drawn = dp.calibrate("stdlib-prose,windows=5,length=32,seed=1", model)
    result = dp.search("greedy", dp.Evaluator(model, drawn), k=2)
    assert (row.removed, row.loss) == (result.removed, pytest.approx(result.score.loss))


def test_a_cell_costs_what_its_search_costs_by_itself(
    grid: Grid, tmp_path: Path, tiny_llama: Path
) -> None:
    """However much of it cells before, or another study, had paid for."""
    searches = ["one-shot", "greedy", "fast-block-select", "local-search:sweeps=1"]
    plan = {**yaml.safe_load((tmp_path / "plan.yaml").read_text()), "searches": searches}
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(plan), encoding="utf-8")
    grid = read_grid(tmp_path / "plan.yaml")
    model = dp.load(tiny_llama, dtype="float32", device="cpu")
    drawn = dp.calibrate("stdlib-prose,windows=5,length=32", model)
    alone = {
        (search, k): dp.search(search, dp.Evaluator(model, drawn), k=k).cost
        for search in searches
        for k in (1, 2)
    }
    for folder, paid in (("first", False), ("again", True)):
        (tmp_path / folder).mkdir()
        with Memo.open(tmp_path / "memo.sqlite") as memo:
            Study(grid, tmp_path / folder, memo).run()
        for row in read(tmp_path / folder / "results.jsonl").rows:
            if (row.calibration.name, row.draw) == ("prose", 0):
                cost, own = row.cost, alone[row.search, row.k]
                assert cost.asked_block_tokens == own.block_tokens
                assert cost.evaluations == round(own.evaluations)
                assert not (paid and cost.block_tokens)


def test_a_study_that_was_stopped_goes_on_and_ends_the_same(
    grid: Grid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    whole.mkdir()
    stopped.mkdir()
    with Memo.open(tmp_path / "other.sqlite") as memo:
        Study(grid, whole, memo).run()
    with Memo.open(tmp_path / "memo.sqlite") as memo:
        for allowed in (3, 4):
            monkeypatch.setattr(cells_module, "search", _stopping(allowed))
            with pytest.raises(KeyboardInterrupt):
                Study(grid, stopped, memo).run()
        assert not _rows(stopped)
        assert count(stopped) == 3 + 4
        monkeypatch.setattr(cells_module, "search", _stopping(len(grid.cells) - 7))
        outcome = Study(grid, stopped, memo).run()
    assert outcome.new == len(grid.cells)
    assert _rows(stopped) == _rows(whole)
    assert sorted(path.name for path in stopped.iterdir()) == ["results.jsonl"]


def test_what_waits_is_judged_a_few_sets_at_a_time(
    grid: Grid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stop leaves in the table what was judged, and the rest waits; nothing is searched twice."""
    monkeypatch.setattr(cells_module, "_TOGETHER", 2)
    monkeypatch.setattr(cells_module, "search", _stopping(10))
    with pytest.raises(KeyboardInterrupt):
        Study(grid, tmp_path).run()
    judged, waiting = len(_rows(tmp_path)), count(tmp_path)
    assert judged > 0
    assert judged + waiting == 10
    left = len(grid.cells) - 10
    monkeypatch.setattr(cells_module, "search", _stopping(left))
    # With more at a time, what waits and what follows are judged together.
    monkeypatch.setattr(cells_module, "_TOGETHER", 100)
    assert Study(grid, tmp_path).run().new == len(grid.cells) - judged
    assert [row.key for row in read(tmp_path / "results.jsonl").rows] == [
        key_of(cell) for cell in grid.cells
    ]
    assert not count(tmp_path)


def test_sets_that_are_judged_together_share_their_way(
    grid: Grid, tmp_path: Path, tiny_llama: Path
) -> None:
    model = dp.load(tiny_llama, dtype="float32", device="cpu")
    sets = [(4,), (5,), (3, 4), (3, 5)]

    def suite() -> EvaluationSuite:
        return make_suite(model, grid.texts, grid.choices, "byte", {}, None, grid.split_of)

    def spent(of: EvaluationSuite) -> int:
        return sum(e.cost.block_tokens for e in (*of.texts.values(), *of.items.values()))

    one, together = suite(), suite()
    alone = [one.judge(removed) for removed in sets]
    together.judge_ahead(sets)
    assert [together.judge(removed) for removed in sets] == alone
    assert spent(together) < 0.7 * spent(one)


def test_a_set_that_cannot_be_judged_fails_its_cells_alone(
    grid: Grid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge = EvaluationSuite.judge
    refused: list[tuple[int, ...]] = []

    def judging(self: EvaluationSuite, removed: tuple[int, ...]) -> Any:
        if removed and (not refused or removed in refused):
            refused.append(removed)
            raise EvaluationError("a loss is NaN")
        return judge(self, removed)

    monkeypatch.setattr(EvaluationSuite, "judge", judging)
    outcome = Study(grid, tmp_path).run()
    rows = read(tmp_path / "results.jsonl").rows
    failed = [row for row in rows if row.error is not None]
    assert outcome.failed == len(failed) == len(refused)
    assert {(row.error, row.removed, row.loss) for row in failed} == {("a loss is NaN", (), None)}
    assert [row.key for row in rows] == [key_of(cell) for cell in grid.cells]


def _stopping(allowed: int) -> Any:
    left = iter(range(allowed))

    def search(*arguments: Any, **options: Any) -> Any:
        if next(left, None) is None:
            raise KeyboardInterrupt
        return dp.search(*arguments, **options)

    return search


def test_a_cell_that_fails_is_recorded_and_the_rest_goes_on(
    grid: Grid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def search(name: str, *arguments: Any, **options: Any) -> Any:
        if name == "greedy":
            raise EvaluationError("the loss is NaN")
        return dp.search(name, *arguments, **options)

    monkeypatch.setattr(cells_module, "search", search)
    outcome = Study(grid, tmp_path).run()
    assert outcome.failed == outcome.done == len(grid.cells) // 2
    errors = {row.error for row in read(tmp_path / "results.jsonl").rows if row.error}
    assert errors == {"the loss is NaN"}


def test_a_cluster_that_fails_leaves_the_cells_that_it_did_as_they_are(
    grid: Grid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
    Study(grid, tmp_path / "here").run()
    done = read(tmp_path / "here" / "results.jsonl").rows[:3]

    def elsewhere(*_: Any) -> Any:
        yield from done
        raise EvaluationError("no machine is left")

    monkeypatch.setattr(Study, "_lines_elsewhere", elsewhere)
    outcome = Study(grid, tmp_path / "there", cluster=cast("Cluster", object())).run()
    rows = read(tmp_path / "there" / "results.jsonl").rows
    assert (outcome.done, outcome.failed) == (3, len(grid.cells) - 3)
    assert len(rows) == len(grid.cells)
    assert {row.key for row in rows if row.error is None} == {row.key for row in done}


def test_cells_that_no_machine_was_left_for_run_when_there_is_one(
    grid: Grid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They have not failed, so the same command goes on with them."""

    def elsewhere(*_: Any) -> Any:
        raise NoWorkersError("no machine is left")
        yield

    folder = tmp_path / "there"
    folder.mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(Study, "_lines_elsewhere", elsewhere)
        with pytest.raises(NoWorkersError):
            Study(grid, folder, cluster=cast("Cluster", object())).run()
    table = read(folder / "results.jsonl")
    assert (table.rows, table.dense) == ((), ())
    assert Study(grid, folder).run().done == len(grid.cells)


def test_a_model_that_cannot_be_loaded_fails_its_cells_alone(
    grid: Grid, tmp_path: Path, tiny_llama: Path
) -> None:
    def loader(name: str, **options: Any) -> dp.Model:
        raise dp.ModelError(f"{name}: cannot be loaded")

    outcome = Study(grid, tmp_path, loader=loader).run()
    assert (outcome.done, outcome.failed) == (0, len(grid.cells))


def test_the_table_of_another_plan_is_refused(grid: Grid, tmp_path: Path) -> None:
    Study(grid, tmp_path).run()
    text = (tmp_path / "plan.yaml").read_text(encoding="utf-8")
    (tmp_path / "plan.yaml").write_text(text.replace("draws: 2", "draws: 3"), encoding="utf-8")
    with pytest.raises(UsageError, match="its plan is"):
        Study(read_grid(tmp_path / "plan.yaml"), tmp_path).run()


def test_the_length_in_the_table_is_the_plan_s_whatever_was_drawn(
    grid: Grid, tmp_path: Path, tiny_llama: Path
) -> None:
    lines = [{"q": f"How many is {i}?", "a": " ".join(["one"] * (i % 7 + 1))} for i in range(60)]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    spec = "jsonl:pairs.jsonl,prompt=q,answer=a,format=zero-shot,windows=3,length=40"
    plan = {"models": str(tiny_llama), "k": 1, "calibrations": {"pairs": spec}, "draws": 3}
    plan |= {"searches": "one-shot", "dtype": "float32", "device": "cpu"}
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(plan), encoding="utf-8")
    Study(read_grid(tmp_path / "plan.yaml"), tmp_path).run()
    rows = read(tmp_path / "results.jsonl").rows
    assert [row.calibration.length for row in rows] == [40, 40, 40]


def test_what_blocks_do_alone_does_not_depend_on_which_cells_were_run_before(
    grid: Grid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    whole.mkdir()
    stopped.mkdir()
    text = (tmp_path / "plan.yaml").read_text(encoding="utf-8")
    # Of these, one-shot alone asks for every block alone.
    (tmp_path / "plan.yaml").write_text(text.replace("- greedy", "- last-k"), encoding="utf-8")
    plan = read_grid(tmp_path / "plan.yaml")
    Study(plan, whole).run()
    monkeypatch.setattr(cells_module, "search", _stopping(2))
    with pytest.raises(KeyboardInterrupt):
        Study(plan, stopped).run()
    monkeypatch.undo()
    Study(plan, stopped).run()
    assert _rows(stopped) == _rows(whole)
    assert all(row.alone is not None for row in _rows(whole))


def test_a_model_is_let_go_before_the_next_one_is_loaded(
    tiny_llama: Path, tmp_path: Path, grid: Grid
) -> None:
    several = replace(
        grid,
        cells=tuple(replace(c, model=name) for name in ("a", "b", "c") for c in grid.cells[:1]),
    )
    alive: list[int] = []
    loaded: list[weakref.ref[Any]] = []

    def loader(name: str, **options: Any) -> dp.Model:
        alive.append(sum(module() is not None for module in loaded))
        model = dp.load(tiny_llama, dtype="float32", device="cpu")
        loaded.append(weakref.ref(model.module))
        return model

    (tmp_path / "several").mkdir()
    outcome = Study(several, tmp_path / "several", loader=loader).run()
    assert (outcome.done, outcome.failed) == (3, 0)
    assert alive == [0, 0, 0]
