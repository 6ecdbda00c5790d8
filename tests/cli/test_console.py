"""Progress shows itself on stderr once a step is long; stdout is for results."""

from __future__ import annotations

import io
import json
import math
import sys

import pytest
from rich.table import Table
from rich.text import Text

from depthprune.cli import console, main
from depthprune.cli.console import TerminalProgress, note, show, show_json
from depthprune.cli.tables import evaluate_table, score_table
from depthprune.errors import ModelError
from depthprune.manifest import BlockScore, Estimate


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(console, "time", clock)
    return clock


def _work(clock: Clock, seconds: list[float], total: float | None, unit: str) -> None:
    """A step whose parts, one unit each, take these seconds."""
    with TerminalProgress().step("scoring", total, unit) as step:
        for each in seconds:
            clock.now += each
            step.advance()


def test_a_short_step_says_nothing(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    _work(clock, [0.5, 0.5, 0.9], 3, "sets")
    assert capsys.readouterr() == ("", "")


def test_a_step_over_two_seconds_shows_share_rate_and_time_left(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    _work(clock, [0.5] * 16, 16, "sets")
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "scoring: 25%, 2 sets/s, 6.0 s left",
        "scoring: done in 8.0 s",
    ]


def test_lines_come_now_and_then_and_not_at_every_turn(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    _work(clock, [1.0] * 40, 40, "sets")
    shares = [line.split(",")[0] for line in capsys.readouterr().err.splitlines()]
    assert shares == [
        "scoring: 5%",
        "scoring: 30%",
        "scoring: 55%",
        "scoring: 80%",
        "scoring: done in 40 s",
    ]


def test_a_slow_step_tells_seconds_a_unit(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    _work(clock, [4.0], 2, "checks")
    first = capsys.readouterr().err.splitlines()[0]
    assert first == "scoring: 50%, 4.0 s a check, 4.0 s left"


def test_a_step_of_unknown_size_tells_its_rate_alone(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    _work(clock, [3.0] * 2, None, "files")
    assert capsys.readouterr().err.splitlines()[0] == "scoring: 3.0 s a file"


def test_a_long_step_without_parts_is_told_when_it_is_done(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with TerminalProgress().step("loading", None, ""):
        clock.now += 5
    assert capsys.readouterr().err == "loading: done in 5.0 s\n"


def test_a_step_that_fails_is_not_called_done(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    def work() -> None:
        with TerminalProgress().step("loading", None, ""):
            clock.now += 5
            raise ModelError("no")

    with pytest.raises(ModelError):
        work()
    assert capsys.readouterr().err == ""


def test_a_terminal_gets_a_bar_and_stdout_nothing(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "120")
    _work(clock, [1.5] * 4, 4, "sets")
    shown = terminal.getvalue()
    assert "scoring" in shown
    assert "100%" in shown
    assert "1.5 s a set" in shown
    assert capsys.readouterr().out == ""


def test_results_go_to_stdout_and_notes_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    show("a result")
    note("a note")
    assert capsys.readouterr() == ("a result\n", "a note\n")


def test_a_note_is_one_line_and_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    message = "warning: [bold]" + "long " * 60 + "end"
    note(message)
    assert capsys.readouterr().err == message + "\n"


def test_numbers_that_json_has_no_word_for_become_null(
    capsys: pytest.CaptureFixture[str],
) -> None:
    show_json({"a": math.nan, "b": [math.inf, 1.5], "c": (-math.inf,), "d": "Größe"})
    out = capsys.readouterr().out
    assert json.loads(out) == {"a": None, "b": [None, 1.5], "c": [None], "d": "Größe"}
    assert "Größe" in out


HOSTILE = "a\x1b[2Jb\x07c\x9bd\u202ee\u200bf\ud800g\r[bold]h[/nothing] :smile:"


def test_nothing_of_a_result_is_obeyed_by_terminal_or_markup(
    capsys: pytest.CaptureFixture[str],
) -> None:
    table = Table(HOSTILE)
    table.add_row(HOSTILE)
    for result in (HOSTILE, Text(HOSTILE), table):
        show(result)
    out, _ = capsys.readouterr()
    assert "a[2Jbcdefg[bold]h[/nothing] :smile:" in out
    assert all(each.isprintable() or each == "\n" for each in out)


def test_what_does_not_print_is_spelled_out_in_json(capsys: pytest.CaptureFixture[str]) -> None:
    show_json({"name": HOSTILE + "ß中"})
    out, _ = capsys.readouterr()
    assert "ß中" in out
    assert all(each.isprintable() or each == "\n" for each in out)
    assert json.loads(out) == {"name": HOSTILE + "ß中"}


def test_a_narrow_terminal_loses_no_number(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    estimate = Estimate(loss=2.25, stderr=0.11, windows=16, tokens=8176, perplexity=9.5)
    score = BlockScore(block=17, loss=2.5, stderr=0.1, increase=-0.25, increase_stderr=0.1)
    show(evaluate_table([("text:my.txt", "nll", estimate)]))
    show(score_table([score], estimate))
    out = capsys.readouterr().out
    for number in ("my.txt", "2.25 ± 0.11", "8,176", "17", "−0.25 ± 0.10"):
        assert number in out


def test_an_encoding_without_a_minus_sign_does_not_lose_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    taken = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(taken, encoding="latin-1"))
    with pytest.raises(SystemExit):
        main(["--version"])
    show(Text("−0.25 ± 0.10, × 2, ü, 川"))
    assert taken.getvalue().decode("latin-1").splitlines()[-1].rstrip() == (
        "-0.25 ± 0.10, × 2, ü, ?"
    )
