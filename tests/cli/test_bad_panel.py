"""Bad calibrations, budgets and plug-ins at the command line: one line, the right status, no OUT.

Status 2 is for what was typed, 1 for what was found in a file, a model or a plug-in.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
import torch

from command import Command
from depthprune import registry as plugins
from depthprune.calibration import SOURCES, Source
from depthprune.objectives import OBJECTIVES
from depthprune.searches import (
    SEARCHES,
    Ask,
    Space,
)

_EXACT = ("--dtype", "float32", "--device", "cpu", "--no-bench")


@pytest.fixture
def refused(depthprune: Command, tiny_llama: Path, tmp_path: Path) -> Callable[..., str]:
    """Runs `prune` into a folder two deep, which must be refused; gives the one line."""

    def refused(*words: object, status: int) -> str:
        before = sorted(tmp_path.rglob("*"))
        out = tmp_path / "new" / "deep" / "out"
        outcome = depthprune("prune", tiny_llama, "-k", 2, "-o", out, *_EXACT, *words)
        assert outcome.status == status, outcome
        assert sorted(tmp_path.rglob("*")) == before
        return outcome.error

    return refused


_GOOD = {"prompt": "The river is", "options": ["high", "low at the bridge"], "answer": 0}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"options": ["high", " "]}, "items.jsonl:2: option 1 is empty; mend or drop the item"),
        ({"options": ["high"]}, "items.jsonl:2: options expects two or more, got 1; drop the item"),
        (
            {"answer": 2},
            "items.jsonl:2: answer expects the index of an option, 0 to 1, its letter or its words",
        ),
        ({"answer": -1}, "0 to 1, its letter or its words, got -1"),
        ({"answer": True}, "0 to 1, its letter or its words, got True"),
        ({"prompt": "river " * 200}, "tokens with its longest option, and the model reads 128;"),
    ],
)
def test_an_item_that_cannot_be_judged_is_refused(
    change: dict[str, object],
    message: str,
    refused: Callable[..., str],
    no_weights: None,
    tmp_path: Path,
) -> None:
    rows = [_GOOD, _GOOD | change, *[_GOOD] * 18]
    file = tmp_path / "items.jsonl"
    file.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    spec = f"choices:{file},windows=all"
    assert message in refused("-c", spec, "--objective", "option-ce", status=1)


@pytest.mark.parametrize("weight", ["0", "-1", "nan", "inf", "much"])
def test_a_mixture_s_weights_are_above_0(
    weight: str, refused: Callable[..., str], no_weights: None, spec: str
) -> None:
    mixed = ("-c", spec, "-c", f"{spec},weight={weight}")
    assert f"weight= expects a number above 0, got {weight!r}" in refused(*mixed, status=2)


@pytest.mark.parametrize("weight", ["0", "-1", "nan", "inf"])
def test_an_objective_s_weights_are_above_0(
    weight: str, refused: Callable[..., str], no_weights: None, spec: str
) -> None:
    words = ("-c", spec, "--objective", f"nll:1+margin:{weight}")
    message = f"--objective: expected weights above 0, got {weight} for margin"
    assert message in refused(*words, status=2)


def test_everything_wrong_with_a_mixture_is_said_in_one_line(
    refused: Callable[..., str], no_weights: None, spec: str
) -> None:
    line = refused("-c", f"{spec},weight=0,sead=1", "-c", "txt:a,order=up", status=2)
    for part in ("weight= expects", "unknown key 'sead'", "source 'txt'", "order= expects"):
        assert part in line


@pytest.mark.parametrize("search", ["one-shot", "greedy", "beam", "genetic", "cbo"])
def test_a_budget_below_what_a_search_needs_to_start_is_refused(
    search: str, refused: Callable[..., str], no_weights: None, spec: str
) -> None:
    line = refused("-c", spec, "--search", search, "--budget", 5, status=2)
    assert line.startswith(f"--budget: {search} needs ")
    assert line.endswith("got 5; raise it, or take another search")


def test_k_too_large_for_exhaustive_says_how_many_sets_there_are_and_the_limit(
    refused: Callable[..., str], no_weights: None, spec: str
) -> None:
    line = refused("-c", spec, "--search", "exhaustive:limit=14", status=2)
    assert "there are 15 sets of 2 of 6 blocks, and the limit is 14" in line


@pytest.mark.parametrize("verb", ["prune", "score", "evaluate", "calibrations"])
@pytest.mark.parametrize("where", ["text:{}", "text:SPEC,against={}", "self:{},prefix=4"])
def test_a_missing_file_is_refused_before_a_tokenizer_is_read(
    verb: str, where: str, depthprune: Command, tiny_llama: Path, text: Path, tmp_path: Path
) -> None:
    spec = where.format(tmp_path / "none.txt").replace("SPEC", str(text))
    words: tuple[object, ...] = (verb, tiny_llama, "-c", spec)
    if verb == "prune":
        words += ("-k", 2, "-o", tmp_path / "a" / "out")
    if verb == "calibrations":
        words = (verb, "show", spec, "--model", tiny_llama)
    outcome = depthprune(*words)
    assert (outcome.status, outcome.out) == (1, "")
    # Not even a step was begun.
    assert outcome.err == f"error: {tmp_path / 'none.txt'}: no such file; check the path\n"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("verb", ["prune", "score"])
def test_further_draws_of_a_fixed_calibration_are_refused(
    verb: str, depthprune: Command, tiny_llama: Path, spec: str, no_weights: None, tmp_path: Path
) -> None:
    out = ("-k", 2, "-o", tmp_path / "out") if verb == "prune" else ()
    outcome = depthprune(verb, tiny_llama, "-c", f"{spec},order=first", "--draws", 2, *out)
    assert outcome.status == 2
    assert "every draw of text:" in outcome.error


@pytest.mark.parametrize("verb", ["prune", "score"])
def test_a_further_draw_that_would_be_refused_is_so_before_the_first_is_searched(
    verb: str, depthprune: Command, tiny_llama: Path, no_weights: None, tmp_path: Path
) -> None:
    """The first draw of three items has none that is longer than the model reads."""
    rows = [_GOOD | {"prompt": "The river is " * (80 if i == 7 else 1)} for i in range(30)]
    file = tmp_path / "items.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    out = ("-k", 2, "-o", tmp_path / "out") if verb == "prune" else ()
    outcome = depthprune(verb, tiny_llama, "-c", f"choices:{file},windows=3", "--draws", 40, *out)
    assert outcome.status == 1
    assert re.match(r"--draws, draw \d+ of 40: .*items.jsonl:8: the item has", outcome.error)


class Raising:
    """A search that fails half way."""

    name, summary, grows = "new", "fails", False

    def plan(self, space: Space, rng: random.Random) -> Any:
        yield Ask(((0,), (1,)), keep=1)
        raise KeyError("where\nis it")


class WrongSize(Raising):
    """A search that returns one block too many."""

    def plan(self, space: Space, rng: random.Random) -> Any:
        yield Ask(((0,),), keep=1)
        return space.free[: space.k + 1]


@dataclass(frozen=True)
class Broken:
    """An objective that fails, or answers with losses of the wrong shape."""

    how: str = "raises"
    name = "new"
    summary = "fails"
    has_perplexity = compares = items_only = False
    reads = "logits"
    bounds = None

    def token_losses(self, outputs: Any, targets: Any, dense: Any) -> Any:
        if self.how == "raises":
            raise IndexError("no such\ntoken")
        return torch.zeros(3)

    def window_loss(self, losses: Any, window: Any) -> float:
        return 0.0


def no_source(target: str, options: Any) -> Any:
    return iter(())


def _read(target: str, options: Any) -> Any:
    raise OSError("the server\nis away")


FAILING = Source("fails", _read, needs_target=False)


def _install(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    """Pretend that a package declares a name in every group; forget it afterwards."""
    entry = EntryPoint(name, f"test_bad_panel:{value}", "any")
    monkeypatch.setattr(plugins, "entry_points", lambda *, group: [entry])
    for registry in (SEARCHES, OBJECTIVES, SOURCES):
        monkeypatch.setattr(registry, "_plugins", None)


@pytest.mark.parametrize(
    ("value", "words", "status", "message"),
    [
        ("Raising", "--search new", 1, "search 'new' failed (KeyError: 'where"),
        ("WrongSize", "--search new", 1, "search 'new' gave (0, 1, 2), which is no sorted tuple"),
        ("Missing", "--search new", 2, "search 'new': its plug-in test_bad_panel:Missing failed"),
        ("Broken", "--search new", 2, "search 'new': its plug-in gives a Broken without grows"),
        ("Broken", "--objective new", 1, "objective 'new' failed (IndexError: no such); --debug"),
        (
            "Broken",
            "--objective new:how=other",
            1,
            "objective 'new' gave losses of shape (3,) for",
        ),
        ("Raising", "--objective new", 2, "objective 'new': its plug-in gives a Raising without"),
        ("no_source", "-c new", 2, "its plug-in test_bad_panel:no_source is a function, and a Sou"),
        ("FAILING", "-c new", 1, "calibration source 'new' failed (OSError: the server); --debug"),
    ],
)
def test_a_plug_in_that_breaks_its_word_is_named_in_one_line(
    value: str,
    words: str,
    status: int,
    message: str,
    refused: Callable[..., str],
    spec: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _install(monkeypatch, "new", value)
    calibration = () if words.startswith("-c") else ("-c", spec)
    assert message in refused(*calibration, *words.split(), status=status)


@pytest.mark.parametrize(
    ("name", "kind"), [("greedy", "search"), ("nll", "objective"), ("text", "calibration source")]
)
def test_a_plug_in_that_takes_a_name_is_refused_though_the_name_works(
    name: str,
    kind: str,
    refused: Callable[..., str],
    spec: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _install(monkeypatch, name, "Raising")
    line = refused("-c", spec, "--search", "greedy", status=2)
    assert f"{kind} '{name}': the plug-in test_bad_panel:Raising names one that exists" in line
    assert line.endswith("remove that package")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["-k", 2], "-k: counts over draws"),
        (["-k", 6, "--draws", 2], "-k: expected 1 to 5 of the 6 blocks, got 6"),
        (["--memory", "1e999"], "--memory: expected a size"),
    ],
)
def test_what_score_cannot_count_is_refused(
    depthprune: Command, tiny_llama: Path, flags: list[object], words: str
) -> None:
    outcome = depthprune("score", tiny_llama, "-c", "stdlib-prose", *flags)
    assert outcome.status == 2
    assert outcome.error.startswith(words)
