"""`depthprune score`: the loss of removing each block alone."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Optional

import typer

from depthprune.cli import options
from depthprune.cli.console import TerminalProgress, show, show_json
from depthprune.cli.option_groups import (
    EngineOptions,
    ModelOptions,
    ResultOptions,
    SourceOptions,
    expand_groups,
)
from depthprune.errors import OutputError, UsageError
from depthprune.pruning.standing import if_interrupted


@expand_groups
def score(
    model: options.ModelName,
    *,
    calibration: options.Calibrations = None,
    objective: options.Objective = "nll",
    figure: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("-o", "--out", metavar="FILE", help="A .svg or .png of the losses as bars."),
    ] = None,
    loading: ModelOptions,
    source: SourceOptions,
    draws: options.Draws = 1,
    k: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(
            "-k", min=1, help="With --draws: of how many lowest a block is to be (default a fifth)."
        ),
    ] = None,
    overwrite: options.Overwrite = False,
    engine: EngineOptions,
    threads: options.Threads = None,
    result: ResultOptions,
) -> None:
    """Score the removal of each block alone, as a table and a figure."""
    keywords = {**loading.keywords(), **vars(source)}
    spread = engine.parsed()
    _check_figure(figure, overwrite)

    from depthprune.pruning.score import score as measure

    found = measure(
        model,
        calibration or (),
        objective,
        draws=draws,
        k=k,
        **keywords,
        engine=spread,
        progress=TerminalProgress(),
    )
    if figure is not None:
        _draw(found.blocks, found.dense.loss, figure)
        if_interrupted(partial(_standing, figure))
    if result.json:
        show_json(found.document())
        return
    from depthprune.cli.tables import draws_table, score_table

    show(score_table(found.blocks, found.dense))
    if found.over_draws is not None:
        show(draws_table(found.over_draws, draws, found.k))


def _standing(figure: Path) -> str | None:
    return f"{figure} stands" if figure.exists() else None


def _check_figure(figure: Path | None, overwrite: bool) -> None:
    if figure is None:
        return
    if figure.suffix not in (".svg", ".png"):
        raise UsageError(f"-o {figure}: expected a file ending in .svg or .png")
    if not figure.absolute().parent.is_dir():
        raise OutputError(f"-o {figure}: its folder does not exist; make it first")
    if figure.exists() and not overwrite:
        raise OutputError(f"-o {figure}: exists; choose another name, or pass --overwrite")


def _draw(rows: list, dense: float, path: Path) -> None:  # type: ignore[type-arg]
    from depthprune.outputs import whole_file
    from depthprune.report.export import png, svg
    from depthprune.report.figures import block_bars

    drawing = block_bars(rows, dense_loss=dense)
    with whole_file(path) as partial:
        if path.suffix == ".png":
            png(drawing, partial)
        else:
            title = "Loss of removing each block alone"
            partial.write_text(svg(drawing, title, title), encoding="utf-8")
