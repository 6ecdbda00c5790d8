"""Command lines of the verbs' own flags, with what users and nobody would type behind them."""

from __future__ import annotations

import contextlib
import io
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import typer

from command import Outcome, called
from depthprune.cli.app import app
from depthprune.errors import DepthpruneError
from fuzz.mutations import HOSTILE

_PLAIN = (
    *("0", "1", "-1", "2", "1,2", "0-3", "3-1", "1,1", "4", "0.5", "1e9", "nan", "inf", "-"),
    *("auto", "cpu", "cuda:7", "mps", "meta", "float32", "int8", "nll", "kl:top=0", "greedy"),
    *("beam:width=0", "stdlib-prose", "text:nowhere", "a=b", "=", ":", ",", "%", "*", "~", "."),
)
_WORDS = (*_PLAIN, *(text for text in HOSTILE if isinstance(text, str) and "\0" not in text))


_COMMANDS: dict[str, Any] = dict(getattr(typer.main.get_command(app), "commands"))  # noqa: B009
VERBS = tuple(sorted(_COMMANDS))
# A traceback by design; what asks for nothing; and a model loaded, which takes long.
_LEFT_OUT = {"debug", "help", "version", "verify"}


def _parameters(verb: str) -> list[Any]:
    return [each for each in _COMMANDS[verb].params if each.name not in _LEFT_OUT]


def make_flags(folder: Path, good: Callable[[Path], None]) -> None:
    """A checkpoint that can be cut and not loaded."""
    (folder / "model").mkdir()
    good(folder / "model")


def _line(folder: Path, rng: random.Random) -> list[str]:
    # `apply` comes first: it is the one that gets something done here.
    verb = rng.choice(("apply", "apply", "apply", *VERBS))
    model = str(folder / "model")
    words = [verb]
    if verb == "apply" and rng.random() < 0.7:
        out = str(folder / f"out-{rng.randrange(10**9)}")
        words += [model, "--remove", rng.choice(("1", "0,2", "1-2")), "-o", out]
    for parameter in _parameters(verb):
        needed = parameter.param_type_name == "argument"
        if rng.random() > (0.8 if needed else 2 / len(_parameters(verb))):
            continue
        if not needed:
            words.append(rng.choice([*parameter.opts, *parameter.secondary_opts]))
        if not getattr(parameter, "is_flag", False) or rng.random() < 0.05:
            words.append(rng.choice((*_WORDS, model) if needed else _WORDS))
    return words


def attempt_flags(folder: Path, rng: random.Random) -> None:
    """A line is run; or refused in one line, with nothing on stdout and nothing written."""
    words = _line(folder, rng)
    # Deep below, for the words that climb.
    here = folder / "a" / "b" / "c" / "d"
    here.mkdir(parents=True, exist_ok=True)
    before = sorted(folder.rglob("*"))
    outcome = _run(words, here)
    if outcome.status:
        assert sorted(folder.rglob("*")) == before, words
        assert "Traceback" not in outcome.err, words
        raise DepthpruneError(outcome.error)


def _run(words: list[str], here: Path) -> Outcome:
    out, err = io.StringIO(), io.StringIO()
    before = os.getcwd()
    os.chdir(here)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = called(words)
    finally:
        os.chdir(before)
    return Outcome(status, out.getvalue(), err.getvalue())
