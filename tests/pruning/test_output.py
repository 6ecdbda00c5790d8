"""What is made of a model whose files are no safetensors is written whole or not at all."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import depthprune as dp
from depthprune.errors import OutputError
from depthprune.pruning.output import dense_checkpoint
from gguf_tiny import tiny_gguf


@pytest.mark.skipif(sys.platform == "win32", reason="the limit is POSIX's")
def test_a_disk_that_fills_under_the_unpacked_weights_is_said_to_be_full(tmp_path: Path) -> None:
    import resource

    model = dp.load(tiny_gguf(tmp_path / "a.gguf", tokenizer=True), dtype="float32", device="cpu")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        full = pytest.raises(OutputError, match="out: the disk is full")
        with full, dense_checkpoint(model, tmp_path / "out"):
            pytest.fail("it was written")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [file.name for file in tmp_path.iterdir()] == ["a.gguf"]
