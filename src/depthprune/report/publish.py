"""The card and the page beside a checkpoint; the page alone beside one that is a file.

The manifest names them, so that a later writer knows that they may be replaced.
"""

from __future__ import annotations

from pathlib import Path

from depthprune.errors import OutputError
from depthprune.manifest import Manifest
from depthprune.outputs import OutputTarget, whole_file
from depthprune.report.card import render_card
from depthprune.report.page import render_page

CARD = "README.md"


def report_files(manifest: Manifest, target: OutputTarget) -> dict[str, str]:
    """What is written beside a checkpoint, by its names: card and page.

    Args:
        manifest: What they tell.
        target: The checkpoint.
    """
    card = {} if target.is_file else {CARD: render_card(manifest)}
    return {**card, target.page.name: render_page(manifest)}


def write_report(manifest: Manifest, target: OutputTarget) -> Manifest:
    """Write the model card and the page into a folder, or the page beside a file.

    Args:
        manifest: What they tell.
        target: The checkpoint.

    Returns:
        The manifest with what was written named in it.
    """
    files = report_files(manifest, target)
    for name, text in files.items():
        (target.folder / name).write_text(text, encoding="utf-8")
    return _naming(manifest, files)


def rewrite_report(manifest: Manifest, target: OutputTarget) -> Path:
    """Write card and page anew beside a checkpoint that stands, and name them in its manifest.

    Args:
        manifest: Its manifest.
        target: The checkpoint.

    Returns:
        The page.

    Raises:
        OutputError: If one of them is there and the manifest does not name it.
    """
    files = report_files(manifest, target)
    for name in files:
        if name not in manifest.files and (target.folder / name).exists():
            raise OutputError(
                f"{target.folder / name}: is not depthprune's, for {target.manifest.name} "
                "does not list it; move it away"
            )
    named = _naming(manifest, files)
    if named != manifest:
        files = {target.manifest.name: named.text(), **files}
    for name, text in files.items():
        with whole_file(target.folder / name) as partial:
            partial.write_text(text, encoding="utf-8")
    return target.page


def _naming(manifest: Manifest, files: dict[str, str]) -> Manifest:
    return manifest.model_copy(update={"files": list(dict.fromkeys([*manifest.files, *files]))})
