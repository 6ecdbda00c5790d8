"""What a verb prints with --json, its function returns, and says nothing on either stream."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command

import depthprune as dp
from command import run
from depthprune.cli.app import app
from depthprune.pruning.drafting.bench_draft import bench_draft
from tiny import save_tiny


@pytest.fixture
def spec(tmp_path: Path) -> str:
    file = tmp_path / "text.txt"
    lines = [f"Line {i}: the mill turns {i * i % 89} times an hour.\n" for i in range(300)]
    file.write_text("".join(lines), encoding="utf-8")
    return f"text:{file},windows=6,length=24"


def _quiet(capsys: pytest.CaptureFixture[str]) -> None:
    streams = capsys.readouterr()
    assert (streams.out, streams.err) == ("", "")


def _json(document: Any) -> Any:
    return json.loads(json.dumps(document))


def test_evaluate(tiny_llama: Path, spec: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = dp.evaluate(tiny_llama, [spec], remove=(4, 1), dtype="float32", memo="off")
    _quiet(capsys)
    words = ("evaluate", tiny_llama, "-c", spec, "--remove", "1,4", "--dtype", "float32")
    assert _json(found.document()) == run(capsys, *words, "--memo", "off", "--json").document
    assert found.removed == (1, 4)
    assert found.results[0].estimate.windows == 6


def test_what_an_objective_cannot_judge_is_named_before_weights_are_read(
    tiny_llama: Path, spec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = tmp_path / "items.jsonl"
    item = {"prompt": "The mill turns", "options": ["fast", "slow"], "answer": 0}
    items.write_text(20 * (json.dumps(item) + "\n"), encoding="utf-8")
    where = "depthprune.pruning.session.Loading.load"
    monkeypatch.setattr(where, lambda *_: pytest.fail("loaded"))
    with pytest.raises(dp.UsageError, match=r"^-c text:\S*text\.txt: --objective accuracy: judges"):
        dp.evaluate(tiny_llama, [f"choices:{items},windows=1", spec], "accuracy", memo="off")


def test_score(tiny_llama: Path, spec: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = dp.score(tiny_llama, spec, draws=2, k=2, dtype="float32", memo="off")
    _quiet(capsys)
    words = ("score", tiny_llama, "-c", spec, "--draws", 2, "-k", 2, "--dtype", "float32")
    assert _json(found.document()) == run(capsys, *words, "--memo", "off", "--json").document
    assert found.over_draws is not None
    assert sum(each.lowest for each in found.over_draws) == 2 * 2


@pytest.mark.parametrize("k", [0, -1])
def test_of_fewer_than_one_lowest_block_nothing_is_counted(
    tiny_llama: Path, spec: str, k: int
) -> None:
    with pytest.raises(dp.UsageError, match=f"-k: expected 1 to 5 of the 6 blocks, got {k}"):
        dp.score(tiny_llama, spec, draws=2, k=k)


def test_bench(tiny_llama: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = {"prompt_tokens": 8, "new_tokens": 2, "repeats": 1}
    found = dp.bench(tiny_llama, tiny_llama, dtype="float32", **sizes)
    _quiet(capsys)
    words = ("bench", tiny_llama, tiny_llama, "--dtype", "float32", "--prompt-tokens", 8)
    told = run(capsys, *words, "--new-tokens", 2, "--repeats", 1, "--json").document
    ours = _json(found.document())
    for each in (*told["results"], *ours["results"]):
        # Seconds are not the same twice.
        del each["prefill_tokens_per_second"], each["decode_tokens_per_second"]
    assert ours == told


@pytest.mark.parametrize("name", ["prompt_tokens", "new_tokens", "repeats"])
def test_bench_measures_nothing_less_than_once(tiny_llama: Path, name: str) -> None:
    with pytest.raises(dp.UsageError, match=f"--{name.replace('_', '-')}: expected 1 to .*, got 0"):
        dp.bench(tiny_llama, **{name: 0})


def test_past_a_table_of_positions_nothing_is_timed(
    tmp_path: Path, spec: str, capsys: pytest.CaptureFixture[str]
) -> None:
    gpt2 = save_tiny(tmp_path / "gpt2", "gpt2")
    with pytest.raises(dp.UsageError, match="120 tokens and 9 new ones are more than the 128"):
        dp.bench(gpt2, prompt_tokens=120, new_tokens=9)
    with pytest.raises(dp.UsageError, match="24 tokens and 105 new ones are more than the 128"):
        bench_draft(gpt2, gpt2, prompts=spec, new_tokens=105, dtype="float32")
    long = spec.replace("length=24", "length=129")
    for words in (("prune", gpt2, "-k", 2, "-c", long), ("study", _plan(tmp_path, gpt2, long))):
        refused = run(capsys, *words, "--dry-run")
        assert "the window has 129 tokens, and the model has positions for 128" in refused.error


def _plan(folder: Path, model: Path, spec: str) -> Path:
    plan = {"models": str(model), "k": 1, "calibrations": {"mill": spec}, "dtype": "float32"}
    (folder / "plan.yaml").write_text(yaml.safe_dump(plan))
    return folder / "plan.yaml"


def test_recover_checkpoint(
    tiny_llama: Path, spec: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings: dict[str, Any] = {"dtype": "float32", "memo": "off", "bench": False}
    dp.prune(tiny_llama, k=2, out=tmp_path / "cut", calibration=[spec], **settings)
    more = spec.replace("windows=6", "windows=24")
    manifest = dp.recover_checkpoint(
        tmp_path / "cut", tiny_llama, out=tmp_path / "one", calibration=more, **settings
    )
    _quiet(capsys)
    assert manifest.command == (
        f"dp.recover_checkpoint({str(tmp_path / 'cut')!r}, {str(tiny_llama)!r}, "
        f"out={str(tmp_path / 'one')!r}, calibration={more!r}, bench=False, dtype='float32', "
        "memo='off')"
    )
    words = ("recover", tmp_path / "cut", "--original", tiny_llama, "-o", tmp_path / "two", "-c")
    flags = ("--dtype", "float32", "--memo", "off", "--no-bench", "--json")
    told = run(capsys, *words, more, *flags).document
    ours = json.loads(manifest.text())
    assert ours["recovery"] == told["recovery"]
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    with pytest.raises(dp.UsageError, match="expected some words to continue"):
        dp.recover_checkpoint(tmp_path / "cut", tiny_llama, out=tmp_path / "x", prompt=" ")


def test_run_study(
    tiny_llama: Path, spec: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = tmp_path / "plan.yaml"
    plan.write_text(
        yaml.safe_dump(
            {
                "models": str(tiny_llama),
                "k": [1, 2],
                "calibrations": {"mill": spec},
                "searches": ["one-shot", "greedy"],
                "texts": {"mill": spec},
                "dtype": "float32",
                "device": "cpu",
            }
        ),
        encoding="utf-8",
    )
    result = dp.run_study(plan, tmp_path / "one", memo="off")
    _quiet(capsys)
    assert result.report is not None
    assert result.report.is_file()
    told = run(capsys, "study", plan, "-o", tmp_path / "two", "--memo", "off", "--json").document
    ours = _json(result.document())
    assert {**ours, "table": "", "report": ""} == {**told, "table": "", "report": ""}
    result.require_all()


@pytest.mark.parametrize(
    ("verb", "function"),
    [
        ("prune", dp.prune),
        ("apply", dp.apply),
        ("score", dp.score),
        ("evaluate", dp.evaluate),
        ("bench", dp.bench),
        ("bench", dp.bench_draft),
        ("recover", dp.recover_checkpoint),
        ("study", dp.run_study),
    ],
)
def test_a_keyword_has_the_default_of_its_flag(verb: str, function: Any) -> None:
    flags: Any = get_command(app)
    named = {flag.name: flag.default for flag in flags.commands[verb].params}
    keywords = inspect.signature(function).parameters
    shared = {name for name in named.keys() & keywords.keys() if named[name] not in (None, "")}
    assert {n: named[n] for n in shared} == {n: keywords[n].default for n in shared}
