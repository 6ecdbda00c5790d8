"""The command line, run in this process."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from depthprune.cli import main


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        status: The exit status.
        out: What it wrote on stdout.
        err: What it wrote on stderr.
    """

    status: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """The one JSON document on stdout of a run that went well."""
        assert self.status == 0, self.err
        return json.loads(self.out)

    @property
    def error(self) -> str:
        """The one line in which a run was refused; stdout must be empty.

        Warnings and notes may precede.

        So may steps that took long: a busy machine is no failure.
        """
        *before, last = self.err.splitlines()
        assert self.out == ""
        before = [line for line in before if ": done in " not in line and " left" not in line]
        assert [line for line in before if not line.startswith(("warning: ", "note: "))] == []
        assert last.startswith("error: ")
        assert "this is a bug" not in last
        return last.removeprefix("error: ")


Command = Callable[..., Outcome]


def called(words: list[str]) -> int:
    """The exit status of `depthprune`; the process's signal handlers stay as they were."""
    names = [name for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    handlers = {getattr(signal, name): signal.getsignal(getattr(signal, name)) for name in names}
    try:
        with pytest.raises(SystemExit) as left:
            main(words)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    return int(left.value.code or 0)


def run(capsys: pytest.CaptureFixture[str], *words: object) -> Outcome:
    """Run `depthprune` with these words."""
    capsys.readouterr()
    status = called([str(word) for word in words])
    return Outcome(status, *capsys.readouterr())
