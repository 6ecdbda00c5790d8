"""An evaluator's losses, computed by workers: what it asks of them, and what it believes.

The evaluator stays where it is, with its table, its memo and its races: all that is told is which
sets on which windows, and all that comes back are losses. A worker that ran a window in another
shape than the evaluator has in mind would round otherwise, and is refused.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence

from depthprune.errors import EvaluationError
from depthprune.evaluator.batches import Batch
from depthprune.evaluator.forward import BatchTooLargeError
from depthprune.evaluator.memo.store import window_key
from depthprune.evaluator.prefix_walk import RemovedSet
from depthprune.evaluator.runner import Runner
from depthprune.evaluator.score import LossArray
from depthprune.evaluator.shards import LossWorkers, Scoring, Work, cut
from depthprune.progress import ProgressStep


class RemoteScoring:
    """Has workers compute what an evaluator asks for.

    Args:
        workers: They.
        runner: What would compute it here, and says how.
        memory: Bytes that hidden states may take in each worker; None for a share of what is free.

    Attributes:
        block_tokens: Spent by all workers.
        head_tokens: Spent by all workers.
    """

    def __init__(self, workers: LossWorkers, runner: Runner, memory: int | None) -> None:
        self.block_tokens = 0
        self.head_tokens = 0
        self._workers = workers
        self._blocks = runner.model.blocks
        self._streamed = runner.model.streamed
        self._compares = any(c.objective.compares for c in runner.objective.components)
        self._shrunk: list[tuple[int, ...]] = []
        facts = (runner.objective, memory, runner.products, runner.batch_tokens)
        key = hashlib.sha256(repr(facts).encode())
        for window in runner.windows:
            key.update(window_key(window.tokens, window.scored, window.item))
        self._scoring = Scoring(runner.windows, *facts, key.hexdigest())

    def shrink(self, places: tuple[int, ...]) -> None:
        """Have half as many windows share the calls of some."""
        self._shrunk.append(places)

    def run(
        self,
        work: Sequence[tuple[Sequence[Batch], Sequence[RemovedSet]]],
        shape: Callable[[int], str],
        step: ProgressStep,
    ) -> Iterator[tuple[tuple[int, ...], Mapping[RemovedSet, LossArray]]]:
        """Run sets on batches.

        Args:
            work: Batches with the sets that are walked on them.
            shape: Names the call in which a window is to be run.
            step: Advanced by block-tokens.

        Yields:
            Windows with the losses of some of the sets; all have come when it ends.

        Raises:
            BatchTooLargeError: If a call did not fit in the memory of a worker.
            EvaluationError: If a worker ran a window in another shape.
        """
        pieces = [each for batches, sets in work for each in self._pieces(batches, sets)]
        shards = cut(pieces, self._blocks, self._workers.count, compares=self._compares)
        for shard, scored in self._workers.score(self._scoring, self._shrunk, shards):
            self.block_tokens += scored.block_tokens
            self.head_tokens += scored.head_tokens
            step.advance(scored.block_tokens)
            if scored.too_large:
                raise BatchTooLargeError(scored.too_large)
            for places, shapes, losses in zip(
                shard.calls, scored.shapes, scored.losses, strict=True
            ):
                expected = tuple(shape(place) for place in places)
                if shapes != expected:
                    raise EvaluationError(
                        f"a worker runs windows as {shapes[0]}, not as {expected[0]}: its memory "
                        "or its device is another; give --memory, or take workers of one kind"
                    )
                yield places, losses

    def _pieces(self, batches: Sequence[Batch], sets: Sequence[RemovedSet]) -> Iterator[Work]:
        # Where blocks are read from disk, one reading serves all batches that a worker has.
        count = min(self._workers.count, len(batches)) if self._streamed else len(batches)
        for part in range(count):
            mine = batches[part::count]
            calls = tuple(batch.places for batch in mine)
            yield Work(calls, sum(batch.size for batch in mine), sets)
