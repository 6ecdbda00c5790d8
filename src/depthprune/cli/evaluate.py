"""`depthprune evaluate`: objective values of a model on named data."""

from __future__ import annotations

from typing import Annotated

import typer

from depthprune.cli import options
from depthprune.cli.console import TerminalProgress, show, show_json
from depthprune.pruning.session import (
    DEFAULT_CALIBRATION,
    Loading,
    open_memo,
    read_tokenizer,
    reading,
)
from depthprune.removed_sets import check_removed, parse_blocks


def evaluate(
    model: options.ModelName,
    calibration: options.Calibrations = None,
    objective: options.Objective = "nll",
    remove: Annotated[
        str, typer.Option(metavar="BLOCKS", help="Evaluate without these blocks: 4,12-14.")
    ] = "",
    dtype: options.Dtype = "auto",
    device: options.Device = "auto",
    stream: options.Stream = False,
    device_map: options.DeviceMap = None,
    memory: options.Memory = None,
    memo: options.MemoPlace = None,
    revision: options.Revision = None,
    trust_remote_code: options.RemoteCode = False,
    allow_pickle: options.Pickle = False,
    threads: options.Threads = None,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Measure a model on each -c apart, with standard errors between windows.

    Nothing is chosen here, so consecutive windows (order=first, windows=all) run to the end of
    the text; random ones are those that prune draws for the same spec.
    """
    states = options.parse_size(memory, "--memory")
    removed = parse_blocks(remove) if remove else ()

    from depthprune.calibration import calibrate, check_files, parse_calibration
    from depthprune.evaluator import Evaluator
    from depthprune.objectives import parse_objective
    from depthprune.pruning.held_out import estimate

    kind = parse_objective(objective)
    specs = parse_calibration(calibration or [DEFAULT_CALIBRATION])
    check_files(specs)
    loading = Loading(
        model, dtype, device, revision, trust_remote_code, allow_pickle, stream, device_map
    )
    source = loading.find()
    if removed:
        check_removed(removed, source.blocks)
    progress = TerminalProgress()
    reader = read_tokenizer(source, progress, loading)
    with reading(specs, progress):
        drawn = [calibrate(spec, reader, split="whole") for spec in specs]
    loaded = loading.load(source, reader.tokenizer, progress)
    rows = []
    with open_memo(memo, source) as store:
        for spec, each in zip(specs, drawn, strict=True):
            evaluator = Evaluator(
                loaded, each, kind, memory=states, memo=store, plain=True, progress=progress
            )
            score = evaluator.score([removed])[0].require_finite()
            rows.append((spec.line(), kind.name, estimate(score, kind)))
    if not json:
        from depthprune.cli.tables import evaluate_table

        show(evaluate_table(rows))
        return
    results = [
        {"calibration": spec, "objective": name, **found.model_dump()} for spec, name, found in rows
    ]
    show_json({"schema": 1, "dtype": loaded.dtype, "removed": list(removed), "results": results})
