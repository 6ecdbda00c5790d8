"""What was found is kept: what an interruption, a failure or a second run costs, step by step."""

from __future__ import annotations

import errno
import json
import os
import random
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from command import Command, Outcome
from depthprune import claims, publishing
from depthprune.cli import (
    DONE,
    FAILED,
    INTERRUPTED,
    WRONG_USAGE,
)
from depthprune.cli import apply as apply_verb
from depthprune.errors import OutputError, UsageError
from depthprune.models import loading
from depthprune.outputs import as_target
from depthprune.pruning import write
from depthprune.report import publish
from depthprune.study import runner
from gguf_tiny import tiny_gguf

_FAST = ("--dtype", "float32", "--device", "cpu")


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny llama of six blocks as a GGUF; leave it as it is."""
    return tiny_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf", tokenizer=True)


@pytest.fixture(params=["out", "out.gguf"])
def out(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """An output of either kind."""
    return tmp_path / request.param


@pytest.fixture
def prune(depthprune: Command, tiny_llama: Path, gguf: Path, spec: str, out: Path) -> Command:
    """Runs `prune` into `out`, with its speed measured."""
    model = gguf if out.suffix else tiny_llama

    def prune(*words: object) -> Outcome:
        return depthprune("prune", model, "-k", 2, "-c", spec, "-o", out, *_FAST, *words)

    return prune


def _manifest(out: Path) -> Any:
    place = out.with_suffix(".depthprune.json") if out.suffix else out / "depthprune.json"
    return json.loads(place.read_text(encoding="utf-8"))


def _page(out: Path) -> str:
    place = out.with_suffix(".report.html") if out.suffix else out / "report.html"
    return place.read_text(encoding="utf-8")


def _hidden(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob(".*")]


def _interrupt(*arguments: object, **options: object) -> None:
    raise KeyboardInterrupt


def test_sample_and_speed_are_added_to_manifest_and_page(prune: Command, out: Path) -> None:
    found = prune("--json").document
    assert found == _manifest(out)
    assert found["speed"]["repeats"] == 5
    assert found["speed"]["new_tokens"] == 32
    assert found["sample"]["before"]
    assert "What both models write" in _page(out)
    assert "decode" in _page(out)
    assert _hidden(out.parent) == []


def test_an_interruption_of_the_speed_costs_the_speed_alone(
    prune: Command, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write, "measure", _interrupt)
    outcome = prune()
    assert outcome.status == INTERRUPTED
    note, error = outcome.err.splitlines()[-2:]
    assert note == "note: the checkpoint is whole and proven; of it the speed was not measured"
    assert error == f"error: interrupted; {out} stands, whole"
    manifest = _manifest(out)
    assert manifest["speed"] is None
    assert manifest["sample"] is not None
    assert manifest["parity"]["bitwise"]
    assert "What both models write" in _page(out)
    assert _hidden(out.parent) == []
    monkeypatch.undo()
    assert prune("--overwrite").status == DONE


def test_an_interruption_of_the_sample_costs_what_is_measured_from_there_on(
    prune: Command, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write, "continuation", _interrupt)
    outcome = prune()
    assert (outcome.status, outcome.out) == (INTERRUPTED, "")
    assert outcome.err.endswith(f"error: interrupted; {out} stands, whole\n")
    assert (_manifest(out)["speed"], _manifest(out)["sample"]) == (None, None)


@pytest.mark.parametrize(
    ("step", "missing", "there"),
    [("measure", "speed", "sample"), ("continuation", "sample", "speed")],
)
def test_a_failure_of_what_is_measured_afterwards_costs_it_alone(
    step: str,
    missing: str,
    there: str,
    prune: Command,
    out: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(write, step, fail)
    outcome = prune()
    assert outcome.status == DONE
    assert f"warning: the {missing} was not measured (out of memory)" in outcome.err
    assert _manifest(out)[missing] is None
    assert _manifest(out)[there] is not None


def test_a_disk_that_fills_up_afterwards_costs_what_would_be_added(
    prune: Command, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path) -> None:
        raise OutputError(f"-o {path}: the disk is full")

    monkeypatch.setattr(claims, "whole_file", full)
    outcome = prune("--no-bench", "--json")
    assert outcome.status == DONE
    assert (
        "the checkpoint is whole and proven; to it the sample cannot be added: -o " in outcome.err
    )
    assert "the disk is full" in outcome.err
    assert outcome.document == _manifest(out)
    assert _manifest(out)["sample"] is None
    assert _hidden(out.parent) == []


def test_too_little_time_for_the_speed_is_said_and_costs_it_alone(
    prune: Command, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(0, 10**6, 50))
    monkeypatch.setattr("depthprune.models.speed.time.perf_counter", lambda: float(next(clock)))
    outcome = prune("--bench-seconds", 60)
    assert outcome.status == DONE
    assert "the speed was not measured (60 seconds are too few to run each model" in outcome.err
    assert _manifest(out)["speed"] is None


@pytest.mark.parametrize(
    "place",
    [
        (write, "reload_like"),
        (write, "verify"),
        (write, "write_report"),
        (claims.Claim, "publish"),
    ],
)
def test_an_interruption_before_the_output_appears_leaves_nothing(
    place: tuple[Any, str], prune: Command, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(*place, _interrupt)
    outcome = prune()
    assert (outcome.status, outcome.error) == (INTERRUPTED, "interrupted; nothing was written")
    assert list(out.parent.iterdir()) == []


def test_an_interruption_right_behind_the_last_rename_says_that_the_output_stands(
    prune: Command, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "move_files" if out.suffix else "publish_folder"
    real: Callable[..., None] = getattr(publishing, name)

    def then_stop(*arguments: object, **options: object) -> None:
        real(*arguments, **options)
        raise KeyboardInterrupt

    monkeypatch.setattr(claims, name, then_stop)
    outcome = prune()
    assert outcome.error == f"interrupted; {out} stands, whole"
    assert _manifest(out)["parity"]["bitwise"]
    assert _hidden(out.parent) == []


def test_an_interruption_while_the_first_is_answered_ends_the_run(
    depthprune: Command, tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(apply_verb, "show_text", _interrupt)
    monkeypatch.setattr("depthprune.cli.what_stands", _interrupt)
    outcome = depthprune("apply", tiny_llama, "--remove", 1, "-o", tmp_path / "out", "--json")
    assert (outcome.status, outcome.out, outcome.err) == (INTERRUPTED, "", "")


def test_an_interruption_while_apply_prints_says_that_the_output_stands(
    depthprune: Command, tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(apply_verb, "show_text", _interrupt)
    out = tmp_path / "out"
    outcome = depthprune("apply", tiny_llama, "--remove", 1, "-o", out, "--json")
    assert (outcome.status, outcome.error) == (INTERRUPTED, f"interrupted; {out} stands, whole")


def test_an_interruption_that_a_library_takes_for_its_own_failure_is_one(
    depthprune: Command,
    tiny_llama: Path,
    spec: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def load(*arguments: object, **options: object) -> None:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt as interruption:
            # As an extension module says it whose import is interrupted.
            raise ImportError("initialization failed") from interruption

    monkeypatch.setattr(loading, "load_module", load)
    out = tmp_path / "out"
    outcome = depthprune("prune", tiny_llama, "-k", 1, "-c", spec, "-o", out, *_FAST)
    assert outcome.status == INTERRUPTED
    assert outcome.error == "interrupted; nothing was written"
    assert not out.exists()


def test_an_interrupted_study_says_what_stands(
    depthprune: Command,
    tiny_llama: Path,
    spec: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plan = tmp_path / "plan.yaml"
    plan.write_text(
        json.dumps(
            {
                "models": str(tiny_llama),
                "k": [1, 2, 3],
                "calibrations": {"river": spec},
                "searches": ["one-shot"],
                "texts": {"river": spec},
                "dtype": "float32",
                "device": "cpu",
            }
        ),
        encoding="utf-8",
    )
    out = tmp_path / "study"
    with monkeypatch.context() as patch:
        patch.setattr(runner, "make_suite", _interrupt)
        outcome = depthprune("study", plan, "-o", out)
    table = out / "results.jsonl"
    assert outcome.status == INTERRUPTED
    assert outcome.error == (
        f"interrupted; the 0 cells in {table} stand; the same command goes on from there"
    )
    with monkeypatch.context() as patch:
        patch.setattr("depthprune.pruning.session.memo_at", _interrupt)
        patch.setattr("depthprune.study.run.memo_at", _interrupt)
        outcome = depthprune("study", plan, "-o", tmp_path / "other")
    assert outcome.error == "interrupted; nothing was written"
    assert not (tmp_path / "other").exists()
    with claims.held(out):
        outcome = depthprune("study", plan, "-o", out)
    assert outcome.status == FAILED
    assert outcome.error.startswith(f"-o {out}: another process is writing there")
    assert depthprune("study", plan, "-o", out).status == DONE


def test_a_page_is_written_only_over_one_that_the_manifest_lists(
    depthprune: Command, tiny_llama: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    words = ("apply", tiny_llama, "--remove", 1, "-o", out)
    assert depthprune(*words).status == DONE
    manifest = _manifest(out)
    bare = {
        **manifest,
        "files": [f for f in manifest["files"] if f not in ("README.md", "report.html")],
    }
    (out / "depthprune.json").write_text(json.dumps(bare), encoding="utf-8")
    (out / "report.html").unlink()
    (out / "README.md").write_text("mine", encoding="utf-8")
    outcome = depthprune("report", out)
    assert outcome.status == FAILED
    assert outcome.error.startswith(f"{out / 'README.md'}: is not depthprune's")
    assert (out / "README.md").read_text(encoding="utf-8") == "mine"
    assert not (out / "report.html").exists()
    (out / "README.md").rename(out / "NOTES.md")
    assert depthprune("report", out).status == DONE
    assert set(_manifest(out)["files"]) == set(manifest["files"])
    assert depthprune(*words, "--overwrite").status == DONE
    assert (out / "NOTES.md").read_text(encoding="utf-8") == "mine"


def test_the_page_of_a_gguf_is_written_again(
    depthprune: Command, gguf: Path, tmp_path: Path
) -> None:
    out = tmp_path / "x.gguf"
    assert depthprune("apply", gguf, "--remove", 1, "-o", out).status == DONE
    page = tmp_path / "x.report.html"
    before = page.read_text(encoding="utf-8")
    page.unlink()
    assert depthprune("report", out).out.strip().endswith("x.report.html")
    assert page.read_text(encoding="utf-8") == before
    assert publish.CARD not in [path.name for path in tmp_path.iterdir()]


def test_a_dry_run_needs_no_output(depthprune: Command, tiny_llama: Path, spec: str) -> None:
    words = ("prune", tiny_llama, "-k", 2, "-c", spec, *_FAST)
    assert depthprune(*words, "--dry-run", "--json").document["k"] == 2
    outcome = depthprune(*words)
    assert outcome.status == WRONG_USAGE
    assert outcome.error.startswith("Missing option '-o' / '--out'")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("--prompt", ""), "--prompt: expected some words to continue, got none"),
        (("--prompt", " \n"), "--prompt: expected some words to continue, got none"),
        (("--seed", 10**30), "Invalid value for '--seed'"),
        (("--seed", 2**32), "Invalid value for '--seed'"),
        (("--protect", "\udcff"), r"argument 13: '--protect"),
    ],
)
@pytest.mark.usefixtures("no_weights")
def test_words_that_nothing_can_be_done_with_are_refused_at_once(
    words: tuple[object, ...],
    line: str,
    depthprune: Command,
    tiny_llama: Path,
    spec: str,
    tmp_path: Path,
) -> None:
    out = ("prune", tiny_llama, "-k", 2, "-c", spec, "-o", tmp_path / "out", *_FAST)
    outcome = depthprune(*out, *words)
    assert outcome.status == WRONG_USAGE
    if "argument" in line:
        assert re.match(r"argument \d+: '\\udcff' is not UTF-8", outcome.error)
    else:
        assert outcome.error.startswith(line)
    assert list(tmp_path.iterdir()) == []


def _run(*words: object, **options: Any) -> subprocess.Popen[str]:
    code = "from depthprune.cli import main; main()"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, words)],
        env=environment,
        text=True,
        stderr=subprocess.PIPE,
        **options,
    )


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
@pytest.mark.parametrize("words", [("architectures",), ("architectures", "--json"), ("--help",)])
def test_a_full_standard_output_is_one_clear_line(words: tuple[str, ...]) -> None:
    with open("/dev/full", "w", encoding="utf-8") as full, _run(*words, stdout=full) as process:
        _, said = process.communicate()
    assert process.returncode == FAILED
    assert said == (
        "error: standard output: cannot be written (No space left on device); send it elsewhere\n"
    )


@pytest.mark.skipif(sys.platform == "win32", reason="the shell is POSIX's")
@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_closed_streams_are_no_reason_to_stop(
    tiny_llama: Path, tmp_path: Path, closed: str
) -> None:
    words = ("apply", tiny_llama, "--remove", "1", "-o", tmp_path / "out")
    command = shlex.join([sys.executable, "-m", "depthprune", *map(str, words)])
    found = subprocess.run(["sh", "-c", f"{command} {closed}"], capture_output=True, check=False)
    assert (found.returncode, found.stderr) == (DONE, b"")
    assert json.loads((tmp_path / "out/depthprune.json").read_text())["removed"] == [1]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
def test_a_full_standard_error_is_no_reason_to_stop(tiny_llama: Path, tmp_path: Path) -> None:
    words = ("apply", tiny_llama, "--remove", "1", "-o", tmp_path / "out", "--json")
    code = "from depthprune.cli import main; main()"
    with open("/dev/full", "w", encoding="utf-8") as full:
        found = subprocess.run(
            [sys.executable, "-c", code, *map(str, words)],
            stdout=subprocess.PIPE,
            stderr=full,
            check=False,
        )
    assert found.returncode == DONE
    assert json.loads(found.stdout)["removed"] == [1]


def test_an_output_that_stands_is_named_where_standard_output_is_full(
    depthprune: Command, tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(text: str) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(sys.stdout, "write", full)
    out = tmp_path / "out"
    outcome = depthprune("apply", tiny_llama, "--remove", "1", "-o", out, "--json")
    assert outcome.status == FAILED
    assert f"(No space left on device); {out} stands; send it elsewhere" in outcome.error


@pytest.mark.skipif(sys.platform == "win32", reason="the signals are POSIX's")
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP", "SIGKILL"])
def test_a_signal_at_any_moment_leaves_all_or_nothing(
    name: str, tiny_llama: Path, spec: str, tmp_path: Path
) -> None:
    """Two moments each, drawn over the time that a whole run takes."""
    number = getattr(signal, name)
    draw = random.Random(name)
    words = ("prune", tiny_llama, "-k", 2, "-c", spec, *_FAST, "--memo", "off", "--json")
    for place in range(2):
        folder = tmp_path / str(place)
        folder.mkdir()
        out = folder / "out"
        with _run(*words, "-o", out, stdout=subprocess.DEVNULL) as process:
            try:
                process.wait(draw.uniform(1.0, 5.0))
            except subprocess.TimeoutExpired:
                process.send_signal(number)
            assert process.stderr is not None
            said = process.stderr.read()
        if process.returncode == INTERRUPTED:
            stands = "interrupted; nothing was written" not in said
            assert said.endswith(f"error: interrupted; {out} stands, whole\n") is stands
            assert out.exists() is stands
        elif process.returncode not in (DONE, -signal.SIGKILL):
            # Only before the program has begun to listen.
            assert process.returncode == -number or "KeyboardInterrupt" in said
        if out.exists():
            assert _manifest(out)["parity"]["bitwise"]
        if process.returncode != -signal.SIGKILL:
            assert [each.name for each in folder.iterdir() if each != out] == []
        else:
            with claims.claimed(as_target(folder / "out"), overwrite=True):
                pass
            assert [each.name for each in folder.iterdir() if each != out] == []


@pytest.mark.skipif(sys.platform == "win32", reason="the signals are POSIX's")
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
@pytest.mark.parametrize(
    "failure",
    [
        SystemError("initialization of _internal failed without raising an exception"),
        UsageError("--recover lora: needs peft, which is not installed"),
    ],
)
def test_an_interruption_that_an_import_swallowed_is_one_where_it_then_fails(
    depthprune: Command,
    tiny_llama: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    failure: Exception,
) -> None:
    def swallowing(*_: Any, **__: Any) -> None:
        with suppress(KeyboardInterrupt):
            signal.raise_signal(getattr(signal, name))
        raise failure

    monkeypatch.setattr("depthprune.pruning.apply.apply", swallowing)
    outcome = depthprune("apply", tiny_llama, "--remove", "1", "-o", tmp_path / "out")
    assert outcome.status == INTERRUPTED
    assert outcome.err == "error: interrupted; nothing was written\n"


@pytest.mark.skipif(sys.platform == "win32", reason="the signals are POSIX's")
def test_a_further_request_to_end_is_heard_where_the_first_was_lost(
    depthprune: Command, tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard = []

    def swallowing(*_: Any, **__: Any) -> None:
        for wait in (0.0, 9.0, 11.0):
            now[0] += wait
            try:
                signal.raise_signal(signal.SIGTERM)
            except KeyboardInterrupt:
                heard.append(now[0])
        raise KeyboardInterrupt

    now = [100.0]
    monkeypatch.setattr("depthprune.cli.monotonic", lambda: now[0])
    monkeypatch.setattr("depthprune.pruning.apply.apply", swallowing)
    outcome = depthprune("apply", tiny_llama, "--remove", "1", "-o", tmp_path / "out")
    assert outcome.status == INTERRUPTED
    assert heard == [100.0, 120.0]


@pytest.mark.skipif(sys.platform == "win32", reason="the signal is POSIX's")
def test_a_run_that_is_to_survive_its_terminal_does(
    depthprune: Command, tiny_llama: Path, tmp_path: Path
) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        depthprune("apply", tiny_llama, "--remove", "1", "-o", tmp_path / "out")
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_losses_that_were_scored_before_an_interruption_are_in_the_memo(
    depthprune: Command,
    tiny_llama: Path,
    spec: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    words = ("prune", tiny_llama, "-k", 2, "-c", spec, "-o", tmp_path / "out", *_FAST, "--no-bench")
    with monkeypatch.context() as patch:
        patch.setattr(write, "reload_like", _interrupt)
        assert depthprune(*words).status == INTERRUPTED
    cost = depthprune(*words, "--json").document["search"]["cost"]
    assert cost["block_tokens"] == 0
    assert cost["recalled"] > 0


def test_an_interruption_of_the_memo_s_pruning_deletes_nothing(
    depthprune: Command, tiny_llama: Path, spec: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert depthprune("evaluate", tiny_llama, "-c", spec, *_FAST).status == DONE
    before = depthprune("memo", "--json").document["losses"]
    assert before > 0
    with monkeypatch.context() as patch:
        patch.setattr("depthprune.evaluator.memo.store.delete_contexts", _interrupt)
        outcome = depthprune("memo", "--prune", "--all")
    assert outcome.error == "interrupted; nothing was written"
    assert depthprune("memo", "--json").document["losses"] == before


def test_an_interruption_of_the_figure_leaves_the_earlier_one(
    depthprune: Command,
    tiny_llama: Path,
    spec: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    figure = tmp_path / "blocks.svg"
    figure.write_text("earlier", encoding="utf-8")
    words = ("score", tiny_llama, "-c", spec, *_FAST, "-o", figure, "--overwrite")
    with monkeypatch.context() as patch:
        patch.setattr("depthprune.report.export.svg", _interrupt)
        assert depthprune(*words).error == "interrupted; nothing was written"
    assert figure.read_text(encoding="utf-8") == "earlier"
    with monkeypatch.context() as patch:
        patch.setattr("depthprune.cli.tables.score_table", _interrupt)
        assert depthprune(*words).error == f"interrupted; {figure} stands"
    assert figure.read_text(encoding="utf-8").startswith("<svg")
    assert [path.name for path in tmp_path.iterdir()] == ["blocks.svg"]
