"""The verbs, put together."""

from __future__ import annotations

from typing import Annotated

import typer

from depthprune.cli import (
    apply,
    bench,
    evaluate,
    listings,
    memo,
    prune,
    recover,
    report,
    score,
    study,
)
from depthprune.manifest import versions

app = typer.Typer(
    name="depthprune",
    help="Remove whole Transformer blocks from a causal language model: find the blocks that your "
    "data can spare, prove what was lost and won, write an ordinary checkpoint.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"depthprune {versions().depthprune}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    pass


app.command("prune")(prune.prune)
app.command("score")(score.score)
app.command("recover")(recover.recover)
app.command("apply")(apply.apply)
app.command("evaluate")(evaluate.evaluate)
app.command("bench")(bench.bench)
app.command("study")(study.study)
app.command("report")(report.report)
app.command("searches")(listings.searches)
app.command("objectives")(listings.objectives)
app.command("calibrations")(listings.calibrations)
app.command("architectures")(listings.architectures)
app.command("memo")(memo.memo)
