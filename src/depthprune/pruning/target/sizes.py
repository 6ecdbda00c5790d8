"""`--max-increase` with `--for`: the most blocks that may go, and a set grown as far as that.

The limit is of the loss on the part of the target that chooses.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from depthprune.errors import UsageError
from depthprune.evaluator import RemovedSet
from depthprune.pruning.held_out import SizeRule
from depthprune.pruning.target.budgets import is_anchor
from depthprune.pruning.target.choose import Raced
from depthprune.pruning.target.configurations import Configuration
from depthprune.pruning.target.scorers import TargetScorers
from depthprune.pruning.target.task import TargetTask
from depthprune.pruning.target.trials import Rules, Trial
from depthprune.searches import make_space, most_removable
from depthprune.searches.common.moves import longer


def largest(task: TargetTask, rules: Rules, scorers: TargetScorers, max_increase: float) -> int:
    """How many blocks may go at the most, as the default calibration and the task itself say."""
    named = [c for c in task.configurations if not c.draw and is_anchor(c)]
    tried = named or task.configurations[:1]
    most, rule = 0, None

    def losses(sets: Sequence[RemovedSet]) -> list[tuple[float, float]]:
        return [(score.loss, score.stderr) for score in scorers.choose.score(sets)]

    for configuration in tried:
        rule = SizeRule(losses, max_increase)
        rules.run(rules.search, scorers.scorer(configuration), enough=rule)
        most = max(most, len(rule.chosen))
    if not most and rule is not None:
        raise UsageError(
            "--max-increase: removing even the block that costs least on a calibration raises the "
            f"loss on --for from {rule.dense:.4f} above {rule.limit:.4f}; allow more"
        )
    return most


def grown(
    rules: Rules,
    scorers: TargetScorers,
    raced: Raced,
    trial: Trial,
    configuration: Configuration,
    limit: float,
) -> tuple[Raced, Trial]:
    """The chosen set with further blocks, as long as the target allows it."""
    scorer, removed = scorers.scorer(configuration), raced.winner
    most = most_removable(scorer.blocks, rules.protect, rules.refusal)
    while len(removed) < most:
        space = make_space(scorer.blocks, len(removed) + 1, rules.protect, refusal=rules.refusal)
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
    further_on = replace(
        raced,
        winner=removed,
        scores={**raced.scores, removed: score},
        general={**raced.general, removed: general},
    )
    return further_on, replace(trial, removed=removed, search=f"{trial.search}, grown")
