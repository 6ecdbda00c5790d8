"""The noise of the draw: what changes when only the seed of the calibration's draw does.

A difference between blocks, sets or methods that is smaller than this is a matter of which windows
were drawn. Every repetition raises the seed of each source by one and is scored like the first.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from depthprune.calibration import (
    Calibration,
    CalibrationSpec,
    HasTokenizer,
    context_of,
    is_generated,
)
from depthprune.calibration.model_limits import rows_of
from depthprune.errors import CalibrationError, UsageError
from depthprune.evaluator import Evaluator, RemovedSet
from depthprune.manifest import BlockScore, DrawRecord
from depthprune.pruning.held_out import block_scores
from depthprune.searches import Result

MOST_DRAWS = 1_000
"""Of one run. The spread of a thousand draws is known to 2%; a larger number is a slip."""


@dataclass(frozen=True)
class BlockDraws:
    """What removing one block alone costs, over several draws.

    Attributes:
        block: Its number.
        increases: Loss minus the dense model's on each draw.
        lowest: In how many draws it is among the k lowest.
    """

    block: int
    increases: tuple[float, ...]
    lowest: int

    @property
    def mean(self) -> float:
        """Over the draws."""
        return statistics.fmean(self.increases)

    @property
    def spread(self) -> float:
        """Standard deviation between draws; NaN where an increase is infinite."""
        if not all(map(math.isfinite, self.increases)):
            return math.nan
        return statistics.stdev(self.increases)


def check_draws(specs: Sequence[CalibrationSpec], draws: int) -> None:
    """Refuse too many draws, and further ones of a calibration that leaves nothing to chance.

    Raises:
        UsageError: If there are too many, or every draw would be the first again.
    """
    if not 1 <= draws <= MOST_DRAWS:
        raise UsageError(f"--draws: expected from 1 to {MOST_DRAWS:,}, got {draws:,}")
    if draws > 1 and all(spec.consecutive and spec.documents is None for spec in specs):
        raise UsageError(
            f"--draws: expected a calibration drawn at random, and every draw of "
            f"{specs[0].short()},{'windows=all' if specs[0].windows == 'all' else 'order=first'} "
            "is the same; drop --draws, or pass order=random and a number of windows"
        )


def require_draws(calibration: Calibration, draws: int, model: HasTokenizer) -> None:
    """Refuse further draws that cannot be had, before anything is spent on the first.

    Args:
        calibration: The first draw.
        draws: How many in all.
        model: Whose limits they must keep.

    Raises:
        CalibrationError: Naming the first that is refused: its documents are too short, an item is
            too long, or it overlaps with evaluation files.
    """
    # What a model is yet to write is taken as it comes.
    read = [p for p in calibration.parts if not is_generated(p.spec.source)]
    for repetition in range(1, draws):
        try:
            further = Calibration(tuple(part.redraw(repetition) for part in read))
            further.check_context(context_of(model))
            further.check_ids(rows_of(model))
        except CalibrationError as error:
            raise CalibrationError(f"--draws, draw {repetition + 1} of {draws}: {error}") from error


def blocks_over_draws(draws: Sequence[Sequence[BlockScore]], k: int) -> list[BlockDraws]:
    """How stable each block's score is.

    Args:
        draws: For each of at least two draws the scores of the same blocks, in the same order.
        k: How many of the lowest count as chosen; ties go to the lower number.
    """
    chosen = [
        {row.block for row in sorted(rows, key=lambda row: (row.loss, row.block))[:k]}
        for rows in draws
    ]
    return [
        BlockDraws(
            block=rows[0].block,
            increases=tuple(row.increase for row in rows),
            lowest=sum(rows[0].block in lowest for lowest in chosen),
        )
        for rows in zip(*draws, strict=True)
    ]


def scores_over_draws(
    calibration: Calibration, draws: int, evaluator_on: Callable[[Calibration], Evaluator]
) -> list[list[BlockScore]]:
    """The loss of removing each block alone, on each draw, the given one first."""
    rows = []
    for repetition in range(draws):
        evaluator = evaluator_on(calibration.redraw(repetition))
        rows.append(block_scores(evaluator, range(evaluator.blocks)))
    return rows


def search_over_draws(
    chosen: RemovedSet,
    calibration: Calibration,
    draws: int,
    evaluator_on: Callable[[Calibration], Evaluator],
    search_on: Callable[[Evaluator], Result],
) -> list[DrawRecord]:
    """What the same search chooses on further draws, beside what was chosen on the first.

    Args:
        chosen: On the first draw.
        calibration: The first draw.
        draws: How many in all.
        evaluator_on: Makes an evaluator of a draw.
        search_on: Runs the search on a draw, given its evaluator.
    """
    records = []
    for repetition in range(1, draws):
        evaluator = evaluator_on(calibration.redraw(repetition))
        result = search_on(evaluator)
        # What the search saw may be recovered, and the first draw's losses are not.
        loss, loss_of_first = (s.loss for s in evaluator.score([result.removed, chosen]))
        own, first = set(result.removed), set(chosen)
        records.append(
            DrawRecord(
                repetition=repetition,
                removed=list(result.removed),
                loss=loss,
                loss_of_first=loss_of_first,
                jaccard=len(own & first) / len(own | first),
            )
        )
    return records
