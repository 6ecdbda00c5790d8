"""The page on files names every architecture of which llama.cpp assumes something."""

from __future__ import annotations

from pathlib import Path

import pytest

from depthprune.checkpoints.gguf.architectures import GGUF_ARCHITECTURES

PAGE = (Path(__file__).parent.parent / "docs" / "files.md").read_text(encoding="utf-8")
ENCODERS = {"clip", "t5", "t5encoder", "minicpm"}


@pytest.mark.parametrize(
    "name",
    sorted(
        name
        for name, row in GGUF_ARCHITECTURES.items()
        if (row.rhythms or row.depths or row.refused) and name not in ENCODERS
    ),
)
def test_an_architecture_that_is_not_plain_is_documented(name: str) -> None:
    assert f"`{name}`" in PAGE
