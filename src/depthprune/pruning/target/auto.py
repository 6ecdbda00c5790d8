"""The choice, from the calibrations that are tried to the set that is taken.

The budget is spent, what was found is raced on the part of the target that chooses, ties go to
text in general, and only then is the part that judges looked at: for the chosen set, and for what
the default calibration and the task itself would have given.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from depthprune.calibration import Calibration
from depthprune.evaluator import Cost, Evaluator, Memo, Racing
from depthprune.evaluator.rehearsal import Rehearsal
from depthprune.evaluator.shards import LossWorkers
from depthprune.models.loading import Model
from depthprune.objectives import Mixture
from depthprune.progress import SILENT, Progress
from depthprune.pruning.target.budgets import (
    RESERVE,
    default_budget,
    first_windows,
    foresee,
    require_budget,
)
from depthprune.pruning.target.choose import Raced, allowed_by_general, break_tie, race
from depthprune.pruning.target.configurations import Configuration
from depthprune.pruning.target.scorers import RemainingBudget, TargetScorers
from depthprune.pruning.target.sizes import grown, largest
from depthprune.pruning.target.spend import CHEAP, FEW, Spending
from depthprune.pruning.target.task import TargetTask, refuse_chance
from depthprune.pruning.target.trials import Rules, Spent, Trial
from depthprune.searches import Budget, Result
from depthprune.searches.session import TracePoint


@dataclass(frozen=True)
class Resources:
    """What evaluators are made with.

    Attributes:
        model: The original.
        racing: How sure searches are.
        memory: Bytes that hidden states may take.
        memo: Store of losses.
        progress: Where long work shows itself.
        workers: That compute losses, if others do.
    """

    model: Model
    racing: Racing | None
    memory: int | None = None
    memo: Memo | None = None
    progress: Progress = SILENT
    workers: LossWorkers | None = None

    def evaluator(self, calibration: Calibration, objective: Any) -> Evaluator:
        """An evaluator on a calibration."""
        return Evaluator(
            self.model,
            calibration,
            objective,
            racing=self.racing,
            memory=self.memory,
            memo=self.memo,
            progress=self.progress,
            workers=self.workers,
        )


@dataclass(frozen=True)
class Chosen:
    """What was chosen, with all that led to it.

    Attributes:
        result: As a search's.
        configuration: The calibration on which the set was found, for what follows.
        trial: How the set was found.
        spent: What the budget bought.
        raced: The choice.
        budget: What was allowed.
        scorers: The evaluators, with what they know.
    """

    result: Result
    configuration: Configuration
    trial: Trial
    spent: Spent
    raced: Raced
    budget: Budget
    scorers: TargetScorers


def choose(
    task: TargetTask,
    rules: Rules,
    budget: Budget | None,
    resources: Resources,
    max_increase: float | None = None,
) -> Chosen:
    """Choose a calibration and its set.

    Args:
        task: What is tried, and what for.
        rules: What sets are searched for.
        budget: What may be spent; by default some greedy searches on the default calibration.
        resources: What evaluators are made with.
        max_increase: Instead of the rules' k: the most blocks whose loss on the target grows by no
            more than this share.

    Raises:
        DepthpruneError: If nothing can be chosen, or the budget is below the first round.
    """
    resources = replace(resources, memo=resources.memo or Memo.temporary())
    refuse_chance(
        task.target,
        lambda part, objective: resources.evaluator(part, objective).dense,
        task.job.objective,
    )
    scorers = TargetScorers(resources.evaluator, task.target.choose, task.objective, task.default)
    dense = scorers.choose.score([()])[0].require_finite()
    limit = None
    if max_increase is not None:
        limit = dense.loss + max_increase * abs(dense.loss)
        rules = replace(rules, k=largest(task, rules, scorers, max_increase))
    budget, spent, remaining = _spend(task, rules, budget, scorers, resources.model)
    raced = _raced(task, spent, scorers, limit)
    trial = max((t for t in spent.trials if t.removed == raced.winner), key=lambda t: t.share)
    configuration = _configuration(task, trial)
    if limit is not None:
        raced, trial = grown(rules, scorers, raced, trial, configuration, limit)
    score = scorers.scorer(configuration).score([raced.winner])[0].require_finite()
    result = Result(
        removed=raced.winner,
        score=score,
        path=(),
        trace=tuple(TracePoint(r.cost, r.leader, r.loss) for r in spent.rounds),
        cost=replace(scorers.cost, seconds=remaining.seconds),
        not_finite=tuple(sorted(s for s, each in spent.first.items() if not each.finite)),
        search=f"successive halving of {rules.search.name}",
        seed=rules.seed,
        k=len(raced.winner),
        protect=tuple(sorted(rules.protect)),
        budget=budget,
    )
    return Chosen(result, configuration, trial, spent, raced, budget, scorers)


def _spend(
    task: TargetTask, rules: Rules, budget: Budget | None, scorers: TargetScorers, model: Model
) -> tuple[Budget, Spent, RemainingBudget]:
    coming = partial(foresee, task, rules, model)
    least = sum((coming(c, CHEAP, FEW) for c in task.configurations), Cost())
    sure = budget is None
    if budget is None:
        budget = default_budget(task, rules, coming, least)
    require_budget(budget, least, len(task.configurations))
    remaining = RemainingBudget(budget, scorers, RESERVE)
    first = first_windows(task)
    spending = Spending(scorers, task.configurations, rules, remaining, first, coming, sure=sure)
    return budget, spending.run(), remaining


def foretell_choice(
    task: TargetTask, rules: Rules, budget: Budget | None, model: Model
) -> list[tuple[Rehearsal, Calibration]]:
    """The same choice on evaluators that only count; its cost at the most.

    Each calibration gives a set of its own, and none drops out before it saw all windows.

    Returns:
        What was counted on each calibration.

    Raises:
        UsageError: If the budget is below the first round.
    """
    made: list[tuple[Rehearsal, Calibration]] = []

    def make(calibration: Calibration, objective: Mixture) -> Rehearsal:
        rehearsal = Rehearsal.of(model, calibration, objective)
        rehearsal.lose_by(len(made))
        made.append((rehearsal, calibration))
        return rehearsal

    scorers = TargetScorers(make, task.target.choose, task.objective, task.default)
    _, spent, _ = _spend(task, rules, budget, scorers, model)
    scorers.general(list(spent.first))
    scorers.choose.score([(), *spent.first])
    return made


def _raced(task: TargetTask, spent: Spent, scorers: TargetScorers, limit: float | None) -> Raced:
    sets = [s for s, score in spent.first.items() if score.finite] or list(spent.first)
    general = dict(zip(sets, scorers.general(sets), strict=True))
    allowed, refused = allowed_by_general(general, task.job.keep_general)
    contenders, scores = race(
        scorers.choose,
        allowed,
        looked=len(spent.first),
        first=first_windows(task),
        bounds=task.objective.bounds,
    )
    scores = {**{s: spent.first[s] for s in sets}, **scores}
    within = [s for s in contenders if limit is None or scores[s].loss <= limit]
    if not within:
        # The race is led by a set within the limit unless none is.
        within = contenders[:1]
    beyond = tuple(s for s in contenders if s not in within)
    winner = break_tie(within, general, scores)
    return Raced(winner, scores, general, tuple(contenders), (*refused, *beyond))


def _configuration(task: TargetTask, trial: Trial) -> Configuration:
    """On what a set was found; of the consensus, the task itself stands for all."""
    for configuration in task.configurations:
        if configuration.name == trial.arm:
            return configuration
    own = (c for c in task.configurations if c.row.is_target)
    return next(own, task.configurations[0])
