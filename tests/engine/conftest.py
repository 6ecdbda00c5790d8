"""A cluster of this machine's processors, that ends with the tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from depthprune.engine import Cluster, join, parse_engine
from tiny import save_text


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    pytest.importorskip("ray")
    with join(parse_engine("ray", 2, None, 0.5)) as joined:
        yield joined


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_text(tmp_path_factory.mktemp("text") / "river.txt")
