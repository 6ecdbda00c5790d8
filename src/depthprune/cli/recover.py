"""`depthprune recover`: repairs a checkpoint that was pruned before."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Annotated, Optional

import typer

from depthprune.cli import options
from depthprune.cli.console import TerminalProgress, command_line, show, show_json, show_text
from depthprune.cli.option_groups import (
    ModelOptions,
    ResultOptions,
    SourceOptions,
    SpeedOptions,
    expand_groups,
)
from depthprune.errors import UsageError
from depthprune.outputs import PAGE_NAME


@expand_groups
def recover(
    context: typer.Context,
    *,
    checkpoint: Annotated[
        Path, typer.Argument(metavar="CHECKPOINT", help="A folder that depthprune pruned.")
    ],
    original: Annotated[
        str, typer.Option(metavar="MODEL", help="The model that it was pruned from.")
    ],
    out: options.Out,
    way: Annotated[str, typer.Option("--recover", metavar="HOW", help=options.WAYS)] = "linear",
    calibration: options.Calibrations = None,
    also: options.Also = None,
    answers: options.Answers = None,
    answer_tokens: options.AnswerTokens = None,
    hand_off: Annotated[
        bool,
        typer.Option(
            "--hand-off",
            help="Recover nothing: write what TRL's and axolotl's distillation need, configs that "
            "run and their data, into the folder OUT.",
        ),
    ] = False,
    prompt: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="What both models continue in the report; by default as before."),
    ] = None,
    speed: SpeedOptions,
    loading: ModelOptions,
    source: SourceOptions,
    overwrite: options.Overwrite = False,
    threads: options.Threads = None,
    result: ResultOptions,
) -> None:
    """Mend a pruned checkpoint by what a calibration teaches, and prove it."""
    keywords = {**loading.keywords(), **vars(source), **vars(speed)}
    if hand_off:
        _refuse_idle(context)
        from depthprune.pruning.recovering.hand_off import hand_off as hand_on

        written = hand_on(
            checkpoint,
            original,
            out=out,
            calibration=calibration or (),
            **vars(source),
            progress=TerminalProgress(),
        )
        if result.json:
            show_json(written.document())
        else:
            show_text("".join(f"{command}\n" for command in written.commands.values()))
        return

    from depthprune.pruning.recovering.recover import recover_checkpoint

    manifest = recover_checkpoint(
        checkpoint,
        original,
        out=out,
        method=way,
        calibration=calibration or (),
        also=also or (),
        answers=answers or (),
        answer_tokens=answer_tokens,
        prompt=prompt,
        **keywords,
        overwrite=overwrite,
        command=command_line(context),
        progress=TerminalProgress(),
    )
    if result.json:
        show_text(manifest.text())
        return
    from depthprune.cli.tables import prune_summary

    show(prune_summary(manifest, out / PAGE_NAME))


def _refuse_idle(context: typer.Context) -> None:
    """Refuse flags of what `--hand-off` does not do."""
    used = {"checkpoint", "original", "out", "calibration", "hand_off", "threads"}
    used |= {field.name for group in (SourceOptions, ResultOptions) for field in fields(group)}
    for parameter in context.command.params:
        if parameter.name not in used and options.was_given(context, parameter.name):
            raise UsageError(f"{parameter.opts[0]}: means nothing with --hand-off; drop it")
