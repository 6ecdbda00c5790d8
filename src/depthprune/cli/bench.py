"""`depthprune bench`: prefill and decode speed, memory and size, side by side."""

from __future__ import annotations

from typing import Annotated, Any, Optional

import typer

from depthprune.cli import options
from depthprune.cli.console import TerminalProgress, note, show, show_json
from depthprune.pruning.session import Loading


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
    from depthprune.models.speed import measure

    progress = TerminalProgress()
    names = [model] if model2 is None else [model, model2]
    loadings = [
        Loading(name, dtype, device, None, trust_remote_code, allow_pickle) for name in names
    ]
    sources = [loading.find() for loading in loadings]
    modules, kind = [], ""
    for source in sources:
        # Both in one dtype: the first model's, where it is chosen.
        module, kind = _module(source, kind or dtype, device, progress)
        modules.append(module)
    rates = measure(
        modules,
        prompt_tokens=prompt_tokens,
        new_tokens=new_tokens,
        repeats=repeats,
        progress=progress,
    )
    rows = [
        _row(source, module, found)
        for source, module, found in zip(sources, modules, rates, strict=True)
    ]
    if not json:
        from depthprune.cli.tables import bench_table

        show(bench_table(rows))
        return
    settings = {"prompt_tokens": prompt_tokens, "new_tokens": new_tokens, "repeats": repeats}
    results = [_document(row) for row in rows]
    show_json({"schema": 1, "dtype": kind, **settings, "results": results})


def _module(source: Any, dtype: str, device: str, progress: TerminalProgress) -> tuple[Any, str]:
    from depthprune.models.devices import DTYPES, choose_device
    from depthprune.models.dtype_choice import choose_dtype
    from depthprune.models.loading import load_module

    place = choose_device(device)
    choice = choose_dtype(dtype, source, place)
    kind = choice.name
    if choice.why is not None:
        note(f"computing in {kind}: {choice.why}")
    with progress.step(f"loading {source.name}", None, ""):
        return load_module(source, DTYPES[kind], place), kind


def _row(source: Any, module: Any, found: Any) -> Any:
    from depthprune.cli.tables import BenchRow
    from depthprune.models.speed import memory_bytes, spread

    size = source.bytes_on_disk()
    return BenchRow(
        name=source.name,
        parameters=sum(p.numel() for p in module.parameters()),
        bytes=size,
        prefill=spread(found.prefill),
        decode=spread(found.decode),
        memory=memory_bytes(module),
    )


def _document(row: Any) -> dict[str, Any]:
    return {
        "model": row.name,
        "parameters": row.parameters,
        "bytes": row.bytes,
        "memory_bytes": row.memory,
        "prefill_tokens_per_second": row.prefill.model_dump(),
        "decode_tokens_per_second": row.decode.model_dump(),
    }
