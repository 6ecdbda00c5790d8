"""The part of a target that decided nothing is looked at: once, when all is decided."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from depthprune.calibration import Calibration
from depthprune.evaluator import RemovedSet, Score, increase
from depthprune.manifest import HeldOut, TargetJudged
from depthprune.objectives import Mixture, parse_objective
from depthprune.pruning.held_out import before_and_after, estimate
from depthprune.pruning.target.auto import Chosen
from depthprune.pruning.target.task import TargetTask
from depthprune.searches.driver import Scorer

Make = Callable[[Calibration, Any], Scorer]

_LEVEL = 0.95


def judged(task: TargetTask, chosen: Chosen, make: Make) -> list[TargetJudged]:
    """The chosen set beside what would have been taken without a choice, and the whole model.

    Args:
        task: Whose part that judges is looked at.
        chosen: What was chosen.
        make: Makes what scores sets on a calibration under an objective.

    Raises:
        EvaluationError: If a loss is NaN or infinite.
    """
    spent = chosen.spent
    named: list[tuple[Any, RemovedSet | None]] = [
        ("chosen", chosen.result.removed),
        ("default", _of_size(spent.default, chosen)),
        ("task", _of_size(spent.task, chosen)),
        ("whole", ()),
    ]
    known = [(what, removed) for what, removed in named if removed is not None]
    sets = [removed for _, removed in known]
    scores = make(task.target.judge, task.objective).score(sets)
    items = _items(task.target.judge)
    right = make(items, "accuracy").score(sets) if items else [None] * len(sets)
    return [
        _judged(what, score.require_finite(), scores[0], task.objective, accuracy)
        for (what, _), score, accuracy in zip(known, scores, right, strict=True)
    ]


def _of_size(removed: RemovedSet | None, chosen: Chosen) -> RemovedSet | None:
    """A set that is compared with the chosen one, which only one of its size can be."""
    return removed if removed is not None and len(removed) == len(chosen.result.removed) else None


def _items(judge: Calibration) -> Calibration | None:
    parts = [part for part in judge.parts if part.windows[0].item is not None]
    total = sum(part.share for part in parts)
    shares = tuple(replace(part, share=part.share / total) for part in parts)
    return Calibration(shares) if parts else None


def _judged(
    what: Any, score: Score, chosen: Score, objective: Mixture, accuracy: Score | None
) -> TargetJudged:
    above, stderr = increase(score, chosen)
    reach = _quantile(score.windows - len(score.weighting.shares)) * stderr
    return TargetJudged(
        what=what,
        removed=list(score.removed),
        loss=estimate(score, objective),
        accuracy=None if accuracy is None else 1 - accuracy.loss,
        accuracy_stderr=None if accuracy is None else accuracy.stderr,
        above=above,
        above_stderr=stderr,
        low=above - reach,
        high=above + reach,
    )


def _quantile(freedom: int) -> float:
    from scipy import stats

    return float(stats.t.ppf((1 + _LEVEL) / 2, freedom)) if freedom > 0 else math.inf


def held_out_of_target(task: TargetTask, removed: RemovedSet, make: Make) -> list[HeldOut]:
    """What each goal lost on the part that decided nothing.

    Args:
        task: Whose part that judges is looked at.
        removed: What was chosen.
        make: Makes what scores sets on a calibration under an objective.

    Raises:
        EvaluationError: If a loss is NaN or infinite.
    """
    records = []
    for goal in task.target.goals:
        alone = Calibration((replace(goal.judge, share=1.0),))
        own = task.objective.of_source(alone.windows, task.target.judge.windows)
        objective = own or parse_objective("nll")
        dense, pruned = make(alone, objective).score([(), removed])
        records.append(before_and_after(goal.judge, objective, objective.name, dense, pruned))
    return records
