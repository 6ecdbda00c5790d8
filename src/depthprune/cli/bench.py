"""`depthprune bench`: prefill and decode speed, memory and size, side by side."""

from __future__ import annotations

from typing import Annotated, Optional

import typer

from depthprune.cli import options
from depthprune.cli.console import TerminalProgress, show, show_json


def bench(
    model: options.ModelName,
    model2: Annotated[
        Optional[str],  # noqa: UP045
        typer.Argument(metavar="[MODEL2]", help="A second model, measured in turns."),
    ] = None,
    prompt_tokens: Annotated[int, typer.Option(min=1, help="Length of the prompt.")] = 256,
    new_tokens: Annotated[int, typer.Option(min=1, help="Tokens decoded after it.")] = 32,
    repeats: Annotated[int, typer.Option(min=1, help="Repeats; medians are reported.")] = 5,
    dtype: options.Dtype = "auto",
    device: options.Device = "auto",
    trust_remote_code: options.RemoteCode = False,
    allow_pickle: options.Pickle = False,
    threads: options.Threads = None,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Measure how fast one model, or two side by side, reads a prompt and writes an answer."""
    from depthprune.pruning.bench import bench as measure

    found = measure(
        model,
        model2,
        prompt_tokens=prompt_tokens,
        new_tokens=new_tokens,
        repeats=repeats,
        dtype=dtype,
        device=device,
        trust_remote_code=trust_remote_code,
        allow_pickle=allow_pickle,
        progress=TerminalProgress(),
    )
    if json:
        show_json(found.document())
        return
    from depthprune.cli.tables import bench_table

    show(bench_table(found.models))
