"""`prune --as-draft` takes the size that is fastest as a draft, and says when none is."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

import depthprune as dp
from command import run
from depthprune.errors import UsageError
from depthprune.manifest import DraftRecord
from depthprune.models.assisted import best_length, predicted_speedup
from depthprune.progress import SILENT
from depthprune.pruning.drafting.as_draft import choose_size, decoding_cost, require_gain
from depthprune.pruning.drafting.draft_job import DraftJob
from tiny import save_text


@pytest.fixture
def spec(tmp_path: Path) -> str:
    file = save_text(tmp_path / "text.txt", 4000)
    return f"text:{file},windows=12,length=24"


class Losses:
    """Held-out losses by size: what each size accepts."""

    def __init__(self, acceptance: dict[int, float]) -> None:
        self.acceptance = acceptance

    def mixed(self, sets: Any) -> list[tuple[float, float]]:
        return [(-math.log(self.acceptance[len(each)]), 0.0) for each in sets]


def _record(acceptance: dict[int, float], cost: Any) -> DraftRecord:
    path = [tuple(range(k)) for k in acceptance]
    scorer: Any = Losses(acceptance)
    return choose_size(path, scorer, cost, temperature=1.0, measured=False)


def test_the_size_is_the_one_whose_speedup_is_largest() -> None:
    record = _record({1: 0.95, 2: 0.9, 3: 0.85, 4: 0.3}, lambda lacks: 1 - lacks / 5)
    by_hand = {
        p.k: max(predicted_speedup(p.acceptance, n, 1 - p.k / 5) for n in range(1, 17))
        for p in record.points
    }
    assert record.chosen == max(by_hand, key=by_hand.__getitem__) == 3
    for point in record.points:
        assert point.speedup == pytest.approx(by_hand[point.k])
        assert point.length == best_length(point.acceptance, point.cost)
    require_gain(record)


def test_where_no_size_pays_that_is_said() -> None:
    record = _record({1: 0.4, 2: 0.3}, lambda lacks: 1 - lacks / 20)
    with pytest.raises(UsageError, match=r"no size pays here: the best, . blocks? removed"):
        require_gain(record)


def test_the_cost_is_a_line_through_what_was_told_or_timed(tiny_llama: Path) -> None:
    model = dp.load(tiny_llama, dtype="float32", device="cpu")
    told = decoding_cost(model, DraftJob(0.9), SILENT)
    assert told(0) == 1.0
    assert told(model.blocks) == pytest.approx(0.1)
    timed = decoding_cost(model, DraftJob(), SILENT)
    assert timed(0) == 1.0
    assert timed(2) - timed(1) == pytest.approx(timed(3) - timed(2))
    before = model.module(input_ids=model.module.dummy_inputs["input_ids"]).logits
    assert before.isfinite().all()


def test_the_verb_writes_the_draft_and_what_it_is_worth(
    capsys: pytest.CaptureFixture[str], tiny_llama: Path, spec: str, tmp_path: Path
) -> None:
    words = ("prune", tiny_llama, "--as-draft", "-c", spec, "-o", tmp_path / "draft", "--memo")
    flags = ("off", "--cost-ratio", 1, "--dtype", "float32", "--no-bench", "--exact", "--json")
    found = run(capsys, *words, *flags).document
    record = found["draft"]
    assert found["objective"] == "acceptance"
    assert [p["k"] for p in record["points"]] == [1, 2, 3, 4]
    best = record["points"][record["chosen"] - 1]
    assert found["removed"] == best["removed"]
    assert best["speedup"] == max(p["speedup"] for p in record["points"]) > 1
    model = dp.load(tiny_llama, dtype="float32")
    held = dp.calibrate(spec, model).held_out()[0]
    loss = dp.Evaluator(model, held, "acceptance", plain=True).score([best["removed"]])[0].loss
    assert best["acceptance"] == pytest.approx(math.exp(-loss), abs=1e-6)
    page = (tmp_path / "draft" / "report.html").read_text(encoding="utf-8")
    assert "What it is worth as a draft" in page
    assert "As a draft of its original" in (tmp_path / "draft" / "README.md").read_text("utf-8")
    manifest = dp.prune(
        tiny_llama, k=2, out=tmp_path / "two", calibration=spec, as_draft=True, cost_ratio=0.5,
        objective="kl", memo="off", dtype="float32", bench=False,
    )  # fmt: skip
    assert manifest.draft is not None
    assert [p.k for p in manifest.draft.points] == [2]
    assert manifest.objective == "kl"


def test_a_draft_that_gains_nothing_is_not_written(
    capsys: pytest.CaptureFixture[str], tiny_llama: Path, spec: str, tmp_path: Path
) -> None:
    words = ("prune", tiny_llama, "--as-draft", "-c", spec, "-o", tmp_path / "draft", "--memo")
    flags = ("off", "--cost-ratio", 0.0001, "--dtype", "float32", "--no-bench")
    found = run(capsys, *words, *flags)
    assert found.status == 2
    assert "--as-draft: no size pays here" in found.error
    assert not (tmp_path / "draft").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("-k", 2, "--cost-ratio", 1), "--cost-ratio: means nothing without --as-draft"),
        (("--as-draft", "--cost-ratio", 0), "--cost-ratio: expected a number above 0, at most 1"),
        (("--as-draft", "--max-increase", "5%"), "--max-increase: chooses by something else"),
        (("--as-draft", "--search", "random"), "--search random: its sets do not grow one by one"),
        (("--as-draft", "--objective", "option-ce"), "--as-draft: option-ce is of items"),
        (("--as-draft", "--objective", "acceptance:temperature=-1"), "acceptance: temperature:"),
    ],
)
def test_what_does_not_go_together_is_refused(
    capsys: pytest.CaptureFixture[str],
    tiny_llama: Path,
    tmp_path: Path,
    flags: tuple[object, ...],
    message: str,
) -> None:
    found = run(capsys, "prune", tiny_llama, "-o", tmp_path / "out", *flags)
    assert found.status == 2
    assert message in found.error
    assert not (tmp_path / "out").exists()


def test_the_record_survives_its_file() -> None:
    record = _record({1: 0.9, 2: 0.5}, lambda lacks: 1 - lacks / 4)
    assert DraftRecord.model_validate(json.loads(record.model_dump_json())) == record
