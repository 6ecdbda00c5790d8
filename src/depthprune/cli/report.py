"""`depthprune report`: write the page of a folder again, from what was measured."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from depthprune.cli import options
from depthprune.cli.console import show, show_json
from depthprune.cli.study import write_page
from depthprune.errors import OutputError, UsageError
from depthprune.outputs import PAGE_NAME


def report(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="Of a study, or of a pruned checkpoint.")
    ],
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Write a study's page, or a checkpoint's page and card, from its table or manifest."""
    from depthprune.outputs import MANIFEST_NAME
    from depthprune.study.runner import TABLE_NAME

    if (folder / TABLE_NAME).is_file():
        if write_page(folder) is None:
            raise OutputError(f"{folder}: no cell has run; there is nothing to report")
        page = folder / PAGE_NAME
    elif (folder / MANIFEST_NAME).is_file():
        page = _checkpoint_page(folder)
    else:
        raise UsageError(
            f"{folder}: expected {TABLE_NAME} (a study) or {MANIFEST_NAME} (a pruned checkpoint)"
        )
    if json:
        show_json({"schema": 1, "report": str(page)})
        return
    show(str(page))


def _checkpoint_page(folder: Path) -> Path:
    from depthprune.manifest import Manifest
    from depthprune.outputs import MANIFEST_NAME, whole_file
    from depthprune.report.card import render_card
    from depthprune.report.page import render_page

    manifest = Manifest.read(folder / MANIFEST_NAME)
    for name, content in ((PAGE_NAME, render_page(manifest)), ("README.md", render_card(manifest))):
        with whole_file(folder / name) as partial:
            partial.write_text(content, encoding="utf-8")
    return folder / PAGE_NAME
