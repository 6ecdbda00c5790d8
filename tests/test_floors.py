"""What `make test-floors` installs is the oldest that `pyproject.toml` lets in."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parent.parent
PINS = {
    name: Version(version)
    for name, version in re.findall(
        r"^([\w-]+)==([\w.]+)$", (ROOT / "constraints-floors.txt").read_text(), re.MULTILINE
    )
}
NEVER_INSTALLED = {"llama-cpp-python", "lm-eval", "trl"}
"""Of extras that the fast tests do without."""

NOT_FOR_TESTS = {"import-linter", "mypy", "ruff", "types-PyYAML"}
"""Checks of the code, which are run on one release alone."""


def _floors() -> dict[str, Version]:
    quoted = re.findall(r'"([\w-]+>=[^"]+)"', (ROOT / "pyproject.toml").read_text())
    floors: dict[str, Version] = {}
    for requirement in map(Requirement, quoted):
        (specifier,) = requirement.specifier
        # accelerate is asked for by three extras; what installs all of them takes the newest.
        version = Version(specifier.version)
        floors[requirement.name] = max(version, floors.get(requirement.name, version))
    return floors


FLOORS = {n: v for n, v in _floors().items() if n not in NEVER_INSTALLED | NOT_FOR_TESTS}


def test_they_are_many() -> None:
    assert {"torch", "transformers", "typer", "numpy", "peft", "ray"} <= FLOORS.keys()


@pytest.mark.parametrize("name", sorted(FLOORS.keys() - {"setuptools"}))
def test_each_is_pinned_at_its_floor(name: str) -> None:
    floor = FLOORS[name].release
    assert PINS[name].release[: len(floor)] == floor
