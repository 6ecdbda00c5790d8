"""Every command of the README runs, in order, on less text, with less timing and less searching."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from demo import run

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")


def _blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def _commands() -> list[str]:
    lines = "\n".join(_blocks("bash")).splitlines()
    return [line.split("#")[0].strip() for line in lines if line.split("#")[0].strip()]


def _smaller(text: str) -> str:
    """The same with fewer tokens: that the commands work is what is tested, not the losses."""
    if text.startswith("depthprune prune demo") and " -c " not in text:
        text += " -c stdlib-prose,windows=4"
    if "--recover" in text:
        text += " --search one-shot"
    if text.startswith("depthprune prune") and not re.search("--no-bench|--dry-run", text):
        text += " --bench-seconds 4"
    # Items have a length of their own, and recovery needs two tokens for each dimension.
    text = re.sub(r"(choices:[\w.]+),windows=\d+", r"\1,windows=some", text)
    size = "windows=16,length=96" if "--recover" in text else "windows=4,length=16"
    text = re.sub(r"windows=(?:\d+|all)(?:,length=\d+)?", size, text)
    return text.replace("windows=some", "windows=4")


def test_the_two_commands_are_targets_of_the_makefile() -> None:
    makefile = (Path(__file__).parent.parent / "Makefile").read_text(encoding="utf-8")
    wanted = [command.split()[1] for command in _commands() if command.startswith("make ")]
    assert wanted == ["demo", "test"]
    assert all(re.search(rf"^{target}:", makefile, flags=re.MULTILINE) for target in wanted)


def test_every_command_is_known_to_these_tests() -> None:
    assert {command.split()[0] for command in _commands()} == {"make", "depthprune"}


@pytest.mark.slow
def test_every_command_and_the_python_run(tmp_path: Path) -> None:
    from pydoc_data.topics import topics

    (tmp_path / "my.txt").write_text("\n".join(topics.values())[:80_000], encoding="utf-8")
    items = (
        {"prompt": f"{a} plus {b} is", "options": [f" {a + b}", f" {a - b}"], "answer": 0}
        for a in range(20)
        for b in range(1, 4)
    )
    (tmp_path / "quiz.jsonl").write_text("\n".join(map(json.dumps, items)), encoding="utf-8")
    unpacked_once = {"DEPTHPRUNE_UNPACKED": "4"}
    for command in _commands():
        if command.startswith("depthprune "):
            words = shlex.split(_smaller(command))
            done = run(*words[1:], cwd=tmp_path, environment=unpacked_once)
            assert done.returncode == 0, f"{command}\n{done.stderr}"
    loading, python = _blocks("python")
    script = _smaller(f"{loading}\n{python}")
    (tmp_path / "example.py").write_text(script, encoding="utf-8")
    import os
    import subprocess
    import sys

    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "example.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr
