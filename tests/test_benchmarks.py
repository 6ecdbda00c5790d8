"""Benchmarks are run by hand, so that what they import is there is looked at here."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import itertools
from pathlib import Path

import pytest

FILES = sorted((Path(__file__).parents[1] / "benchmarks").glob("*.py"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_benchmark_imports_what_the_package_has(file: Path) -> None:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    # What a benchmark starts as a process of its own stands in it as a text.
    children = [
        ast.parse(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and "\nfrom depthprune" in node.value
    ]
    found = [
        (node.module, name.name)
        for node in itertools.chain.from_iterable(map(ast.walk, [tree, *children]))
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("depthprune")
        for name in node.names
    ]
    missing = [
        f"{module}.{name}"
        for module, name in found
        if not hasattr(importlib.import_module(module), name)
        and importlib.util.find_spec(f"{module}.{name}") is None
    ]
    assert missing == []
