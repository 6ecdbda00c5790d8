"""`depthprune recover`: mends a checkpoint that was pruned before."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from depthprune.cli import options
from depthprune.cli.console import TerminalProgress, command_line, show, show_text
from depthprune.outputs import PAGE_NAME


def recover(
    context: typer.Context,
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
    prompt: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="What both models continue in the report; by default as before."),
    ] = None,
    bench: Annotated[
        Optional[bool],  # noqa: UP045
        typer.Option(
            "--bench/--no-bench",
            help="Measure speed before and after (the default, except with --stream).",
        ),
    ] = None,
    bench_seconds: options.BenchSeconds = 60,
    dtype: options.Dtype = "auto",
    device: options.Device = "auto",
    stream: options.Stream = False,
    device_map: options.DeviceMap = None,
    memory: options.Memory = None,
    memo: options.MemoPlace = None,
    revision: options.Revision = None,
    trust_remote_code: options.RemoteCode = False,
    allow_pickle: options.Pickle = False,
    overwrite: options.Overwrite = False,
    threads: options.Threads = None,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Mend a pruned checkpoint by what a calibration teaches, and prove it."""
    states = options.parse_size(memory, "--memory")

    from depthprune.pruning.recover import recover_checkpoint

    manifest = recover_checkpoint(
        checkpoint,
        original,
        out=out,
        method=way,
        calibration=calibration or (),
        also=also or (),
        prompt=prompt,
        bench=bench,
        bench_seconds=bench_seconds,
        dtype=dtype,
        device=device,
        device_map=device_map,
        stream=stream,
        memory=states,
        memo=memo,
        revision=revision,
        trust_remote_code=trust_remote_code,
        allow_pickle=allow_pickle,
        overwrite=overwrite,
        command=command_line(context),
        progress=TerminalProgress(),
    )
    if json:
        show_text(manifest.text())
        return
    from depthprune.cli.tables import prune_summary

    show(prune_summary(manifest, out / PAGE_NAME))
