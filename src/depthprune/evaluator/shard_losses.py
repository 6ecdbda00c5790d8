"""What a worker does with a shard: the losses of some sets on one batch, as an evaluator has them.

It holds no memo and no table: what is known is told to the one who asks, and stays there.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property

import numpy as np

from depthprune.evaluator.batches import reads_packed_items
from depthprune.evaluator.calls import Calls
from depthprune.evaluator.forward import BatchTooLargeError, Forward
from depthprune.evaluator.losses import Losses
from depthprune.evaluator.memory import state_budget
from depthprune.evaluator.prefix_walk import RemovedSet
from depthprune.evaluator.score import LossArray
from depthprune.evaluator.shards import Scored, Scoring, Shard
from depthprune.models.attention import fast_attention
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
        self._model = model
        self._scoring = scoring
        self._judged = np.array(scoring.objective.judged(scoring.windows))
        self._losses = Losses(model, scoring.objective, scoring.windows, self._judged)
        budget = state_budget(model, scoring.windows, scoring.memory, scoring.batch_tokens)
        self._forward = Forward(model, self._losses, budget.bytes)
        self._shrunk = 0

    @cached_property
    def _calls(self) -> Calls:
        windows = self._scoring.windows
        with self._attention():
            return Calls(
                self._model,
                windows,
                self._scoring.batch_tokens,
                packs=reads_packed_items(self._model, windows),
                attention="products" if self._scoring.products else "",
            )

    def score(self, shrunk: Sequence[tuple[int, ...]], shard: Shard) -> Scored:
        """Score one shard.

        Args:
            shrunk: Windows whose shared calls were halved so far, in order.
            shard: Sets, and windows in calls as full as they are to be run.

        Returns:
            The losses, or, where a call does not fit in memory, the windows that are to share less.
        """
        for each in shrunk[self._shrunk :]:
            self._calls.shrink(each)
        self._shrunk = len(shrunk)
        blocks, heads = self._forward.block_tokens, self._losses.head_tokens
        found: dict[tuple[int, ...], dict[RemovedSet, LossArray]] = {c: {} for c in shard.calls}
        try:
            with SILENT.step("", None, "") as step, self._attention():
                batches = [batch for call in shard.calls for batch in self._calls.batches(call)]
                for batch, rows in self._forward.run(batches, shard.sets, step):
                    found[batch.places] |= rows
        except BatchTooLargeError as error:
            return Scored(too_large=error.places)
        return Scored(
            tuple(found.values()),
            tuple(tuple(self._shape(place) for place in call) for call in shard.calls),
            self._forward.block_tokens - blocks,
            self._losses.head_tokens - heads,
        )

    def _shape(self, place: int) -> str:
        return self._calls.key(place) + self._losses.rounding

    def _attention(self) -> AbstractContextManager[None]:
        return fast_attention() if self._scoring.products else nullcontext()
