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
from depthprune.objectives import Mixture
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
from depthprune.pruning.target.task import TargetTask
from depthprune.pruning.target.trials import Rules
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
    resources = Resources(task.model, job.racing, job.memory, memo, job.progress, workers)
    if task.wanted is not None:
        return _measure_chosen(job, task, task.wanted, resources)
    evaluator = resources.evaluator(task.calibration, task.objective)
    held_out_scorer = _held_out_scorer(resources, task.calibration, task.objective)
    rule = None if job.max_increase is None else SizeRule(held_out_scorer.mixed, job.max_increase)
    result = _searched(job, task, evaluator, rule)
    # A path that the search did not score itself is worth its cost only to a size rule.
    known = bool(result.path) and all(evaluator.has_asked(s) for s in result.path)
    path = (
        path_points(result.path, evaluator, held_out_scorer) if known or rule is not None else None
    )
    drafting = None
    if job.draft is not None:
        drafting = _drafting(job, job.draft, task, result, resources)
        result = _of_size(result, drafting.best.removed, evaluator)
    recovered = _recovered(job, task, result.removed, task.further, resources)
    return Measured(
        result=result,
        **_of_calibration(job, task, result.removed, evaluator, resources),
        held_out=recovered.held_out if recovered else held_out_scorer.held_out(result.removed),
        path=path,
        recovered=recovered,
        drafting=drafting,
    )


def _measure_chosen(
    job: PruneJob, task: PruneTask, wanted: TargetTask, resources: Resources
) -> Measured:
    """The same where a target chooses the calibration: what follows is of the one that won."""
    rules = Rules(task.search, task.k, job.seed, task.protect, task.refusal)
    chosen = choose(wanted, rules, task.budget, resources, job.max_increase)
    removed = chosen.result.removed
    won = replace(
        task,
        calibration=chosen.configuration.calibration,
        objective=chosen.configuration.objective,
        budget=None,
    )
    exact = partial(Evaluator, task.model, plain=True, **_shared(resources))
    target = target_record(wanted, chosen, judged(wanted, chosen, exact))
    held_out = held_out_of_target(wanted, removed, exact)
    held_out += _held_out_scorer(resources, wanted.default, "nll").held_out(removed)
    judge = [Calibration((replace(goal.judge, share=1.0),)) for goal in wanted.target.goals]
    recovered = _recovered(job, won, removed, [*judge, *task.further], resources)
    evaluator = resources.evaluator(won.calibration, won.objective)
    return Measured(
        result=chosen.result,
        **_of_calibration(job, won, removed, evaluator, resources),
        held_out=recovered.held_out if recovered else held_out,
        path=None,
        recovered=recovered,
        target=target,
    )


def _shared(resources: Resources) -> dict[str, Any]:
    """What all that computes losses has alike, recovered or not."""
    names = ("memory", "memo", "progress", "workers")
    return {name: getattr(resources, name) for name in names}


def _held_out_scorer(
    resources: Resources, calibration: Calibration, objective: str | Mixture
) -> HeldOutScorer:
    return HeldOutScorer(resources.model, calibration, objective, **_shared(resources))


def _recovered(
    job: PruneJob,
    task: PruneTask,
    removed: RemovedSet,
    further: Sequence[Calibration],
    resources: Resources,
) -> Recovered | None:
    """The recovery that was asked for, with its losses; by this process, since weights change."""
    if task.method is None:
        return None
    return fit_and_judge(
        task.model,
        task.calibration,
        further,
        task.objective,
        removed,
        task.method,
        job.target.path,
        memory=resources.memory,
        memo=resources.memo,
        progress=resources.progress,
        in_search=job.search_with_recovery,
    )


def _of_calibration(
    job: PruneJob,
    task: PruneTask,
    removed: RemovedSet,
    evaluator: Evaluator,
    resources: Resources,
) -> dict[str, Any]:
    """What is told of the calibration that was searched on, whoever chose it."""
    free = [block for block in range(task.model.blocks) if block not in task.protect]
    return {
        "calibration": task.calibration,
        "evaluator": evaluator,
        "dense": estimate(evaluator.dense, task.objective),
        "blocks": block_scores(evaluator, free),
        "draws": _other_draws(job, task, removed, resources),
    }


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
    return result if rule is None else _shortened(result, rule, evaluator)


def _recovering(job: PruneJob, task: PruneTask, calibration: Calibration) -> RecoveringScorer:
    return RecoveringScorer(
        task.model, calibration, task.objective, memory=job.memory, progress=job.progress
    )


def _other_draws(
    job: PruneJob, task: PruneTask, chosen: RemovedSet, resources: Resources
) -> list[DrawRecord] | None:
    """The same search on further draws, for sets of the size that was chosen."""
    if job.draws == 1:
        return None

    def evaluator_on(calibration: Calibration) -> Evaluator:
        return resources.evaluator(calibration, task.objective)

    def search_on(evaluator: Evaluator) -> Result:
        scorer: Evaluator | RecoveringScorer = evaluator
        if job.search_with_recovery:
            scorer = _recovering(job, task, evaluator.calibration)
        return task.search_on(scorer, job.seed, k=len(chosen))

    return search_over_draws(chosen, task.calibration, job.draws, evaluator_on, search_on)


def _drafting(
    job: PruneJob, draft: DraftJob, task: PruneTask, result: Result, resources: Resources
) -> DraftRecord:
    """What each size is worth as a draft; of the size that was asked for, if one was."""
    temperature = temperature_of(task.objective)
    objective = f"acceptance:temperature={temperature}"
    scorer = _held_out_scorer(resources, task.calibration, objective)
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


def _shortened(result: Result, rule: SizeRule, evaluator: Evaluator) -> Result:
    if not rule.chosen:
        raise UsageError(
            "--max-increase: removing even the block that costs least on the calibration raises "
            f"the held-out loss from {rule.dense:.4f} above {rule.limit:.4f}; allow more"
        )
    return _of_size(result, rule.chosen, evaluator)
