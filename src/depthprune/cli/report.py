"""`depthprune report`: write the page of a folder again, from what was measured."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from depthprune.claims import held
from depthprune.cli.console import show_json, show_text
from depthprune.cli.option_groups import ResultOptions, expand_groups
from depthprune.errors import OutputError, UsageError
from depthprune.outputs import PAGE_NAME, OutputTarget, as_target
from depthprune.pruning.standing import if_interrupted


@expand_groups
def report(
    *,
    folder: Annotated[
        Path,
        typer.Argument(metavar="DIR", help="Of a study or pruned checkpoint, or a pruned .gguf."),
    ],
    result: ResultOptions,
) -> None:
    """Write a study's page, or a checkpoint's page and card, from its table or manifest."""
    from depthprune.study.report.publish import write_page
    from depthprune.study.table import TABLE_NAME

    target = as_target(folder)
    if (folder / TABLE_NAME).is_file():
        if write_page(folder) is None:
            raise OutputError(f"{folder}: no cell has run; there is nothing to report")
        page = folder / PAGE_NAME
    elif target.manifest.is_file():
        page = _checkpoint_page(target)
    else:
        wanted = f"{TABLE_NAME} (a study) or {target.manifest.name} (a pruned checkpoint)"
        found = f"expected {wanted}" if folder.exists() else "no such folder or file"
        raise UsageError(f"{folder}: {found}; check the path")
    if_interrupted(lambda: f"{page} stands")
    if result.json:
        show_json({"schema": 1, "report": str(page)})
        return
    show_text(f"{page}\n")


def _checkpoint_page(target: OutputTarget) -> Path:
    from depthprune.manifest import Manifest
    from depthprune.report.publish import rewrite_report

    manifest = Manifest.read(target.manifest)
    with held(target.folder):
        return rewrite_report(manifest, target)
