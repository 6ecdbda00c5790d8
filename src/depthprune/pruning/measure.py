"""What `prune` learns before anything is written: the search, and its result on held-out text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from depthprune.calibration import Calibration
from depthprune.errors import UsageError
from depthprune.evaluator import Evaluator, Memo, RemovedSet
from depthprune.evaluator.shards import LossWorkers
from depthprune.manifest import (
    BlockScore,
    DraftRecord,
    DrawRecord,
    Estimate,
    HeldOut,
    PathPoint,
    TargetRecord,
)
from depthprune.pruning.drafting.as_draft import (
    choose_size,
    decoding_cost,
    require_gain,
    temperature_of,
)
from depthprune.pruning.drafting.draft_job import DraftJob
from depthprune.pruning.draws import search_over_draws
from depthprune.pruning.held_out import (
    HeldOutScorer,
    SizeRule,
    block_scores,
    estimate,
    path_points,
)
from depthprune.pruning.prepare import PruneTask
from depthprune.pruning.recovering.recovery_step import Recovered, fit_and_judge
from depthprune.pruning.target.auto import Resources, choose
from depthprune.pruning.target.judge import held_out_of_target, judged
from depthprune.pruning.target.record import target_record
from depthprune.pruning.target.spend import Rules
from depthprune.pruning.target.task import TargetTask
from depthprune.recovery import RecoveringScorer
from depthprune.searches import Result

if TYPE_CHECKING:
    from depthprune.pruning.options import PruneJob


@dataclass(frozen=True)
class Measured:
    """What was learned of the removed set before anything is written."""

    result: Result
    evaluator: Evaluator
    dense: Estimate
    blocks: list[BlockScore]
    held_out: list[HeldOut]
    path: list[PathPoint] | None
    recovered: Recovered | None
    draws: list[DrawRecord] | None
    calibration: Calibration
    target: TargetRecord | None = None
    drafting: DraftRecord | None = None


def measure_task(
    job: PruneJob,
    task: PruneTask,
    memo: Memo | None,
    workers: LossWorkers | None = None,
) -> Measured:
    """Search, and judge what was found.

    Args:
        job: What was asked for.
        task: The job, checked, with its calibration drawn and its model loaded.
        memo: Store of losses.
        workers: Who computes losses in this process's place, but for those of recovered models.

    Raises:
        DepthpruneError: If nothing can be removed, or a loss is NaN or infinite.
    """
    shared: dict[str, Any] = {"memory": job.memory, "memo": memo, "progress": job.progress}
    if task.wanted is not None:
        return _measure_chosen(job, task, task.wanted, shared, workers)
    model, calibration, objective = task.model, task.calibration, task.objective
    evaluator = Evaluator(
        model, calibration, objective, racing=job.racing, workers=workers, **shared
    )
    held_out_scorer = HeldOutScorer(model, calibration, objective, workers=workers, **shared)
    rule = None if job.max_increase is None else SizeRule(held_out_scorer, job.max_increase)
    result = _searched(job, task, evaluator, rule)
    # A path that the search did not score itself is worth its cost only to a size rule.
    known = bool(result.path) and all(evaluator.has_asked(s) for s in result.path)
    path = (
        path_points(result.path, evaluator, held_out_scorer) if known or rule is not None else None
    )
    free = [block for block in range(model.blocks) if block not in task.protect]
    drafting = None
    if job.draft is not None:
        drafting = _drafting(job, job.draft, task, result, workers, shared)
        result = _of_size(result, drafting.best.removed, evaluator)
    found = None
    if task.method is not None:
        found = fit_and_judge(
            model,
            calibration,
            task.further,
            objective,
            result.removed,
            task.method,
            job.target.path,
            in_search=job.search_with_recovery,
            **shared,
        )
    return Measured(
        result=result,
        evaluator=evaluator,
        dense=estimate(evaluator.dense, objective),
        blocks=block_scores(evaluator, free),
        held_out=found.held_out if found else held_out_scorer.held_out(result.removed),
        path=path,
        recovered=found,
        draws=_other_draws(job, task, memo, result.removed, workers),
        calibration=calibration,
        drafting=drafting,
    )


def _measure_chosen(
    job: PruneJob,
    task: PruneTask,
    wanted: TargetTask,
    shared: dict[str, Any],
    workers: LossWorkers | None,
) -> Measured:
    """The same where a target chooses the calibration: what follows is of the one that won."""
    resources = Resources(task.model, job.racing, workers=workers, **shared)
    rules = Rules(task.search, task.k, job.seed, task.protect, task.refusal)
    chosen = choose(wanted, rules, task.budget, resources, job.max_increase)
    removed = chosen.result.removed
    won = replace(
        task,
        calibration=chosen.configuration.calibration,
        objective=chosen.configuration.objective,
        budget=None,
    )
    exact = partial(Evaluator, task.model, plain=True, workers=workers, **shared)
    target = target_record(wanted, chosen, judged(wanted, chosen, exact))
    held_out = held_out_of_target(wanted, removed, exact)
    held_out += HeldOutScorer(
        task.model, wanted.default, "nll", workers=workers, **shared
    ).held_out(removed)
    found = None
    if task.method is not None:
        judge = [Calibration((replace(goal.judge, share=1.0),)) for goal in wanted.target.goals]
        found = fit_and_judge(
            task.model,
            won.calibration,
            [*judge, *task.further],
            won.objective,
            removed,
            task.method,
            job.target.path,
            in_search=False,
            **shared,
        )
    evaluator = resources.evaluator(won.calibration, won.objective)
    free = [block for block in range(task.model.blocks) if block not in task.protect]
    return Measured(
        result=chosen.result,
        evaluator=evaluator,
        dense=estimate(evaluator.dense, won.objective),
        blocks=block_scores(evaluator, free),
        held_out=found.held_out if found else held_out,
        path=None,
        recovered=found,
        draws=_other_draws(job, won, shared["memo"], removed, workers),
        calibration=won.calibration,
        target=target,
    )


def _searched(
    job: PruneJob, task: PruneTask, evaluator: Evaluator, rule: SizeRule | None
) -> Result:
    """What the search found, as long as the rule allows, with its loss on all windows."""
    scorer: Evaluator | RecoveringScorer = evaluator
    if job.search_with_recovery:
        scorer = _recovering(job, task, task.calibration)
    result = task.search_on(scorer, job.seed, enough=rule)
    if scorer is not evaluator:
        # What the search saw is on other windows, and recovered.
        result = replace(result, score=evaluator.score([result.removed])[0].require_finite())
    return result if rule is None else _shortened(job, result, rule, evaluator)


def _recovering(job: PruneJob, task: PruneTask, calibration: Calibration) -> RecoveringScorer:
    return RecoveringScorer(
        task.model, calibration, task.objective, memory=job.memory, progress=job.progress
    )


def _other_draws(
    job: PruneJob,
    task: PruneTask,
    memo: Memo | None,
    chosen: RemovedSet,
    workers: LossWorkers | None,
) -> list[DrawRecord] | None:
    """The same search on further draws, for sets of the size that was chosen."""
    if job.draws == 1:
        return None

    def evaluator_on(calibration: Calibration) -> Evaluator | RecoveringScorer:
        if job.search_with_recovery:
            return _recovering(job, task, calibration)
        return Evaluator(
            task.model,
            calibration,
            task.objective,
            memory=job.memory,
            memo=memo,
            racing=job.racing,
            progress=job.progress,
            workers=workers,
        )

    def search_on(evaluator: Evaluator | RecoveringScorer) -> Result:
        return task.search_on(evaluator, job.seed, k=len(chosen))

    return search_over_draws(chosen, task.calibration, job.draws, evaluator_on, search_on)


def _drafting(
    job: PruneJob,
    draft: DraftJob,
    task: PruneTask,
    result: Result,
    workers: LossWorkers | None,
    shared: dict[str, Any],
) -> DraftRecord:
    """What each size is worth as a draft; of the size that was asked for, if one was."""
    temperature = temperature_of(task.objective)
    scorer = HeldOutScorer(
        task.model,
        task.calibration,
        f"acceptance:temperature={temperature:g}",
        workers=workers,
        **shared,
    )
    path = [result.removed] if job.k is not None else result.path
    record = choose_size(
        path,
        scorer,
        decoding_cost(task.model, draft, job.progress),
        temperature=temperature,
        measured=draft.cost_ratio is None,
    )
    if job.k is None:
        require_gain(record)
    return record


def _of_size(result: Result, removed: Sequence[int], evaluator: Evaluator) -> Result:
    """What a search found, shortened to one of the sets on its way."""
    chosen = tuple(removed)
    if chosen == result.removed:
        return result
    score = evaluator.score([chosen])[0]
    return replace(result, removed=chosen, score=score, k=len(chosen))


def _shortened(job: PruneJob, result: Result, rule: SizeRule, evaluator: Evaluator) -> Result:
    if not rule.chosen:
        raise UsageError(
            f"--max-increase: removing any one block raises the held-out loss from "
            f"{rule.dense:.4f} above {rule.limit:.4f}; allow more"
        )
    return _of_size(result, rule.chosen, evaluator)
