"""A signal at a drawn moment of any verb that works for long or writes: all or nothing stands.

Each verb runs once undisturbed, which tells how long it takes and what it gives; then it is stopped
at moments and by signals that are drawn, and run again where it was stopped.
`DEPTHPRUNE_FUZZ` is five hundred times the moments of each verb (`make fuzz`: 20). The verbs that
are left out (`searches`, `objectives`, `calibrations`, `architectures`) write nothing.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from depthprune import claims
from depthprune.cli import DONE, INTERRUPTED
from depthprune.outputs import as_target
from fuzz.places import tree

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="the signals are POSIX's"),
]

MOMENTS = max(int(os.environ.get("DEPTHPRUNE_FUZZ", "0")) // 500, 2)
FIRST = int(os.environ.get("DEPTHPRUNE_FUZZ_FROM", "0"))

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL)
_EXACT = ("--dtype", "float32", "--device", "cpu")
_TEXT = "text:{}/river.txt,windows=16,length=32"


@dataclass(frozen=True)
class Verb:
    """A command, and what it may leave.

    Attributes:
        words: Of the command; `{}` is the folder that it works in.
        out: The name of what it writes there.
        grows: Whether it writes that piece by piece, and goes on with what stands.
        replaces: Whether it stands before.
    """

    words: tuple[str, ...]
    out: str | None = None
    grows: bool = False
    replaces: bool = False


VERBS = {
    "apply": Verb(("{}/model", "--remove", "1,3", "-o", "{}/out"), "out"),
    "prune": Verb(
        ("{}/model", "-k", "2", "-c", _TEXT, *_EXACT, "--bench-seconds", "1", "-o", "{}/out"), "out"
    ),
    "recover": Verb(
        ("{}/cut", "--original", "{}/model", "-c", _TEXT, *_EXACT, "-o", "{}/out"), "out"
    ),
    "score": Verb(("{}/model", "-c", _TEXT, *_EXACT, "-o", "{}/figure.svg"), "figure.svg"),
    "evaluate": Verb(("{}/model", "-c", _TEXT, *_EXACT)),
    "bench": Verb(("{}/model", "--prompt-tokens", "16", "--new-tokens", "8", *_EXACT)),
    "study": Verb(("{}/plan.yaml", "-o", "{}/out"), "out", grows=True),
    "report": Verb(("{}/cut",), "cut", replaces=True),
    "memo": Verb(("--memo", "{}/memo.sqlite", "--prune", "--all"), "memo.sqlite", replaces=True),
}


def _command(name: str, words: Iterable[str], folder: Path) -> list[str]:
    code = "from depthprune.cli import main; main()"
    return [sys.executable, "-c", code, name, *(word.format(folder) for word in words)]


def _done(name: str, *words: str, folder: Path) -> None:
    assert subprocess.run(_command(name, words, folder), check=False).returncode == DONE


def _start(name: str, folder: Path) -> subprocess.Popen[str]:
    own = {"OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(folder / "cache"), "HF_HUB_OFFLINE": "1"}
    return subprocess.Popen(
        [*_command(name, VERBS[name].words, folder), "--json"],
        env={**os.environ, **own},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def _finish(name: str, folder: Path) -> tuple[str, float]:
    began = time.monotonic()
    out, err = _start(name, folder).communicate()
    return (out, time.monotonic() - began) if out else pytest.fail(err)


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path) -> Path:
    """A folder with all that the verbs work on; it is copied for each run."""
    folder = tmp_path_factory.mktemp("signals")
    shutil.copytree(tiny_llama, folder / "model")
    lines = (f"Line {i}: the river is {i * i % 97} feet high at the bridge.\n" for i in range(400))
    (folder / "river.txt").write_text("".join(lines), encoding="utf-8")
    plan = {
        "models": "model",
        "k": [1],
        "calibrations": {"river": "text:river.txt,windows=8,length=32"},
        "searches": ["one-shot", "greedy"],
        "draws": 2,
        "texts": {"river": "text:river.txt,windows=4,length=32,seed=9"},
        "dtype": "float32",
        "device": "cpu",
    }
    (folder / "plan.yaml").write_text(yaml.safe_dump(plan), encoding="utf-8")
    _done("apply", "{}/model", "--remove", "2", "-o", "{}/cut", folder=folder)
    _done("score", *VERBS["score"].words[:-2], "--memo", "{}/memo.sqlite", folder=folder)
    return folder


def _losses(memo: Path) -> int:
    with closing(sqlite3.connect(memo)) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        return int(database.execute("SELECT count(*) FROM losses").fetchone()[0])


_UNLIKE = {"seconds", "created", "cost", "speed", "elapsed", "peak_memory", "memo"}
"""Of a result, what two undisturbed runs do not share."""


def _alike(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _alike(each) for key, each in value.items() if key not in _UNLIKE}
    return [_alike(each) for each in value] if isinstance(value, list) else value


def _content(place: Path) -> Any:
    """What stands at an output, without what two undisturbed runs do not share."""
    if not place.exists():
        return None
    if place.name == "memo.sqlite":
        return _losses(place)
    if place.is_file():
        return place.stat().st_size > 0
    table = place / "study.jsonl"
    if table.exists():
        rows = table.read_text(encoding="utf-8").splitlines()[1:]
        return sorted(json.dumps(_alike(json.loads(row)), sort_keys=True) for row in rows)
    return {name: _essence(name, content) for name, content in tree(place).items()}


def _essence(name: str, content: object) -> object:
    if name.endswith((".safetensors", "config.json")):
        return content
    return not name.endswith(".html") or bytes(content).rstrip().endswith(b"</html>")  # type: ignore[call-overload]


def _others(folder: Path, but: Iterable[str]) -> dict[str, object]:
    left_out = {"cache", *but}
    return {
        name: content
        for name, content in tree(folder).items()
        if name.split(os.sep)[0] not in left_out and not name.startswith("memo.sqlite-")
    }


@pytest.mark.parametrize("name", VERBS)
def test_a_signal_at_any_moment_leaves_all_or_nothing(
    name: str, given: Path, tmp_path: Path
) -> None:
    verb = VERBS[name]
    whole = tmp_path / "whole"
    shutil.copytree(given, whole)
    before = _content(whole / verb.out) if verb.out else None
    assert verb.replaces == (before is not None)
    told, seconds = _finish(name, whole)
    json.loads(told)
    expected = _content(whole / verb.out) if verb.out else None
    stopped = 0
    for number in range(FIRST, FIRST + MOMENTS):
        folder = tmp_path / str(number)
        shutil.copytree(given, folder)
        stopped += _stop(name, folder, number, seconds)
        if verb.out and not verb.grows:
            assert _content(folder / verb.out) in (before, expected), number
        assert _others(folder, [verb.out or ""]) == _others(given, [verb.out or ""]), number
        if verb.grows or not verb.out or not (folder / verb.out).exists():
            _finish(name, folder)
            assert (_content(folder / verb.out) if verb.out else None) == expected, number
        shutil.rmtree(folder)
    assert stopped, "every run ended before its signal"


def _stop(name: str, folder: Path, number: int, seconds: float) -> bool:
    """Run a verb, and send it a signal at a moment of its own; whether it was still at work."""
    draw = random.Random(f"{name} {number}")
    what, out = draw.choice(_SIGNALS), VERBS[name].out
    process = _start(name, folder)
    try:
        told, said = process.communicate(timeout=draw.uniform(0.1, 0.9) * seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(what)
        told, said = process.communicate()
    status = process.returncode
    if status == DONE:
        json.loads(told)
    elif status == -signal.SIGKILL:
        if out and not VERBS[name].replaces:
            with claims.claimed(as_target(folder / out), overwrite=True):
                pass
    else:
        # Before the program has begun to listen, the signal itself or Python's own traceback.
        early = status == -what or "KeyboardInterrupt" in said
        assert early or (status == INTERRUPTED and told == ""), (number, status, said)
        assert early or said.splitlines()[-1].startswith("error: interrupted; "), (number, said)
    return status != DONE
