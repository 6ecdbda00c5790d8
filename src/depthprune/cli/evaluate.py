"""`depthprune evaluate`: objective values of a model on named data."""

from __future__ import annotations

from typing import Annotated

import typer

from depthprune.cli import options
from depthprune.cli.console import TerminalProgress, show, show_json
from depthprune.removed_sets import parse_blocks


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

    from depthprune.pruning.evaluate import evaluate as measure

    found = measure(
        model,
        calibration or (),
        objective,
        remove=removed,
        dtype=dtype,
        device=device,
        device_map=device_map,
        stream=stream,
        memory=states,
        memo=memo,
        revision=revision,
        trust_remote_code=trust_remote_code,
        allow_pickle=allow_pickle,
        progress=TerminalProgress(),
    )
    if json:
        show_json(found.document())
        return
    from depthprune.cli.tables import evaluate_table

    show(evaluate_table([(e.calibration, e.objective, e.estimate) for e in found.results]))
