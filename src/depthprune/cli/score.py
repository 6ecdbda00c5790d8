"""`depthprune score`: the loss of removing each block alone."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from depthprune.cli import options
from depthprune.cli.console import TerminalProgress, note, show, show_json
from depthprune.errors import OutputError, UsageError
from depthprune.pruning.session import (
    DEFAULT_CALIBRATION,
    Loading,
    mixture,
    open_memo,
    read_tokenizer,
)
from depthprune.pruning.standing import if_interrupted
from depthprune.pruning.workers import workers_for

if TYPE_CHECKING:
    from depthprune.calibration import Calibration
    from depthprune.pruning.draws import BlockDraws


def score(
    model: options.ModelName,
    calibration: options.Calibrations = None,
    objective: options.Objective = "nll",
    figure: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("-o", "--out", metavar="FILE", help="A .svg or .png of the losses as bars."),
    ] = None,
    dtype: options.Dtype = "auto",
    device: options.Device = "auto",
    stream: options.Stream = False,
    device_map: options.DeviceMap = None,
    memory: options.Memory = None,
    memo: options.MemoPlace = None,
    revision: options.Revision = None,
    trust_remote_code: options.RemoteCode = False,
    allow_pickle: options.Pickle = False,
    draws: options.Draws = 1,
    k: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(
            "-k", min=1, help="With --draws: of how many lowest a block is to be (default a fifth)."
        ),
    ] = None,
    overwrite: options.Overwrite = False,
    engine: options.EngineName = None,
    workers: options.Workers = None,
    gpus_per_worker: options.GpusPerWorker = None,
    cpus_per_worker: options.CpusPerWorker = None,
    threads: options.Threads = None,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Score the removal of each block alone, as a table and a figure."""
    states = options.parse_size(memory, "--memory")
    spread = options.read_engine(engine, workers, gpus_per_worker, cpus_per_worker)
    _check_figure(figure, overwrite)
    if k is not None and draws == 1:
        raise UsageError("-k: counts over draws; give --draws D of 2 or more, or drop -k")

    from depthprune.calibration import check_files, parse_calibration
    from depthprune.evaluator import Evaluator
    from depthprune.objectives import parse_objective
    from depthprune.pruning.draws import (
        blocks_over_draws,
        check_draws,
        scores_over_draws,
    )
    from depthprune.pruning.held_out import block_scores, estimate

    kind = parse_objective(objective)
    specs = parse_calibration(calibration or [DEFAULT_CALIBRATION])
    check_draws(specs, draws)
    check_files(specs)
    loading = Loading(
        model, dtype, device, revision, trust_remote_code, allow_pickle, stream, device_map
    )
    progress = TerminalProgress()
    source = loading.find()
    _check_lowest(k, source.blocks)
    reader = read_tokenizer(source, progress, loading)
    drawn = mixture(calibration, reader, progress)
    kind.judged(drawn.windows)
    loaded = loading.load(source, reader.tokenizer, progress)
    _check_lowest(k, loaded.blocks)
    lowest = k or max(1, loaded.blocks // 5)
    with open_memo(memo, source) as store, workers_for(spread, loading, loaded) as computing:

        def evaluator_on(each: Calibration) -> Evaluator:
            return Evaluator(
                loaded,
                each,
                kind,
                memory=states,
                memo=store,
                progress=progress,
                workers=computing,
            )

        evaluator = evaluator_on(drawn)
        rows = block_scores(evaluator, range(loaded.blocks))
        repeated = scores_over_draws(drawn, draws, evaluator_on) if draws > 1 else None
    stable = blocks_over_draws(repeated, lowest) if repeated else None
    dense = estimate(evaluator.dense.require_finite(), kind)
    for row in rows:
        if row.loss == float("inf"):
            why = loaded.refusal((row.block,))
            note(
                f"warning: the loss without block {row.block} is NaN or infinite"
                + (f" ({why})" if why else "")
            )
    if figure is not None:
        _draw(rows, dense.loss, figure)
        if_interrupted(partial(_standing, figure))
    if json:
        show_json(
            {
                "schema": 1,
                "model": model,
                "dtype": loaded.dtype,
                "calibration": [part.spec.line() for part in drawn.parts],
                "fingerprint": drawn.fingerprint,
                "objective": kind.name,
                "dense": dense.model_dump(),
                "rounding": None if evaluator.rounding is None else asdict(evaluator.rounding),
                "blocks": [row.model_dump() for row in rows],
                "draws": None
                if stable is None
                else {"draws": draws, "k": lowest, "blocks": [_stable(each) for each in stable]},
            }
        )
        return
    from depthprune.cli.tables import draws_table, score_table

    show(score_table(rows, dense))
    if stable is not None:
        show(draws_table(stable, draws, lowest))


def _standing(figure: Path) -> str | None:
    return f"{figure} stands" if figure.exists() else None


def _stable(block: BlockDraws) -> dict[str, Any]:
    return {**asdict(block), "mean": block.mean, "spread": block.spread}


def _check_lowest(k: int | None, blocks: int) -> None:
    if k is not None and k >= blocks:
        raise UsageError(f"-k: expected 1 to {blocks - 1} of the {blocks} blocks, got {k}")


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
