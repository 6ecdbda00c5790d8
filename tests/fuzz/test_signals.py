"""A signal at any moment of any verb leaves an output whole, an earlier one, or none.

Each verb first runs to its end, which takes so long; then it is ended at moments drawn over that
time, each time into the place that the time before left; at last it runs to its end again and gives
what it gave at first. `DEPTHPRUNE_FUZZ` is 500 times the moments of each verb and signal.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from depthprune.checkpoints.checkpoint import open_checkpoint
from depthprune.checkpoints.gguf.reader import read_gguf
from depthprune.cli import DONE, INTERRUPTED
from gguf_tiny import tiny_gguf
from tiny import save_text

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="the signals are POSIX's"),
]

MOMENTS = max(1, int(os.environ.get("DEPTHPRUNE_FUZZ", "60")) // 500)
SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGKILL")
_FAST = ("--dtype", "float32", "--device", "cpu", "--threads", "1")


def _start(words: list[str], cache: Path) -> subprocess.Popen[str]:
    """A process that listens as one of a terminal does, whatever ours was started by."""

    def listen() -> None:
        for name in SIGNALS[:3]:
            signal.signal(getattr(signal, name), signal.default_int_handler)

    code = "from depthprune.cli import main; main()"
    return subprocess.Popen(
        [sys.executable, "-c", code, *words],
        env={**os.environ, "OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(cache)},
        text=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        preexec_fn=listen,
    )


@dataclass(frozen=True)
class Case:
    """A verb to be ended.

    Attributes:
        words: Its arguments, for a folder of inputs and an output.
        out: The output's name, or None.
        content: Reads an output, which must be whole, as what a second run must give again.
    """

    words: Callable[[Path, Path], list[str]]
    out: str | None
    content: Callable[[Path], Any]


def _folder(out: Path) -> Any:
    opened = open_checkpoint(out)
    manifest = json.loads((out / "depthprune.json").read_text(encoding="utf-8"))
    assert {path.name for path in out.iterdir()} == {*manifest["files"], "depthprune.json"}
    return manifest["removed"], [shard.path.read_bytes() for shard in opened.shards]


def _packed(out: Path) -> Any:
    assert read_gguf(out).blocks == 4
    assert out.with_suffix(".depthprune.json").exists()
    return out.read_bytes()


def _figure(out: Path) -> Any:
    data = out.read_bytes()
    assert data.endswith(b"</svg>\n")
    return len(data)


def _study(out: Path) -> Any:
    table = out / "results.jsonl"
    if not table.exists():
        return []
    rows = [json.loads(line) for line in table.read_text(encoding="utf-8").splitlines()[1:]]
    return [{key: row[key] for key in row if key not in ("cost", "seconds")} for row in rows]


def _page(out: Path) -> Any:
    assert (out / "report.html").read_text(encoding="utf-8").rstrip().endswith("</html>")
    return _folder(out)[1]


def _spec(inputs: Path) -> str:
    return f"text:{inputs / 'river.txt'},windows=8,length=32"


CASES = {
    "apply": Case(
        lambda at, out: ["apply", str(at / "model"), "--remove", "1,3", "-o", str(out)],
        "out", _folder,
    ),
    "prune": Case(
        lambda at, out: ["prune", str(at / "model"), "-k", "2", "-c", _spec(at), "-o", str(out),
                         "--no-bench", *_FAST],
        "out", _folder,
    ),
    "prune-gguf": Case(
        lambda at, out: ["prune", str(at / "tiny.gguf"), "-k", "2", "-c", _spec(at), "-o", str(out),
                         "--no-bench", *_FAST],
        "out.gguf", _packed,
    ),
    "recover": Case(
        lambda at, out: ["recover", str(at / "pruned"), "--original", str(at / "model"), "-c",
                         _spec(at), "-o", str(out), "--no-bench", *_FAST],
        "out", _folder,
    ),
    "score": Case(
        lambda at, out: ["score", str(at / "model"), "-c", _spec(at), "-o", str(out), *_FAST],
        "out.svg", _figure,
    ),
    "study": Case(
        lambda at, out: ["study", str(at / "plan.yaml"), "-o", str(out)], "out", _study,
    ),
    "evaluate": Case(
        lambda at, _: ["evaluate", str(at / "model"), "-c", _spec(at), *_FAST], None, lambda _: None
    ),
    "bench": Case(
        lambda at, _: ["bench", str(at / "model"), "--repeats", "2", "--new-tokens", "4",
                       "--prompt-tokens", "16", *_FAST],
        None, lambda _: None,
    ),
    "report": Case(
        lambda at, _: ["report", str(at / "pruned")], None, lambda _: None
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    (folder / "model").symlink_to(tiny_llama)
    save_text(folder / "river.txt")
    tiny_gguf(folder / "tiny.gguf", tokenizer=True)
    plan = {
        "models": str(tiny_llama),
        "k": [1, 2],
        "calibrations": {"a": _spec(folder), "b": _spec(folder) + ",seed=1"},
        "searches": ["one-shot", "greedy"],
        "draws": 2,
        "texts": {"text": _spec(folder)},
        "dtype": "float32",
        "device": "cpu",
    }
    (folder / "plan.yaml").write_text(yaml.safe_dump(plan), encoding="utf-8")
    words = ["prune", str(folder / "model"), "-k", "2", "-c", _spec(folder), "--no-bench", *_FAST]
    with _start([*words, "-o", str(folder / "pruned")], folder) as process:
        process.wait()
    assert process.returncode == DONE
    return folder


def _finish(words: list[str], cache: Path) -> float:
    begun = time.monotonic()
    with _start(words, cache) as process:
        assert process.stderr is not None
        said = process.stderr.read()
    assert process.returncode == DONE, said
    return time.monotonic() - begun


def _end(words: list[str], cache: Path, name: str, moment: float) -> int:
    """The exit status of a verb that is sent a signal at a moment, unless it was faster."""
    with _start(words, cache) as process:
        try:
            process.wait(moment)
        except subprocess.TimeoutExpired:
            process.send_signal(getattr(signal, name))
        assert process.stderr is not None
        said = process.stderr.read()
    if process.returncode == INTERRUPTED:
        assert said.splitlines()[-1].startswith("error: interrupted; ")
    elif process.returncode not in (DONE, -signal.SIGKILL):
        # Before the program has begun to listen Python ends by its own rules.
        assert "KeyboardInterrupt" in said, said
    return process.returncode


@pytest.mark.parametrize("verb", CASES)
def test_a_signal_at_any_moment_leaves_all_or_nothing(
    verb: str, inputs: Path, tmp_path: Path
) -> None:
    case, draw = CASES[verb], random.Random(verb)
    place = tmp_path / "place"
    place.mkdir()
    cache = tmp_path / "cache"
    first, out = tmp_path / (case.out or "none"), place / (case.out or "none")
    seconds = _finish(case.words(inputs, first), cache)
    expected = case.content(first)
    ended = 0
    for name in SIGNALS * MOMENTS:
        words = case.words(inputs, out)
        if out.exists() and verb not in ("study", "score"):
            words.append("--overwrite")
        status = _end(words, cache, name, draw.uniform(0.1, 0.9) * seconds)
        ended += status != DONE
        if verb == "report":
            _page(inputs / "pruned")
        if case.out is not None and out.exists():
            found = case.content(out)
            assert found == (expected[: len(found)] if verb == "study" else expected)
        hidden = [path.name for path in place.rglob(".*")]
        assert hidden == [] or status == -signal.SIGKILL
    assert ended
    words = case.words(inputs, out)
    _finish([*words, "--overwrite"] if out.exists() and verb not in ("study", "score") else words,
            cache)  # fmt: skip
    assert case.content(out) == expected
    assert [path.name for path in place.rglob(".*")] == []
