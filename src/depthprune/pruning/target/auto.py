"""The choice, from the calibrations that are tried to the set that is taken.

The budget is spent, what was found is raced on the part of the target that chooses, ties go to
text in general, and only then is the part that judges looked at: for the chosen set, and for what
the default calibration and the task itself would have given.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from depthprune.calibration import Calibration
from depthprune.errors import UsageError
from depthprune.evaluator import Cost, Evaluator, Memo, Racing, RemovedSet, Score
from depthprune.evaluator.rehearsal import Rehearsal
from depthprune.evaluator.shards import LossWorkers
from depthprune.models.loading import Model
from depthprune.objectives import Mixture
from depthprune.progress import SILENT, Progress
from depthprune.pruning.held_out import SizeRule
from depthprune.pruning.target.choose import allowed_by_general, break_tie, race
from depthprune.pruning.target.configurations import Configuration
from depthprune.pruning.target.scorers import (
    RemainingBudget,
    TargetScorers,
    on_share,
)
from depthprune.pruning.target.spend import (
    CHEAP,
    FEW,
    RESERVE,
    TIMES_GREEDY,
    Rules,
    Spending,
    Spent,
    Trial,
    require_budget,
)
from depthprune.pruning.target.task import TargetTask, refuse_chance
from depthprune.searches import Budget, Result, Search, make_space
from depthprune.searches.common.moves import longer
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

    def evaluator(self, calibration: Calibration, objective: Any, **more: Any) -> Evaluator:
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
            **more,
        )


@dataclass(frozen=True)
class Raced:
    """The choice among what was found.

    Attributes:
        winner: The set that is taken.
        scores: Of every set on the windows of the target that it saw.
        general: Each set's loss on text in general.
        tied: Those that cannot be told apart from the best.
        refused: Those that lose too much, in general or of the target.
    """

    winner: RemovedSet
    scores: dict[RemovedSet, Score]
    general: dict[RemovedSet, float]
    tied: tuple[RemovedSet, ...]
    refused: tuple[RemovedSet, ...]


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
        rules = replace(rules, k=_largest(task, rules, scorers, max_increase))
    budget, spent, remaining = _spend(task, rules, budget, scorers, resources.model)
    raced = _raced(task, spent, scorers, limit)
    trial = max((t for t in spent.trials if t.removed == raced.winner), key=lambda t: t.share)
    configuration = _configuration(task, trial)
    if limit is not None:
        raced, trial = _grown(rules, scorers, raced, trial, configuration, limit)
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
    foresee = partial(_foresee, task, rules, model)
    least = sum((foresee(c, CHEAP, FEW) for c in task.configurations), Cost())
    sure = budget is None
    if budget is None:
        budget = default_budget(task, rules, foresee, least)
    require_budget(budget, least, len(task.configurations))
    remaining = RemainingBudget(budget, scorers, RESERVE)
    first = first_windows(task)
    spending = Spending(scorers, task.configurations, rules, remaining, first, foresee, sure=sure)
    return budget, spending.run(), remaining


def foretell_choice(
    task: TargetTask, rules: Rules, budget: Budget | None, model: Model
) -> list[tuple[Rehearsal, Calibration]]:
    """The same choice on evaluators that only count.

    Returns:
        What was counted on each calibration.

    Raises:
        UsageError: If the budget is below the first round.
    """
    made: list[tuple[Rehearsal, Calibration]] = []

    def make(calibration: Calibration, objective: Mixture) -> Rehearsal:
        rehearsal = Rehearsal.of(model, calibration, objective)
        made.append((rehearsal, calibration))
        return rehearsal

    scorers = TargetScorers(make, task.target.choose, task.objective, task.default)
    _, spent, _ = _spend(task, rules, budget, scorers, model)
    _raced(task, spent, scorers, None)
    return made


def first_windows(task: TargetTask) -> int:
    """How many of the target's windows decide rounds: they have the tokens of one draw."""
    choose = task.target.choose
    return max(2, min(len(choose.windows), len(choose.windows) * task.job.tokens // choose.tokens))


def default_budget(
    task: TargetTask,
    rules: Rules,
    foresee: Callable[[Configuration | None, str | Search, float], Cost],
    least: Cost,
) -> Budget:
    """Some greedy searches, on the default calibration or on the task itself, whichever is dearer.

    Every set on every window. Of as many tokens, items with options cost several times what text
    does, and the choice is made on them too. Of few blocks a greedy search is hardly more than the
    first round; then it is what that takes with the two searches to beat, and the choice.

    Args:
        task: What is tried.
        rules: What sets are searched for.
        foresee: What a search on a configuration costs.
        least: What the first round takes.
    """
    beaten = [c for c in task.configurations if not c.draw and _is_anchor(c)]
    greedy = [foresee(c, "greedy", 1.0) for c in (None, *beaten)]
    usual = TIMES_GREEDY * max(cost.asked_block_tokens for cost in greedy)
    anchors = sum((foresee(c, rules.search, 1.0) for c in beaten), least)
    return Budget(block_tokens=max(usual, math.ceil(anchors.asked_block_tokens / (1 - RESERVE))))


def _is_anchor(configuration: Configuration) -> bool:
    return configuration.row.is_default or configuration.row.is_target


def _foresee(
    task: TargetTask,
    rules: Rules,
    model: Model,
    configuration: Configuration | None,
    name: str | Search,
    share: float,
) -> Cost:
    """What a search on a configuration costs, every set on every window that it sees."""
    calibration = task.default if configuration is None else configuration.calibration
    objective = _nll() if configuration is None else configuration.objective
    rehearsal = Rehearsal.of(model, calibration, objective)
    rules.run(name, on_share(rehearsal, share))
    return rehearsal.cost


def _nll() -> Mixture:
    from depthprune.objectives import parse_objective

    return parse_objective("nll")


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


class _Judge:
    """The target's loss, as `SizeRule` asks for it."""

    def __init__(self, score: Callable[[list[RemovedSet]], list[Score]]) -> None:
        self._score = score

    def mixed(self, sets: Any) -> list[tuple[float, float]]:
        """The loss of each set, and its standard error."""
        return [(score.loss, score.stderr) for score in self._score(list(sets))]


def _largest(task: TargetTask, rules: Rules, scorers: TargetScorers, max_increase: float) -> int:
    """How many blocks may go at the most, as the default calibration and the task itself say."""
    named = [c for c in task.configurations if not c.draw and _is_anchor(c)]
    tried = named or task.configurations[:1]
    most, rule = 0, None
    for configuration in tried:
        rule = SizeRule(_Judge(scorers.choose.score), max_increase)
        rules.run(rules.search, scorers.scorer(configuration), enough=rule)
        most = max(most, len(rule.chosen))
    if not most and rule is not None:
        raise UsageError(
            f"--max-increase: removing any one block raises the loss on --for from "
            f"{rule.dense:.4f} above {rule.limit:.4f}; allow more"
        )
    return most


def _grown(
    rules: Rules,
    scorers: TargetScorers,
    raced: Raced,
    trial: Trial,
    configuration: Configuration,
    limit: float,
) -> tuple[Raced, Trial]:
    """The chosen set with further blocks, as long as the target allows it."""
    scorer, removed = scorers.scorer(configuration), raced.winner
    while True:
        more = len(removed) + 1
        free = make_space(scorer.blocks, min(more, scorer.blocks - 1), rules.protect).free
        if more >= scorer.blocks or more > len(free):
            break
        space = make_space(scorer.blocks, more, rules.protect, refusal=rules.refusal)
        sets = longer(space, removed)
        if not sets:
            break
        losses = [score.loss for score in scorer.compare(sets, keep=1)]
        further = sets[losses.index(min(losses))]
        score = scorers.choose.score([further])[0]
        if not score.loss <= limit:
            break
        removed = further
    if removed == raced.winner:
        return raced, trial
    score, general = scorers.choose.score([removed])[0], scorers.general([removed])[0]
    grown = replace(
        raced,
        winner=removed,
        scores={**raced.scores, removed: score},
        general={**raced.general, removed: general},
    )
    return grown, replace(trial, removed=removed, search=f"{trial.search}, grown")
