"""Finalists of the demo model on a task of the harness and on problems of GSM8K."""

from __future__ import annotations

import json
import os
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

from demo import document

_CORPORA = Path(
    os.environ.get("DEPTHPRUNE_CORPORA", Path(__file__).parents[2] / ".." / "shared" / "data")
).resolve()

pytestmark = [
    pytest.mark.slow,
    pytest.mark.corpora,
    pytest.mark.skipif(not (_CORPORA / "gsm8k").is_dir(), reason=f"no corpora in {_CORPORA}"),
    pytest.mark.skipif(find_spec("lm_eval") is None, reason="no lm-eval (extra eval)"),
]


def test_the_demo_s_finalists_are_judged_by_the_harness_and_in_words(tmp_path: Path) -> None:
    task = {
        "task": "arc",
        "dataset_path": "json",
        "dataset_kwargs": {
            "data_files": {"test": str(_CORPORA / "choices" / "arc-easy-test.jsonl")},
            "cache_dir": str(tmp_path / "cache"),
        },
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{prompt}}",
        "doc_to_choice": "{{options}}",
        "doc_to_target": "{{answer}}",
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    }
    (tmp_path / "arc.yaml").write_text(yaml.safe_dump(task), encoding="utf-8")
    gsm8k = f"jsonl:{_CORPORA}/gsm8k/train.jsonl,prompt=question,answer=answer"
    plan = {
        "models": "demo",
        "k": 3,
        "calibrations": {"prose": "stdlib-prose,windows=2,length=64"},
        "searches": "one-shot",
        "draws": 1,
        "texts": {"code": "stdlib-code,windows=2,length=64"},
        "finalists": 1,
        "tasks": "arc.yaml",
        "task_items": 8,
        "generate": {
            "gsm8k": {
                "spec": f"{gsm8k},format=few-shot,shots=2,windows=3,length=1024",
                "max_new_tokens": 48,
                "split": "held-out",
            }
        },
    }
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(plan), encoding="utf-8")
    found = document("study", "plan.yaml", "-o", "out", "--memo", "off", cwd=tmp_path)
    assert found["finalists"] == {"done": 4, "failed": 0, "new": 4}
    lines = (tmp_path / "out" / "finalists.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines[1:]]
    assert [(row["k"], row["name"]) for row in rows] == [
        (0, "arc.yaml"), (0, "gsm8k"), (3, "arc.yaml"), (3, "gsm8k"),
    ]  # fmt: skip
    for row in rows:
        names = [(score["metric"], score["n"]) for score in row["scores"]]
        tasks = [("acc", 8), ("acc_norm", 8)]
        assert names == (tasks if row["kind"] == "task" else [("exact_match", 3)])
        assert all(0 <= score["value"] <= 1 for score in row["scores"])
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "Finalists on tasks and problems" in page
