"""What a target comes to before anything is spent: its parts, and the calibrations to try.

Everything that needs no weights is refused before they are loaded, as `prune` does; text that the
model writes itself is drawn last.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from depthprune.calibration import Calibration, CalibrationSpec, check_files, parse_calibration
from depthprune.errors import UsageError
from depthprune.evaluator import Score
from depthprune.objectives import Mixture, parse_objective
from depthprune.progress import warn
from depthprune.pruning.session import DEFAULT_CALIBRATION, TextReader
from depthprune.pruning.target.configurations import (
    Configuration,
    Reader,
    configurations,
    target_objective,
)
from depthprune.pruning.target.options import (
    CALIBRATION_TOKENS,
    Split,
    TargetJob,
    parse_split,
)
from depthprune.pruning.target.portfolio import Row, files_named, rows_for
from depthprune.pruning.target.split import Goal, Target, split_target, target_specs


@dataclass(frozen=True)
class ParsedTarget:
    """What the words of a target mean, as far as they can be read without the model."""

    job: TargetJob
    specs: list[CalibrationSpec]
    split: Split
    rows: tuple[Row, ...]

    def check_files(self) -> None:
        """Refuse files that cannot be opened."""
        check_files([*self.specs, *files_named(self.rows)])


@dataclass(frozen=True)
class TargetTask:
    """What is to be chosen among, and by what.

    Attributes:
        job: What was asked for.
        target: Split.
        objective: What is measured on it.
        configurations: The calibrations that are tried.
        default: The default calibration, whose held-out part is text in general.
    """

    job: TargetJob
    target: Target
    objective: Mixture
    configurations: list[Configuration]
    default: Calibration


def parse_target(job: TargetJob, given: Sequence[str], objective: str) -> ParsedTarget:
    """Read what was asked for.

    Args:
        job: The target.
        given: What `-c` names.
        objective: Of those.

    Raises:
        UsageError: If any of it is wrong.
    """
    split = parse_split(job.split)
    specs = target_specs(job.specs)
    if job.objective is not None:
        parse_objective(job.objective)
    return ParsedTarget(job, specs, split, rows_for(job.portfolio, given, objective))


def read_target(
    parsed: ParsedTarget, reader: TextReader, seed: int, *, generates: bool
) -> TargetTask:
    """Split the target and draw the calibrations.

    Args:
        parsed: What was asked for.
        reader: The model's tokenizer.
        seed: Of the split.
        generates: Whether the model may write text of its own.

    Raises:
        DepthpruneError: If anything cannot be read, or there is too little of it.
    """
    job = parsed.job
    with reader.progress.step("reading what is to be kept", None, ""):
        target = split_target(parsed.specs, reader, parsed.split, seed, job.tokens)
    for goal in target.goals:
        for note in goal.notes:
            warn(f"--for {goal.spec.short()}: {note}")
    objective = target_objective(target, job.objective)
    texts = Reader(reader, job.tokens / CALIBRATION_TOKENS)
    default = texts.read(parse_calibration(DEFAULT_CALIBRATION))
    default.held_out()
    found = configurations(
        parsed.rows,
        target,
        objective,
        texts,
        asked=job.objective is not None,
        generates=generates,
    )
    return TargetTask(job, target, objective, found, default)


def refuse_chance(
    target: Target, score_on: Callable[[Calibration, str], Score], asked: str | None
) -> None:
    """Refuse items that the whole model answers no better than by chance.

    Args:
        target: What is to be kept.
        score_on: Scores the whole model on a part of the target, under an objective.
        asked: What `--for-objective` names; under one that judges text, chance is nothing.

    Raises:
        UsageError: Naming the first such goal, with how near to chance it is.
    """
    if asked is not None and not any(
        c.objective.items_only for c in parse_objective(asked).components
    ):
        return
    for goal in target.goals:
        if goal.kind == "choices":
            _refuse_chance(goal, score_on)


def _refuse_chance(goal: Goal, score_on: Callable[[Calibration, str], Score]) -> None:
    calibration = Calibration((goal.choose,))
    options = np.array([len(w.item.spans) for w in goal.choose.windows if w.item is not None])
    entropy = score_on(calibration, "option-ce").require_finite()
    wrong = score_on(calibration, "accuracy").require_finite()
    by_entropy = np.log(options) - entropy.window_losses
    by_accuracy = (1 - wrong.window_losses) - 1 / options
    if _above(by_entropy) or _above(by_accuracy):
        return
    count = len(options)
    raise UsageError(
        f"--for {goal.spec.short()}: nothing can be chosen on it, since the whole model is at "
        f"chance: {100 * (1 - wrong.loss):.1f} ± {100 * wrong.stderr:.1f}% of {count} items right, "
        f"where chance gives {100 * float(np.mean(1 / options)):.1f}%; give what the model can do, "
        "more items, or --for-objective nll"
    )


def _above(gains: np.ndarray) -> bool:
    """Whether a mean is above 0 by more than two standard errors."""
    return bool(gains.mean() > 2 * gains.std(ddof=1) / math.sqrt(len(gains)))
