"""`depthprune prune`: search, surgery, parity, report."""

from __future__ import annotations

from typing import Annotated, Optional

import typer

from depthprune.bounds import MOST_SEED
from depthprune.cli import options
from depthprune.cli.console import TerminalProgress, command_line, note, show, show_text
from depthprune.cli.option_groups import (
    EngineOptions,
    ModelOptions,
    RacingOptions,
    ResultOptions,
    SourceOptions,
    SpeedOptions,
    TargetOptions,
    expand_groups,
)
from depthprune.cli.values import parse_share
from depthprune.pruning.options import PROMPT, prune_job
from depthprune.removed_sets import name_blocks


@expand_groups
def prune(
    context: typer.Context,
    *,
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
    target: TargetOptions,
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
    prompt: Annotated[str, typer.Option(help="What both models continue in the report.")] = PROMPT,
    recover: options.Recover = None,
    also: options.Also = None,
    answers: options.Answers = None,
    answer_tokens: options.AnswerTokens = None,
    search_with_recovery: Annotated[
        bool,
        typer.Option(
            "--search-with-recovery",
            help="Score every set as it is after --recover; far dearer, for one-shot and greedy.",
        ),
    ] = False,
    speed: SpeedOptions,
    loading: ModelOptions,
    draws: options.Draws = 1,
    racing: RacingOptions,
    dry_run: options.DryRun = False,
    source: SourceOptions,
    overwrite: options.Overwrite = False,
    link: options.Link = False,
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
    engine: EngineOptions,
    threads: options.Threads = None,
    result: ResultOptions,
) -> None:
    """Find the blocks that can go, remove them, prove it and write a checkpoint."""
    options.require_out(out, dry_run=dry_run)
    limit = parse_share(max_increase, "--max-increase")
    keywords = {**loading.keywords(), **vars(source), **vars(speed), **target.keywords()}
    spread = engine.parsed()
    racing.refuse_idle(context, recovering=search_with_recovery)

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
        racing=racing.parsed(),
        recover=recover,
        also=also or (),
        answers=answers or (),
        answer_tokens=answer_tokens,
        search_with_recovery=search_with_recovery,
        as_draft=as_draft,
        cost_ratio=cost_ratio,
        prompt=prompt,
        **keywords,
        overwrite=overwrite,
        link=link,
        engine=spread,
        command=command_line(context),
        progress=TerminalProgress(),
    )
    if dry_run:
        from depthprune.cli.dry_run import show_cost

        show_cost(job, json=result.json)
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
    if result.json:
        show_text(manifest.text())
        return
    from depthprune.cli.tables import prune_summary

    show(prune_summary(manifest, job.target.page))
