"""Our scorer counts as lm-evaluation-harness does: likelihoods and answers, item by item."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import yaml
from torch import Tensor

import depthprune as dp
from depthprune import extras
from depthprune.calibration import Window
from depthprune.errors import EvaluationError, UsageError
from depthprune.objectives.base import TokenLosses, TokenObjective
from depthprune.objectives.choices import Accuracy, likelihoods
from depthprune.objectives.nll import token_nll
from depthprune.study.finalists import FinalScore
from depthprune.study.harness import require_harness, run_tasks, scores_of
from gemma import MISSING, gemma_file

_CORPORA = Path(
    os.environ.get("DEPTHPRUNE_CORPORA", Path(__file__).parents[2] / ".." / "shared" / "data")
)
_COUNTED = {"sum": "acc", "char": "acc_norm", "byte": "acc_bytes"}

_INSTALLED = pytest.mark.skipif(find_spec("lm_eval") is None, reason="no lm-eval (extra eval)")

# The harness and what it imports warn of their own deprecations.
pytestmark = pytest.mark.filterwarnings("ignore")


@dataclass(frozen=True)
class ObservedRun(TokenObjective):
    """Keeps the log-likelihood of every option of every item, and what accuracy makes of it."""

    options: dict[int, TokenLosses] = field(default_factory=dict)
    right: dict[tuple[int, str], float] = field(default_factory=dict)

    name: ClassVar[str] = "seen"
    summary: ClassVar[str] = "for a test"
    items_only: ClassVar[bool] = True

    def token_losses(self, outputs: Tensor, targets: Tensor, dense: Tensor | None) -> Tensor:
        return token_nll(outputs, targets)

    def window_loss(self, losses: TokenLosses, window: Window) -> float:
        self.options[window.start] = likelihoods(losses, window, "sum")
        for by in _COUNTED:
            self.right[window.start, by] = 1 - Accuracy(by).window_loss(losses, window)
        return 0.0


def task_file(folder: Path, name: str, file: Path) -> Path:
    """A task over a choices file as the harness has ARC and PIQA."""
    task = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {
            "data_files": {"test": str(file)},
            "cache_dir": str(folder / "cache"),
        },
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{prompt}}",
        "doc_to_choice": "{{options}}",
        "doc_to_target": "{{answer}}",
        "metric_list": [{"metric": metric} for metric in _COUNTED.values()],
    }
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(task), encoding="utf-8")
    return path


def compare(
    model: dp.Model, file: Path, items: int, removed: tuple[int, ...], folder: Path, atol: float
) -> None:
    """Both scorers on the first items of a file, the model without some blocks."""
    path = task_file(folder, "ours", file)
    with model.anatomy.masked(removed) as module:
        found = run_tasks(module, model.tokenizer, [str(path)], items=items)
    samples = sorted(found["samples"]["ours"], key=lambda sample: sample["doc_id"])
    drawn = dp.calibrate(f"choices:{file},windows={items},order=first", model)
    assert len(samples) == len(drawn.windows) == items
    seen = ObservedRun()
    dp.Evaluator(model, drawn, seen, racing=None).score([removed])
    told = {score.metric: score for score in scores_of(found)}
    for by, metric in _COUNTED.items():
        right = [seen.right[window.start, by] for window in drawn.windows]
        assert [sample[metric] for sample in samples] == right
        assert told[metric].value == pytest.approx(np.mean(right))
        assert told[metric].n == items
    for sample, window in zip(samples, drawn.windows, strict=True):
        theirs = [float(answer[0][0]) for answer in sample["resps"]]
        np.testing.assert_allclose(seen.options[window.start], theirs, atol=atol, rtol=0)


@_INSTALLED
@pytest.mark.slow
def test_options_with_accents_are_counted_as_the_harness_counts_them(
    tiny_llama: Path, tmp_path: Path
) -> None:
    words = ["été", "œuvre", "the mill", "a bridge", "naïveté", "grey", "¿por qué?", "høyde"]
    rows = [
        {
            "prompt": f"Question: What is number {i}?\nAnswer:",
            "options": [words[i % 8], words[(i + 3) % 8], words[(i + 5) % 8]],
            "answer": i % 3,
        }
        for i in range(50)
    ]
    file = tmp_path / "items.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    model = dp.load(tiny_llama, dtype="float32", device="cpu")
    compare(model, file, 40, (), tmp_path, atol=1e-4)


@_INSTALLED
@pytest.mark.slow
@pytest.mark.corpora
@pytest.mark.skipif(not (_CORPORA / "choices").is_dir(), reason=f"no corpora in {_CORPORA}")
@pytest.mark.parametrize(("name", "removed"), [("arc-easy-test", ()), ("piqa-test", (4, 12, 25))])
def test_items_are_scored_as_the_harness_scores_them(
    name: str, removed: tuple[int, ...], demo: dp.Model, tmp_path: Path
) -> None:
    compare(demo, _CORPORA / "choices" / f"{name}.jsonl", 64, removed, tmp_path, atol=1e-3)


@_INSTALLED
@pytest.mark.slow
@pytest.mark.corpora
@pytest.mark.skipif(not (_CORPORA / "choices").is_dir(), reason=f"no corpora in {_CORPORA}")
@pytest.mark.skipif(gemma_file() is None, reason=MISSING)
@pytest.mark.parametrize("removed", [(), (6, 7, 8, 9, 10, 11)])
def test_items_of_a_model_that_begins_with_bos_are_scored_as_the_harness_scores_them(
    removed: tuple[int, ...], tmp_path: Path
) -> None:
    model = dp.load(str(gemma_file()), dtype="float32", device="cpu")
    assert model.tokenizer("a bridge").input_ids[0] == model.tokenizer.bos_token_id
    compare(model, _CORPORA / "choices" / "arc-easy-test.jsonl", 24, removed, tmp_path, atol=1e-3)


@pytest.fixture(scope="module")
def demo() -> dp.Model:
    return dp.load("demo", dtype="float32", device="cpu")


@_INSTALLED
@pytest.mark.slow
def test_a_task_that_the_harness_does_not_know_is_refused(tiny_llama: Path) -> None:
    model = dp.load(tiny_llama, dtype="float32", device="cpu")
    with pytest.raises(EvaluationError, match="cannot run arc_eesy"):
        run_tasks(model.module, model.tokenizer, ["arc_eesy"])


def test_without_the_harness_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match="needs lm-eval, which is not installed; run: pip"):
        require_harness()
    monkeypatch.setattr(extras, "find_spec", lambda name: name != "accelerate" or None)
    with pytest.raises(UsageError, match="needs accelerate"):
        require_harness()


def test_scores_leave_out_what_is_no_metric_of_a_task() -> None:
    found = {
        "results": {
            "arc": {"alias": "arc", "acc,none": 0.5, "acc_stderr,none": 0.1},
            "gsm8k": {"exact_match,strict-match": 0.25, "exact_match_stderr,strict-match": "N/A"},
            "all": {"alias": "all", "acc,none": 0.4},
        },
        "n-samples": {
            "arc": {"original": 9, "effective": 4},
            "gsm8k": {"original": 8, "effective": 8},
        },
    }
    assert scores_of(found) == [
        FinalScore(task="arc", metric="acc", value=0.5, stderr=0.1, n=4),
        FinalScore(task="gsm8k", metric="exact_match", filter="strict-match", value=0.25, n=8),
    ]
