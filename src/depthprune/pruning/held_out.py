"""Losses that are reported: on held-out windows, paired with the dense model.

A search's own loss flatters what it chose. What is reported is measured on windows of the same
sources that no draw contains, and the difference between two models is taken window by window.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from depthprune.calibration import Calibration, Part
from depthprune.errors import UsageError
from depthprune.evaluator import Evaluator, Memo, RemovedSet, Score, increase
from depthprune.evaluator.shards import LossWorkers
from depthprune.manifest import BlockScore, Estimate, HeldOut, PathPoint
from depthprune.models.loading import Model
from depthprune.objectives import Mixture, Objective, parse_objective
from depthprune.progress import SILENT, Progress


class HeldOutScorer:
    """Scores removed sets on held-out windows, each source apart.

    Args:
        model: The original.
        calibration: Whose sources are held out from.
        objective: As the search's.
        memory: Bytes that hidden states may take.
        memo: Store of losses.
        progress: Where the work shows itself.
        workers: Who computes losses in this process's place.
    """

    def __init__(
        self,
        model: Model,
        calibration: Calibration,
        objective: str | Objective | Mixture,
        *,
        memory: int | None = None,
        memo: Memo | None = None,
        progress: Progress = SILENT,
        workers: LossWorkers | None = None,
    ) -> None:
        self._parts = calibration.parts
        self._worst = calibration.worst_domain
        self._objective = parse_objective(objective)
        self._evaluators = [
            Evaluator(
                model,
                held,
                self._objective.of_source(held.windows, calibration.windows) or self._objective,
                memory=memory,
                memo=memo,
                plain=True,
                progress=progress,
                workers=workers,
            )
            for held in calibration.held_out()
        ]

    def held_out(self, removed: RemovedSet) -> list[HeldOut]:
        """Before and after, for each source.

        Raises:
            EvaluationError: If a loss is NaN or infinite.
        """
        records = []
        for part, evaluator in zip(self._parts, self._evaluators, strict=True):
            dense, pruned = evaluator.score([(), removed])
            name = other_name(evaluator.objective, self._objective)
            records.append(before_and_after(part, evaluator.objective, name, dense, pruned))
        return records

    def mixed(self, sets: Sequence[RemovedSet]) -> list[tuple[float, float]] | None:
        """The mixture's held-out loss of each set, and its standard error.

        Where the worst domain counts, it is that of the worst source. Of a mixture of objectives,
        each source's loss is as a share of the dense model's, as they have no common unit; None
        where the dense model loses nothing on a source, or less (a margin may be below 0), of which
        there are no shares.
        """
        columns: list[list[Score]] = []
        for evaluator in self._evaluators:
            column = self._scored(evaluator, sets)
            if column is None:
                return None
            columns.append(column)
        shares = [part.share for part in self._parts]
        mixed = []
        for scores in zip(*columns, strict=True):
            if self._worst:
                worst = max(scores, key=lambda score: score.loss)
                mixed.append((worst.loss, worst.stderr))
                continue
            loss = sum(w * s.loss for w, s in zip(shares, scores, strict=True))
            variance = sum((w * s.stderr) ** 2 for w, s in zip(shares, scores, strict=True))
            mixed.append((loss, math.sqrt(variance)))
        return mixed

    def _scored(self, evaluator: Evaluator, sets: Sequence[RemovedSet]) -> list[Score] | None:
        dense, *scores = evaluator.score([(), *sets])
        single = len(evaluator.objective.components) == 1
        if not single or len(self._objective.components) == 1:
            return scores
        if dense.loss <= 0:
            return None
        return [replace(s, loss=s.loss / dense.loss, stderr=s.stderr / dense.loss) for s in scores]


def before_and_after(
    part: Part, objective: Mixture, name: str | None, dense: Score, pruned: Score
) -> HeldOut:
    """The record of a source's losses with all blocks and without some.

    Args:
        part: The source.
        objective: What was measured.
        name: How the record names it.
        dense: With all blocks.
        pruned: Without some.

    Raises:
        EvaluationError: If a loss is NaN or infinite.
    """
    grown, stderr = increase(pruned.require_finite(), dense.require_finite())
    return HeldOut(
        calibration=part.spec.line(),
        objective=name,
        dense=estimate(dense, objective),
        pruned=estimate(pruned, objective),
        increase=grown,
        increase_stderr=stderr,
    )


def other_name(used: Mixture, asked: Mixture) -> str | None:
    """The objective that judged a source, where it is not the one that was asked for."""
    return None if used.name == asked.name else used.name


class SizeRule:
    """The largest k whose held-out loss grows by no more than a limit, along a nested path.

    Sizes are tried in turn. Held-out loss along a path is all but monotone; the search is told to
    stop once `patience` sizes in a row are above the limit, and the largest size below it counts.

    Args:
        mixed: Gives the loss of each set, and its standard error; None where losses have no unit.
        max_increase: Allowed growth of the loss, as a fraction of the dense model's.
        patience: How many sizes above the limit end the search.

    Raises:
        UsageError: If the dense model's loss is not above 0 where losses are counted in shares of
            it.
    """

    def __init__(
        self,
        mixed: Callable[[Sequence[RemovedSet]], Sequence[tuple[float, float]] | None],
        max_increase: float,
        *,
        patience: int = 2,
    ) -> None:
        self._mixed = mixed
        self._patience = patience
        self._above = 0
        found = mixed([()])
        if found is None:
            raise UsageError(
                "--max-increase: the dense model loses nothing, or less, on the held-out part of a "
                "source, and a mixture of objectives grows by shares of that; take one objective, "
                "or give -k"
            )
        dense = found[0][0]
        self.dense = dense
        self.limit = dense + max_increase * abs(dense)
        self.chosen: RemovedSet = ()

    def __call__(self, removed: RemovedSet) -> bool:
        """Judge the next size; True if the search has gone far enough."""
        found = self._mixed([removed])
        loss = math.inf if found is None else found[0][0]
        if loss <= self.limit:
            self.chosen = removed
            self._above = 0
        else:
            self._above += 1
        return self._above >= self._patience


def estimate(score: Score, objective: Objective | Mixture) -> Estimate:
    """A score as the manifest has it."""
    perplexity = _exp(score.loss) if objective.has_perplexity else None
    return Estimate(
        loss=score.loss,
        stderr=score.stderr,
        windows=score.windows,
        tokens=score.tokens,
        perplexity=perplexity,
    )


def _exp(loss: float) -> float:
    try:
        return math.exp(loss)
    except OverflowError:
        return math.inf


def block_scores(evaluator: Evaluator, blocks: Sequence[int]) -> list[BlockScore]:
    """The loss of removing each of these blocks alone, against the dense model.

    Where a race saw some of the windows only, the figures are of those.
    """
    dense = evaluator.dense
    scores = evaluator.known([(block,) for block in blocks])
    rows = []
    for block, score in zip(blocks, scores, strict=True):
        grown, stderr = increase(score, dense)
        rows.append(
            BlockScore(
                block=block,
                loss=score.loss if score.exact else dense.loss + grown,
                stderr=score.stderr,
                increase=grown,
                increase_stderr=stderr,
                windows=None if score.exact else score.windows,
            )
        )
    return rows


def path_points(
    path: Sequence[RemovedSet], evaluator: Evaluator, held_out_scorer: HeldOutScorer
) -> list[PathPoint]:
    """Calibration and held-out loss at each size of a path, the dense model first."""
    sets = [(), *path]
    scores = evaluator.score(sets)
    nothing: list[tuple[float | None, float | None]] = [(None, None)] * len(sets)
    return [
        PathPoint(
            k=len(removed),
            removed=list(removed),
            loss=score.loss,
            held_out=loss,
            held_out_stderr=stderr,
        )
        for removed, score, (loss, stderr) in zip(
            sets, scores, held_out_scorer.mixed(sets) or nothing, strict=True
        )
    ]
