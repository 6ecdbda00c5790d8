"""Putting the card and the page beside a checkpoint; the page alone beside one that is a file."""

from __future__ import annotations

from pathlib import Path

from depthprune.manifest import Manifest
from depthprune.outputs import PAGE_NAME, is_file_output, placed
from depthprune.report.card import render_card
from depthprune.report.page import render_page

CARD = "README.md"


def write_report(manifest: Manifest, place: Path) -> Manifest:
    """Write the model card and the page into a folder, or the page beside a file.

    Args:
        manifest: What they tell.
        place: The checkpoint: a folder, or the path of a GGUF.

    Returns:
        The manifest with what was written named in it.
    """
    card = [] if is_file_output(place) else [place / CARD]
    page = placed(place, PAGE_NAME)
    written = [path.name for path in (*card, page)]
    named = manifest.model_copy(update={"files": [*manifest.files, *written]})
    for path in card:
        path.write_text(render_card(named), encoding="utf-8")
    page.write_text(render_page(named), encoding="utf-8")
    return named
