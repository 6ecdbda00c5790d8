"""What a choice may spend by default, and what a search on a calibration will cost.

All of it is counted by rehearsals, which ask as the searches do and compute nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from depthprune.errors import UsageError
from depthprune.evaluator import Cost
from depthprune.evaluator.rehearsal import Rehearsal
from depthprune.models.loading import Model
from depthprune.objectives import parse_objective
from depthprune.pruning.target.configurations import Configuration
from depthprune.pruning.target.scorers import on_share
from depthprune.pruning.target.task import TargetTask
from depthprune.pruning.target.trials import Rules
from depthprune.searches import Budget, Search

RESERVE = 0.15
"""Share of the budget that is left to choose with."""

TIMES_GREEDY = 4
"""The default budget, in greedy searches on the default calibration or the task itself."""


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
    beaten = [c for c in task.configurations if not c.draw and is_anchor(c)]
    greedy = [foresee(c, "greedy", 1.0) for c in (None, *beaten)]
    usual = TIMES_GREEDY * max(cost.asked_block_tokens for cost in greedy)
    anchors = sum((foresee(c, rules.search, 1.0) for c in beaten), least)
    return Budget(block_tokens=max(usual, math.ceil(anchors.asked_block_tokens / (1 - RESERVE))))


def require_budget(budget: Budget, least: Cost, tried: int) -> None:
    """Refuse a budget that does not pay for the first round.

    Args:
        budget: What was given.
        least: What the first round takes.
        tried: How many calibrations it tries.

    Raises:
        UsageError: Saying how much is needed.
    """
    short = [
        (f"{math.ceil(need)} {unit}", given)
        for given, need, unit in (
            (budget.evaluations, least.evaluations, "evaluations"),
            (budget.block_tokens, least.asked_block_tokens, "block-tokens"),
        )
        if given is not None and given < need
    ]
    if short:
        need, given = short[0]
        raise UsageError(
            f"--budget: the first round tries {tried} calibrations and takes {need}, got "
            f"{given:g}; raise it, or try fewer by --portfolio"
        )


def is_anchor(configuration: Configuration) -> bool:
    """Whether a choice has to beat what its search finds: the default calibration, the task."""
    return configuration.row.is_default or configuration.row.is_target


def foresee(
    task: TargetTask,
    rules: Rules,
    model: Model,
    configuration: Configuration | None,
    name: str | Search,
    share: float,
) -> Cost:
    """What a search on a configuration costs, every set on every window that it sees."""
    calibration = task.default if configuration is None else configuration.calibration
    objective = parse_objective("nll") if configuration is None else configuration.objective
    rehearsal = Rehearsal.of(model, calibration, objective)
    rules.run(name, on_share(rehearsal, share))
    return rehearsal.cost
