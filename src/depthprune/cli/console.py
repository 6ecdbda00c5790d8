"""What the terminal shows: results on stdout, everything else on stderr.

A step that takes over two seconds shows how far it is, its rate and the time left: as a bar where
stderr is a terminal, as a line now and then where it is not.
"""

from __future__ import annotations

import json
import logging
import math
import shlex
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import typer
from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.segment import Segment

from depthprune.claims import published
from depthprune.errors import OutputError, one_line
from depthprune.progress import ProgressStep
from depthprune.report.numbers import duration, format_count

_SHOW_AFTER = 2.0
_LINE_EVERY = 10.0
_NARROWEST = 80
"""Columns that tables are made for."""


def command_line(context: typer.Context) -> str:
    """The command that this run was, as one would type it again."""
    words = context.obj if isinstance(context.obj, list) else sys.argv[1:]
    return shlex.join(["depthprune", *words])


def show(result: RenderableType) -> None:
    """Print a result on stdout; nothing of its text is obeyed, neither as markup nor as control."""
    with _stdout():
        console = _SafeConsole(highlight=False, markup=False, emoji=False)
        # A narrower terminal folds the lines itself; columns squeezed into it would lose digits.
        console.width = max(console.width, _NARROWEST)
        console.print(result, crop=False)


class _SafeConsole(Console):
    """Shows no character that a terminal obeys, or that reorders or hides others.

    Names of tensors, files, types and texts may come from anyone. Styles are rich's own and stay.
    """

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            if segment.control or segment.text.isprintable():
                yield segment
            else:
                yield Segment(_printable(segment.text), segment.style)


def _printable(text: str) -> str:
    return "".join(each for each in text if each.isprintable() or each == "\n")


def _escaped(document: str) -> str:
    """JSON in which what does not print is spelled out; it says the same."""
    return "".join(
        each if each.isprintable() or each == "\n" else json.dumps(each)[1:-1] for each in document
    )


def note(message: str) -> None:
    """Print a line on stderr; where nobody can read it any more, the work goes on."""
    with suppress(OSError):
        Console(stderr=True, highlight=False, markup=False, soft_wrap=True).print(one_line(message))


class _Notes(logging.Handler):
    """What the rooms log, as lines on stderr."""

    def emit(self, record: logging.LogRecord) -> None:
        kind = "warning" if record.levelno >= logging.WARNING else "note"
        note(f"{kind}: {record.getMessage()}")


@contextmanager
def listening() -> Iterator[None]:
    """Inside the context, what the rooms log is shown on stderr."""
    log, handler = logging.getLogger("depthprune"), _Notes()
    level = log.level
    log.setLevel(logging.INFO)
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)


def show_json(document: Any) -> None:
    """Print one JSON document on stdout; NaN and infinities become null."""
    show_text(json.dumps(_plain(document), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def show_text(text: str) -> None:
    """Print a text of JSON, or a path, on stdout; what does not print is spelled out."""
    with _stdout():
        sys.stdout.write(text if text.isascii() and "\x7f" not in text else _escaped(text))


@contextmanager
def _stdout() -> Iterator[None]:
    """Have what is printed written before going on, and say of a stdout that takes nothing.

    Raises:
        BrokenPipeError: If whoever read it has gone, which is no error of theirs.
        OutputError: If it cannot be written.
    """
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        written = "".join(f"; {path} stands" for path in published())
        raise OutputError(
            f"standard output: cannot be written ({error.strerror}){written}; send it elsewhere"
        ) from error


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


class _Rate:
    """Counts what is done and tells the rate."""

    def __init__(self, total: float | None, unit: str) -> None:
        self.total = total
        self.unit = unit
        self.done = 0.0
        self.began = time.monotonic()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began

    def words(self) -> str:
        if not self.done or not self.unit:
            return ""
        rate = self.done / max(self.seconds, 1e-9)
        if rate < 1:
            return f"{1 / rate:.1f} s a {self.unit.removesuffix('s')}"
        return f"{format_count(round(rate))} {self.unit}/s"

    def left(self) -> str:
        if not self.total or not self.done:
            return ""
        return f"{duration(self.seconds * (self.total / self.done - 1))} left"


class _LineStep:
    """A step on a stderr that is no terminal: a line once in a while."""

    def __init__(self, label: str, rate: _Rate) -> None:
        self._label = label
        self._rate = rate
        self._next = _SHOW_AFTER

    def advance(self, amount: float = 1.0) -> None:
        self._rate.done += amount
        if self._rate.seconds < self._next:
            return
        self._next = self._rate.seconds + _LINE_EVERY
        share = f"{self._rate.done / self._rate.total:.0%}" if self._rate.total else ""
        facts = [part for part in (share, self._rate.words(), self._rate.left()) if part]
        note(f"{self._label}: {', '.join(facts)}")


class _BarStep:
    """A step on a terminal: a bar, drawn only once it has taken a while."""

    def __init__(self, bar: Progress, task: TaskID, rate: _Rate) -> None:
        self._bar = bar
        self._task = task
        self._rate = rate

    def advance(self, amount: float = 1.0) -> None:
        self._rate.done += amount
        self._bar.update(
            self._task,
            advance=amount,
            rate=self._rate.words(),
            visible=self._rate.seconds >= _SHOW_AFTER,
        )


class TerminalProgress:
    """Shows steps on stderr."""

    @contextmanager
    def step(self, label: str, total: float | None, unit: str) -> Iterator[ProgressStep]:
        """See `depthprune.progress.Progress.step`."""
        rate = _Rate(total, unit)
        if sys.stderr.isatty():
            with self._bar(total) as bar:
                task = bar.add_task(label, total=total, rate="", visible=total is None)
                yield _BarStep(bar, task, rate)
        else:
            yield _LineStep(label, rate)
        if rate.seconds >= _SHOW_AFTER:
            note(f"{label}: done in {duration(rate.seconds)}")

    def _bar(self, total: float | None) -> Progress:
        columns: list[Any] = [SpinnerColumn(), TextColumn("{task.description}", markup=False)]
        if total is not None:
            columns += [BarColumn(), TaskProgressColumn(), TextColumn("{task.fields[rate]}")]
            columns += [TimeRemainingColumn()]
        return Progress(*columns, console=Console(stderr=True), transient=True)
