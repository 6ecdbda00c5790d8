"""`--answers`: what the whole, the pruned and the recovered model answer, problem by problem."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import depthprune as dp
from depthprune.errors import EvaluationError, UsageError
from depthprune.manifest import AnswerRecord, AnswerShare, Manifest
from depthprune.models.parity import reload_like
from depthprune.pruning import answers as answers_module
from depthprune.pruning.answers import has_collapsed, original_weights, read_answers, warnings_of
from depthprune.pruning.generation import AnswerScore
from tiny import save_tiny

QUICK: dict[str, Any] = {"dtype": "float32", "device": "cpu", "bench": False}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Problems with numbers, words, and a text to calibrate on."""
    folder = tmp_path_factory.mktemp("answers")
    sums = [{"question": f"What is {i} and {i}?", "answer": f"{2 * i}"} for i in range(6)]
    (folder / "sums.jsonl").write_text("\n".join(map(json.dumps, sums)), encoding="utf-8")
    lines = (f"Line {i}: the river is {i * i % 97} feet high at the bridge.\n" for i in range(200))
    (folder / "river.txt").write_text("".join(lines), encoding="utf-8")
    return folder


def _spec(folder: Path) -> str:
    return f"jsonl:{folder / 'sums.jsonl'},prompt=question,answer=answer,format=zero-shot,windows=4"


def _text(folder: Path) -> str:
    return f"text:{folder / 'river.txt'},windows=16,length=32"


def _prune(model: Path, folder: Path, out: Path, **more: Any) -> Manifest:
    specs = {"calibration": _text(folder), "answers": [_spec(folder)], "answer_tokens": 3}
    return dp.prune(model, 2, out=out, search="one-shot", **specs, **QUICK, **more)


def test_both_models_answer_once_the_checkpoint_stands(
    tiny_llama: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, asked = tmp_path / "out", []

    def answer_all(module: Any, tokenizer: Any, windows: Any, **options: Any) -> AnswerScore:
        assert (out / "model.safetensors").exists()
        assert (len(windows), options["max_new_tokens"]) == (4, 3)
        asked.append(module.config.num_hidden_layers)
        right = (asked[-1] == 6,) * 4
        return AnswerScore(float(right[0]), 0.0, 4, 0 if right[0] else 4, right)

    monkeypatch.setattr(answers_module, "answer_all", answer_all)
    manifest = _prune(tiny_llama, folder, out)
    assert asked == [6, 4]
    (record,) = manifest.answers or []
    assert record.dense == AnswerShare(right=1.0, stderr=0.0, unanswered=0)
    assert record.pruned == AnswerShare(right=0.0, stderr=0.0, unanswered=4)
    assert (record.recovered, record.change, record.problems) == (None, -1.0, 4)
    assert record.collapsed
    assert Manifest.read(out / "depthprune.json").answers == manifest.answers
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "What is answered in words" in page
    assert "Generated answers collapse" in page


def test_a_recovered_model_answers_beside_the_pruned_one(
    tiny_llama: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[torch.Tensor]] = []
    real = answers_module.answer_all

    def answer_all(module: Any, *arguments: Any, **options: Any) -> Any:
        seen.append([p.detach().clone() for p in module.model.layers.parameters()])
        return real(module, *arguments, **options)

    monkeypatch.setattr(answers_module, "answer_all", answer_all)
    manifest = _prune(tiny_llama, folder, tmp_path / "out", recover="linear")
    (record,) = manifest.answers or []
    assert record.recovered is not None
    whole, pruned, recovered = seen
    each = len(whole) // 6
    kept = [p for block in manifest.kept for p in whole[each * block : each * (block + 1)]]
    assert all(map(torch.equal, kept, pruned))
    assert not all(map(torch.equal, pruned, recovered))
    again = dp.load(tmp_path / "out", dtype="float32", device="cpu")
    written = [p for layer in again.module.model.layers for p in layer.parameters()]  # type: ignore[union-attr]
    assert all(map(torch.equal, recovered, written))


def test_a_checkpoint_with_its_original_s_weights_computes_what_the_masked_model_does(
    tmp_path: Path,
) -> None:
    model = dp.load(save_tiny(tmp_path / "model"), dtype="float32", device="cpu")
    dp.apply(tmp_path / "model", (1, 4), tmp_path / "cut")
    module: Any = reload_like(model, tmp_path / "cut")
    ids = torch.tensor([[1, 5, 9, 2]])
    with torch.inference_mode(), model.anatomy.masked((1, 4)) as masked:
        expected = masked(input_ids=ids, use_cache=False).logits  # type: ignore[operator]
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(1.0)
    changed = [parameter.detach().clone() for parameter in module.parameters()]
    with torch.inference_mode(), original_weights(module, model, (1, 4)):
        found = module(input_ids=ids, use_cache=False).logits
    assert torch.equal(found, expected)
    assert all(map(torch.equal, changed, module.parameters()))
    module.model.layers[0].mlp.up_proj.weight = torch.nn.Parameter(torch.zeros(3, 3))
    with (
        pytest.raises(EvaluationError, match="has no parameter of this shape"),
        original_weights(module, model, (1, 4)),
    ):
        pass


def test_what_fails_costs_the_answers_alone(
    tiny_llama: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: Any, **options: Any) -> None:
        raise EvaluationError("the model cannot generate")

    monkeypatch.setattr(answers_module, "answer_all", fail)
    manifest = _prune(tiny_llama, folder, tmp_path / "out")
    assert manifest.answers is None
    assert manifest.parity is not None


@pytest.mark.parametrize(
    ("specs", "tokens", "stream", "line"),
    [
        ((), 8, False, "--answer-tokens: means nothing without --answers"),
        (("text:a.txt",), 0, False, "--answer-tokens: expected a number from 1, got 0"),
        (("text:a.txt",), None, True, "--answers: a streamed model reads all its weights"),
        (("text:a.txt",), None, False, "--answers: expected one source of questions and answers"),
        (("jsonl:a,prompt=q,answer=a",), None, False, "with format=zero-shot, few-shot or chat"),
    ],
)
def test_what_no_model_could_do_is_refused(
    specs: tuple[str, ...], tokens: int | None, stream: bool, line: str
) -> None:
    with pytest.raises(UsageError, match=line):
        read_answers(specs, tokens, stream=stream)


@pytest.mark.parametrize(("problems", "collapsed"), [(1, False), (4, True)])
def test_one_problem_shows_no_collapse(problems: int, collapsed: bool) -> None:
    before = AnswerScore(1.0, None, problems, 0, (True,) * problems)
    after = AnswerScore(0.0, None, problems, 0, (False,) * problems)
    assert has_collapsed(after, before) == collapsed


def test_a_warning_needs_a_fall_below_half_that_is_surely_one() -> None:
    def record(*, collapsed: bool) -> AnswerRecord:
        share = AnswerShare(right=float(np.float64(0.5)), stderr=0.1, unanswered=0)
        return AnswerRecord(
            calibration="jsonl:sums.jsonl",
            problems=30,
            new_tokens=8,
            dense=share,
            pruned=share.model_copy(update={"right": 0.1}),
            change=-0.4,
            change_stderr=0.1,
            collapsed=collapsed,
        )

    (line,) = warnings_of([record(collapsed=True), record(collapsed=False)], [])
    assert line.startswith("generated answers collapse: 50% of 30 problems right before and 10%")
