"""The card and the page beside a checkpoint; the page alone beside one that is a file.

The manifest names them, so that a later writer knows that they may be replaced.
"""

from __future__ import annotations

from pathlib import Path

from depthprune.errors import OutputError
from depthprune.manifest import Manifest
from depthprune.outputs import MANIFEST_NAME, PAGE_NAME, is_file_output, placed, whole_file
from depthprune.report.card import render_card
from depthprune.report.page import render_page

CARD = "README.md"


def report_files(manifest: Manifest, place: Path) -> dict[str, str]:
    """What is written beside a checkpoint, by its names: card and page.

    Args:
        manifest: What they tell.
        place: The checkpoint: a folder, or the path of a GGUF.
    """
    card = {} if is_file_output(place) else {CARD: render_card(manifest)}
    return {**card, placed(place, PAGE_NAME).name: render_page(manifest)}


def write_report(manifest: Manifest, place: Path) -> Manifest:
    """Write the model card and the page into a folder, or the page beside a file.

    Args:
        manifest: What they tell.
        place: The checkpoint: a folder, or the path of a GGUF.

    Returns:
        The manifest with what was written named in it.
    """
    files = report_files(manifest, place)
    for name, text in files.items():
        (placed(place, MANIFEST_NAME).parent / name).write_text(text, encoding="utf-8")
    return _naming(manifest, files)


def rewrite_report(manifest: Manifest, place: Path) -> Path:
    """Write card and page anew beside a checkpoint that stands, and name them in its manifest.

    Args:
        manifest: The checkpoint's.
        place: A folder, or the path of a GGUF.

    Returns:
        The page.

    Raises:
        OutputError: If one of them is there and the manifest does not name it.
    """
    files = report_files(manifest, place)
    folder = placed(place, MANIFEST_NAME).parent
    for name in files:
        if name not in manifest.files and (folder / name).exists():
            raise OutputError(
                f"{folder / name}: is not depthprune's, for {placed(place, MANIFEST_NAME).name} "
                "does not list it; move it away"
            )
    named = _naming(manifest, files)
    if named != manifest:
        files = {placed(place, MANIFEST_NAME).name: named.text(), **files}
    for name, text in files.items():
        with whole_file(folder / name) as partial:
            partial.write_text(text, encoding="utf-8")
    return placed(place, PAGE_NAME)


def _naming(manifest: Manifest, files: dict[str, str]) -> Manifest:
    return manifest.model_copy(update={"files": list(dict.fromkeys([*manifest.files, *files]))})
