"""A cluster of this machine's processors, that ends with the tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from depthprune.engine import Cluster, join, parse_engine


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    pytest.importorskip("ray")
    with join(parse_engine("ray", 2, None, 0.5)) as joined:
        yield joined
