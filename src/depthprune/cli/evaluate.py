"""`depthprune evaluate`: objective values of a model on named data."""

from __future__ import annotations

from typing import Annotated, Optional

import typer

from depthprune.cli import options
from depthprune.cli.console import TerminalProgress, show, show_json
from depthprune.cli.option_groups import ModelOptions, ResultOptions, SourceOptions, expand_groups
from depthprune.removed_sets import parse_blocks


@expand_groups
def evaluate(
    model: options.ModelName,
    *,
    calibration: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(
            "-c",
            "--calibration",
            metavar="SPEC",
            help="SOURCE[,key=value]…, such as text:wiki.txt,windows=all,order=first; several are "
            "measured one by one. See: depthprune calibrations.",
        ),
    ] = None,
    objective: options.Objective = "nll",
    remove: Annotated[
        str, typer.Option(metavar="BLOCKS", help="Evaluate without these blocks: 4,12-14.")
    ] = "",
    loading: ModelOptions,
    source: SourceOptions,
    threads: options.Threads = None,
    result: ResultOptions,
) -> None:
    """Measure a model on each -c apart, with standard errors between windows.

    Nothing is chosen here, so consecutive windows (order=first, windows=all) run to the end of
    the text; random ones are those that prune draws for the same spec.
    """
    keywords = {**loading.keywords(), **vars(source)}
    removed = parse_blocks(remove) if remove else ()

    from depthprune.pruning.evaluate import evaluate as measure

    found = measure(
        model,
        calibration or (),
        objective,
        remove=removed,
        **keywords,
        progress=TerminalProgress(),
    )
    if result.json:
        show_json(found.document())
        return
    from depthprune.cli.tables import evaluate_table

    show(evaluate_table([(e.calibration, e.objective, e.estimate) for e in found.results]))
