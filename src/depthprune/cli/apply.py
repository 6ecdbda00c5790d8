"""`depthprune apply`: surgery alone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from depthprune.cli import options
from depthprune.cli.console import TerminalProgress, command_line, note, show, show_text
from depthprune.cli.option_groups import ResultOptions, expand_groups
from depthprune.outputs import as_target


@expand_groups
def apply(
    context: typer.Context,
    *,
    checkpoint: Annotated[
        Path,
        typer.Argument(
            metavar="CHECKPOINT", help="A checkpoint folder, a .gguf file or a PEFT adapter."
        ),
    ],
    remove: Annotated[
        str, typer.Option(metavar="BLOCKS", help="Which blocks go, such as 4,12-14,25.")
    ],
    out: options.Out,
    verify: Annotated[
        bool,
        typer.Option("--verify", help="Load both models and compare their logits."),
    ] = False,
    link: options.Link = False,
    trust_remote_code: options.RemoteCode = False,
    overwrite: options.Overwrite = False,
    threads: options.Threads = None,
    result: ResultOptions,
) -> None:
    """Write a checkpoint without some blocks; no model is loaded unless --verify."""
    from depthprune.manifest import Manifest
    from depthprune.pruning.apply import apply as cut
    from depthprune.report.publish import write_report

    target = as_target(out)
    surgery = cut(
        checkpoint,
        remove,
        target,
        verify=verify,
        overwrite=overwrite,
        link=link,
        trust_remote_code=trust_remote_code,
        command=command_line(context),
        progress=TerminalProgress(),
        finish=write_report,
    )
    for warning in surgery.warnings:
        note(f"warning: {warning}")
    written = target.manifest.read_text(encoding="utf-8")
    if result.json:
        show_text(written)
        return
    from depthprune.cli.tables import prune_summary

    # An adapter has no page: there is nothing to show of it without its base.
    shown = target.page if target.page.is_file() else None
    show(prune_summary(Manifest.model_validate_json(written), shown))
