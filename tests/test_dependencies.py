"""What the package imports is what `pyproject.toml` asks for."""

from __future__ import annotations

import ast
import re
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
OURS = {"depthprune"}


def _imported() -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in sorted((ROOT / "src").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names.append(str(node.module))
            found |= {name.partition(".")[0]: path for name in names}
    return {name: path for name, path in found.items() if name not in sys.stdlib_module_names}


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


IMPORTED = _imported()
DISTRIBUTIONS = packages_distributions()
DECLARED = {
    _plain(name)
    for name in re.findall(r'"([\w-]+)>=', (ROOT / "pyproject.toml").read_text(encoding="utf-8"))
}


def test_they_are_many() -> None:
    assert {"torch", "transformers", "numpy", "yaml", "regex"} <= IMPORTED.keys()


@pytest.mark.parametrize("module", sorted(IMPORTED.keys() - OURS))
def test_what_is_imported_is_declared(module: str) -> None:
    assert {_plain(name) for name in DISTRIBUTIONS[module]} & DECLARED, IMPORTED[module]
