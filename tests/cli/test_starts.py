"""What needs no model does not load torch, which takes seconds and hundreds of megabytes."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from gguf_tiny import tiny_gguf

_RUN = """
import sys
from depthprune.cli import main
try:
    main(sys.argv[1:])
except SystemExit as left:
    loaded = [name for name in ("torch", "transformers") if name in sys.modules]
    print("status", left.code, "loaded", *loaded, file=sys.stderr)
"""


def _run(*words: object) -> tuple[str, str]:
    """What a run printed, and how it ended: its status, and the heavy libraries that it loaded."""
    found = subprocess.run(
        [sys.executable, "-c", _RUN, *map(str, words)], capture_output=True, text=True, check=True
    )
    return found.stdout, found.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    "words",
    [
        ("searches",),
        ("objectives",),
        ("calibrations",),
        ("calibrations", "--schema"),
        ("architectures", "--json"),
        ("memo",),
        ("--version",),
        ("prune", "--help"),
    ],
)
def test_what_there_is_is_listed_without_torch(words: tuple[str, ...]) -> None:
    out, end = _run(*words)
    assert out
    assert end == "status 0 loaded"


@pytest.mark.parametrize(
    "words",
    [
        ("prune", "demo"),
        ("prune", "demo", "-k", "2", "-o", "x", "--nonsense"),
        ("prune", "demo", "-k", "2"),
        ("prune", "demo", "-k", "2", "-o", "x", "--prompt", ""),
        ("prune", "demo", "-k", "2", "-o", "x", "--memory", "much"),
        ("evaluate",),
        ("nonsense",),
    ],
)
def test_a_wrong_call_is_refused_without_torch(words: tuple[str, ...]) -> None:
    assert _run(*words) == ("", "status 2 loaded")


@pytest.mark.parametrize("json_wanted", [False, True])
def test_apply_without_verify_prints_its_table_without_torch(
    json_wanted: bool, tiny_llama: Path, tmp_path: Path
) -> None:
    gguf = tiny_gguf(tmp_path / "tiny.gguf", tokenizer=True)
    for source, name in ((tiny_llama, "out"), (gguf, "out.gguf")):
        words = ("apply", source, "--remove", "1", "-o", tmp_path / name)
        out, end = _run(*words, *["--json"] * json_wanted)
        assert end == "status 0 loaded"
        if json_wanted:
            assert json.loads(out)["removed"] == [1]
        else:
            assert "report.html" in out


def test_a_checkpoint_s_page_is_written_again_without_torch(
    tiny_llama: Path, tmp_path: Path
) -> None:
    _run("apply", tiny_llama, "--remove", "1", "-o", tmp_path / "out")
    assert _run("report", tmp_path / "out")[1] == "status 0 loaded"


_INTERRUPTED = """
import signal, sys

class Importing:
    def find_spec(self, name, path=None, target=None):
        if name == "depthprune.cli":
            signal.raise_signal(signal.SIGINT)

sys.meta_path.insert(0, Importing())
from depthprune.__main__ import main

assert "pydantic" not in sys.modules
main()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="the signals are POSIX's")
def test_an_interruption_while_the_command_line_is_imported_leaves_no_traceback() -> None:
    found = subprocess.run([sys.executable, "-c", _INTERRUPTED], capture_output=True, check=False)
    assert (found.returncode, found.stdout, found.stderr) == (-signal.SIGINT, b"", b"")


@pytest.mark.skipif(sys.platform == "win32", reason="the signals are POSIX's")
def test_an_interruption_while_the_process_exits_leaves_no_traceback() -> None:
    code = (
        "import atexit, signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "atexit.register(signal.raise_signal, signal.SIGINT); "
        "from depthprune.cli import main; main(['searches'])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert (found.returncode, found.stderr) == (-signal.SIGINT, b"")
    assert b"greedy" in found.stdout
