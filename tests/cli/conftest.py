"""A tiny model, a text and the command line, for every verb's tests."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from command import Command, run
from depthprune.models import loading


@pytest.fixture
def depthprune(capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs the command line in this process and tells how it ended."""
    return partial(run, capsys)


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text of about ten thousand of the tiny tokenizer's tokens; leave it as it is."""
    file = tmp_path_factory.mktemp("text") / "river.txt"
    lines = (f"Line {i}: the river is {i * i % 97} feet high at the bridge.\n" for i in range(400))
    file.write_text("".join(lines), encoding="utf-8")
    return file


@pytest.fixture(scope="session")
def spec(text: Path) -> str:
    """A calibration of eight short windows."""
    return f"text:{text},windows=8,length=32"


@pytest.fixture
def no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails the test as soon as a model's weights are loaded."""

    def refuse(*arguments: object) -> None:
        pytest.fail("weights were loaded")

    monkeypatch.setattr(loading, "load_module", refuse)
