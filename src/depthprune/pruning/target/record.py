"""How the calibration was chosen, in the form that the manifest has it."""

from __future__ import annotations

from depthprune.evaluator import RemovedSet
from depthprune.manifest import (
    TargetCalibration,
    TargetGoal,
    TargetJudged,
    TargetRecord,
    TargetRound,
    TargetSet,
)
from depthprune.pruning.held_out import estimate
from depthprune.pruning.target.auto import Chosen
from depthprune.pruning.target.choose import CHOICE_DELTA
from depthprune.pruning.target.split import Goal
from depthprune.pruning.target.task import TargetTask


def target_record(task: TargetTask, chosen: Chosen, judged: list[TargetJudged]) -> TargetRecord:
    """A choice as the manifest has it."""
    dense, taken = chosen.scorers.choose.score([(), chosen.result.removed])
    return TargetRecord(
        goals=[_goal(goal) for goal in task.target.goals],
        split=str(task.target.split),
        seed=task.target.seed,
        objective=task.objective.name,
        calibrations=[
            TargetCalibration(
                name=each.name,
                specs=[part.spec.line() for part in each.calibration.parts],
                objective=each.objective.name,
                tokens=each.calibration.tokens,
                fingerprint=each.calibration.fingerprint,
            )
            for each in task.configurations
        ],
        left_out=dict(chosen.spent.left_out),
        sets=[_set(removed, chosen) for removed in chosen.raced.general],
        rounds=[
            TargetRound(
                name=each.name,
                tried=each.tried,
                leader=list(each.leader),
                loss=each.loss,
                evaluations=each.cost.evaluations,
                block_tokens=each.cost.block_tokens,
            )
            for each in chosen.spent.rounds
        ],
        chosen=chosen.trial.arm,
        search=chosen.trial.search,
        delta=CHOICE_DELTA,
        keep_general=task.job.keep_general,
        budget=str(chosen.budget),
        whole=estimate(dense, task.objective),
        choosing=estimate(taken, task.objective),
        judged=judged,
    )


def _goal(goal: Goal) -> TargetGoal:
    return TargetGoal(
        spec=goal.spec.line(),
        kind=goal.kind,
        weight=goal.share,
        counted="passages" if goal.passages else "documents",
        documents=list(goal.documents),
        windows=[len(part.windows) for part in (goal.choose, goal.judge)],
        tokens=[part.tokens for part in (goal.choose, goal.judge)],
        notes=list(goal.notes),
    )


def _set(removed: RemovedSet, chosen: Chosen) -> TargetSet:
    trials = [trial for trial in chosen.spent.trials if trial.removed == removed]
    trial = max(trials, key=lambda each: each.share) if trials else chosen.trial
    score = chosen.raced.scores[removed]
    return TargetSet(
        removed=list(removed),
        calibration=trial.arm,
        search=trial.search,
        share=trial.share,
        loss=score.loss,
        stderr=score.stderr,
        windows=score.windows,
        general=chosen.raced.general[removed],
        tied=removed in chosen.raced.tied,
        refused=removed in chosen.raced.refused,
    )
