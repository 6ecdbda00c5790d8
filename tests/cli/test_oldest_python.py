"""What needs no torch does on the oldest Python and libraries what it does on these.

`make test-floors` runs every fast test there, and takes six gigabytes; this takes a fraction of it.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command

from depthprune.cli.app import app
from tiny import save_tiny

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
NEEDED = "jinja2 matplotlib numpy pydantic pyyaml regex rich safetensors scipy typer".split()  # noqa: SIM905
VERBS = sorted(get_command(app).commands)  # type: ignore[attr-defined]


def _oldest() -> str | None:
    (floor,) = re.findall(r'requires-python = ">=([\d.]+)"', (ROOT / "pyproject.toml").read_text())
    # pyenv's own before what it puts on the path, which runs for the versions of one folder alone.
    kept = Path.home().glob(f".pyenv/versions/{floor}.*/bin/python")
    return next(map(str, kept), None) or shutil.which(f"python{floor}")


@pytest.fixture(scope="module")
def oldest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter with the oldest versions of what no torch is needed for."""
    found = _oldest()
    if found is None:
        pytest.skip("the oldest Python is not on this machine")
    made = tmp_path_factory.mktemp("oldest") / "venv"
    python = made / "bin" / "python"
    pins = ("--constraint", str(ROOT / "constraints-floors.txt"))
    for words in ([found, "-m", "venv", made], [python, "-m", "pip", "install", *pins, *NEEDED]):
        run = subprocess.run(list(map(str, words)), capture_output=True, text=True, check=False)
        if run.returncode:
            pytest.skip(f"the oldest versions cannot be installed: {run.stderr[-300:]}")
    return python


def _said(python: str | Path, *words: str | Path) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "COLUMNS": "200"}
    command = [str(python), "-m", "depthprune", *map(str, words)]
    run = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert run.returncode == 0, run.stderr
    return run.stdout


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_the_same_flags(verb: str, oldest: Path) -> None:
    ours, theirs = (
        set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", _said(python, verb, "--help")))
        for python in (sys.executable, oldest)
    )
    assert theirs == ours
    assert "--help" in ours


def test_surgery_writes_the_same_bytes(oldest: Path, tmp_path: Path) -> None:
    model = save_tiny(tmp_path / "model")
    for python, out in ((sys.executable, "ours"), (oldest, "theirs")):
        _said(python, "apply", model, "--remove", "1,3", "-o", tmp_path / out)
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        ours, theirs = ((tmp_path / out / name).read_bytes() for out in ("ours", "theirs"))
        assert theirs == ours
