"""Putting the card and the page beside a checkpoint."""

from __future__ import annotations

from pathlib import Path

from depthprune.manifest import Manifest
from depthprune.report.card import render_card
from depthprune.report.page import render_page

CARD, PAGE = "README.md", "report.html"


def write_report(manifest: Manifest, folder: Path) -> Manifest:
    """Write the model card and the page into a folder.

    Args:
        manifest: What they tell.
        folder: Where the checkpoint is.

    Returns:
        The manifest with both files named in it.
    """
    named = manifest.model_copy(update={"files": [*manifest.files, CARD, PAGE]})
    (folder / CARD).write_text(render_card(named), encoding="utf-8")
    (folder / PAGE).write_text(render_page(named), encoding="utf-8")
    return named
