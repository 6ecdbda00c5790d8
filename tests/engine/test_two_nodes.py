"""A node that is gone in the middle of a search costs what was on it, and no more."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from two_nodes import possible, two_nodes

import depthprune as dp
from depthprune.engine import join, parse_engine
from depthprune.engine.losses import RayLosses
from depthprune.engine.shipping import ModelOnWorker, digest_of

pytestmark = pytest.mark.slow


def test_a_node_killed_in_the_middle_changes_nothing(text: Path, tiny_llama: Path) -> None:
    pytest.importorskip("ray")
    if why := possible():
        pytest.skip(why)
    # How nodes trust each other is settled once a process, and here other clusters ran before.
    words = f"import test_two_nodes as t; t.search_and_kill({str(text)!r}, {str(tiny_llama)!r})"
    done = subprocess.run(
        [sys.executable, "-c", words],
        env={**os.environ, "RAY_AUTH_MODE": "disabled", "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=400,
    )
    assert done.returncode == 0, done.stderr


def search_and_kill(text: str, folder: str) -> None:
    """Search on two nodes of which one is killed in the middle, and hold it to a plain search."""
    model = dp.load(folder, dtype="float32", device="cpu")
    calibration = dp.calibrate(f"text:{text},windows=16,length=24", model)
    expected = dp.search("greedy", dp.Evaluator(model, calibration, racing=None), k=3)
    load = partial(dp.load, folder, dtype="float32", device="cpu")
    with (
        two_nodes() as nodes,
        join(parse_engine(f"ray://{nodes.address}", 2, None, 1)) as cluster,
        RayLosses(cluster, load, model) as workers,
    ):
        assert sum(node["Alive"] for node in cluster.ray.nodes()) == 2
        spread = dp.Evaluator(model, calibration, racing=None, workers=workers)
        first = spread.score([(1,), (2,)])
        nodes.kill_far()
        found = dp.search("greedy", spread, k=3)
        assert workers.deaths >= 1
    assert first == dp.Evaluator(model, calibration, racing=None).score([(1,), (2,)])
    assert (found.removed, found.score) == (expected.removed, expected.score)


def _elsewhere(files: Any, digest: str) -> ModelOnWorker:
    return ModelOnWorker("/of/another/machine", True, {"dtype": "float32"}, files, digest)


def test_a_model_that_a_node_does_not_see_is_shipped_to_it(
    tmp_path: Path, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = pytest.importorskip("ray")
    with join(parse_engine("ray", 1, None, 0.5)) as cluster:
        data = {p.name: p.read_bytes() for p in sorted(tiny_llama.iterdir())}
        elsewhere = _elsewhere(cluster.ray.put(data), digest_of(data))
        monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
        found = elsewhere()
        assert found.blocks == dp.load(tiny_llama, dtype="float32").blocks
        next_run = _elsewhere(cluster.ray.put(data), digest_of(data))
        assert next_run().source.folder == found.source.folder
        assert len(list(tmp_path.glob("depthprune-*"))) == 1
        other = data | {"README.md": b"of another model"}
        assert (
            _elsewhere(cluster.ray.put(other), digest_of(other))().source.folder
            != found.source.folder
        )
        assert ray.is_initialized()
        missing = ModelOnWorker("/of/another/machine", True, {})
        with pytest.raises(dp.ModelError, match="is not on a worker's machine"):
            missing()
