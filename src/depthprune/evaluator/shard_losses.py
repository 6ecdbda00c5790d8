"""What a worker does with a shard: the losses of some sets on one batch, as an evaluator has them.

It holds no memo and no table: what is known is told to the one who asks, and stays there.
"""

from __future__ import annotations

from collections.abc import Sequence

from depthprune.evaluator.forward import BatchTooLargeError
from depthprune.evaluator.prefix_walk import RemovedSet
from depthprune.evaluator.runner import Runner
from depthprune.evaluator.score import LossArray
from depthprune.evaluator.shards import Scored, Scoring, Shard
from depthprune.models.loading import Model
from depthprune.progress import SILENT


class ShardLosses:
    """Scores shards of one calibration under one objective.

    Args:
        model: The model.
        scoring: What is scored.

    Raises:
        UsageError: If `memory` is below what two states of the longest window take.
    """

    def __init__(self, model: Model, scoring: Scoring) -> None:
        self._runner = Runner(
            model,
            scoring.windows,
            scoring.objective,
            scoring.memory,
            scoring.batch_tokens,
            products=scoring.products,
        )
        self._shrunk = 0

    def score(self, shrunk: Sequence[tuple[int, ...]], shard: Shard) -> Scored:
        """Score one shard.

        Args:
            shrunk: Windows whose shared calls were halved so far, in order.
            shard: Sets, and windows in calls as full as they are to be run.

        Returns:
            The losses, or, where a call does not fit in memory, the windows that are to share less.
        """
        runner, calls = self._runner, self._runner.calls
        for each in shrunk[self._shrunk :]:
            calls.shrink(each)
        self._shrunk = len(shrunk)
        blocks, heads = runner.forward.block_tokens, runner.losses.head_tokens
        found: dict[tuple[int, ...], dict[RemovedSet, LossArray]] = {c: {} for c in shard.calls}
        try:
            with SILENT.step("", None, "") as step, runner.attention():
                batches = [batch for call in shard.calls for batch in calls.batches(call)]
                for batch, rows in runner.forward.run(batches, shard.sets, step):
                    found[batch.places] |= rows
        except BatchTooLargeError as error:
            return Scored(too_large=error.places)
        return Scored(
            tuple(found.values()),
            tuple(tuple(self._shape(place) for place in call) for call in shard.calls),
            runner.forward.block_tokens - blocks,
            runner.losses.head_tokens - heads,
        )

    def _shape(self, place: int) -> str:
        return self._runner.call_key(place)
