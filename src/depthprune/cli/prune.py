"""`depthprune prune`: search, surgery, parity, report."""

from __future__ import annotations

from typing import Annotated, Optional

import typer

from depthprune.cli import options
from depthprune.cli.console import TerminalProgress, command_line, note, show, show_text
from depthprune.evaluator.confidence import Racing
from depthprune.outputs import PAGE_NAME, placed
from depthprune.pruning.options import prune_job
from depthprune.removed_sets import name_blocks

MOST_SEED = 2**32 - 1  # that every generator of random numbers takes


def prune(
    context: typer.Context,
    model: options.ModelName,
    out: options.OutUnlessDry = None,
    k: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option("-k", help="How many blocks go."),
    ] = None,
    max_increase: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            metavar="SHARE",
            help="Instead of -k: the most blocks whose held-out loss grows by no more than this, "
            "such as 5%.",
        ),
    ] = None,
    calibration: options.Calibrations = None,
    target: options.For = None,
    target_split: options.ForSplit = "50,25,25",
    target_objective: options.ForObjective = None,
    portfolio: options.Portfolio = None,
    keep_general: options.KeepGeneral = None,
    objective: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            help="What is scored, by default nll, and acceptance with --as-draft. See: depthprune "
            "objectives."
        ),
    ] = None,
    search: Annotated[
        str, typer.Option(help="How removed sets are chosen. See: depthprune searches.")
    ] = "greedy",
    budget: options.Budget = None,
    seed: Annotated[
        int,
        typer.Option(
            min=0, max=MOST_SEED, help="Of the search; the calibration's draw has its own."
        ),
    ] = 0,
    protect: Annotated[
        str, typer.Option(metavar="BLOCKS", help="Blocks that stay, such as 0,29 or 0-3.")
    ] = "",
    prompt: Annotated[
        str, typer.Option(help="What both models continue in the report.")
    ] = "The most important thing about a good library is",
    recover: options.Recover = None,
    also: options.Also = None,
    search_with_recovery: Annotated[
        bool,
        typer.Option(
            "--search-with-recovery",
            help="Score every set as it is after --recover; far dearer, for one-shot and greedy.",
        ),
    ] = False,
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
    draws: options.Draws = 1,
    exact: options.Exact = False,
    delta: options.Delta = 0.01,
    tolerance: options.Tolerance = "0.1%",
    dry_run: options.DryRun = False,
    revision: options.Revision = None,
    trust_remote_code: options.RemoteCode = False,
    allow_pickle: options.Pickle = False,
    overwrite: options.Overwrite = False,
    as_draft: Annotated[
        bool,
        typer.Option(
            "--as-draft",
            help="Choose what makes the best draft of MODEL in speculative decoding, and without "
            "-k its size too.",
        ),
    ] = False,
    cost_ratio: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(
            help="With --as-draft: the share of decoding that the blocks take where it will run, "
            "from above 0 to 1; by default it is timed here."
        ),
    ] = None,
    engine: options.EngineName = None,
    workers: options.Workers = None,
    gpus_per_worker: options.GpusPerWorker = None,
    cpus_per_worker: options.CpusPerWorker = None,
    threads: options.Threads = None,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Find the blocks that can go, remove them, prove it and write a checkpoint."""
    options.require_out(out, dry_run=dry_run)
    limit = options.parse_share(max_increase, "--max-increase")
    states = options.parse_size(memory, "--memory")
    tie = options.parse_share(tolerance, "--tolerance")
    general = options.parse_share(keep_general, "--keep-general")
    spread = options.read_engine(engine, workers, gpus_per_worker, cpus_per_worker)
    options.refuse_idle_racing(context, exact=exact, recovering=search_with_recovery)

    job = prune_job(
        model,
        k,
        out=out,
        calibration=calibration or (),
        max_increase=limit,
        objective=objective,
        search=search,
        seed=seed,
        budget=budget,
        protect=protect,
        draws=draws,
        racing=None if exact else Racing(delta, tie or 0.0),
        recover=recover,
        also=also or (),
        search_with_recovery=search_with_recovery,
        target=target or (),
        target_split=target_split,
        target_objective=target_objective,
        portfolio=portfolio,
        keep_general=general,
        as_draft=as_draft,
        cost_ratio=cost_ratio,
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
        engine=spread,
        command=command_line(context),
        progress=TerminalProgress(),
    )
    if dry_run:
        from depthprune.cli.dry_run import tell

        tell(job, json=json)
        return
    # The job pulls in torch, which takes a second that a wrong flag should not cost.
    from depthprune.pruning.prune import run

    manifest = run(job)
    found = manifest.search
    if found and found.rounding and found.racing:
        share = found.rounding.share
        if share > found.racing.tolerance:
            note(f"note: rounding changes differences of losses by {share:.2%}; less is a tie")
    for removed in manifest.search.not_finite if manifest.search else ():
        note(f"warning: the loss without {name_blocks(removed)} is NaN or infinite; it ranked last")
    if json:
        show_text(manifest.text())
        return
    from depthprune.cli.tables import prune_summary

    show(prune_summary(manifest, placed(job.target, PAGE_NAME)))
