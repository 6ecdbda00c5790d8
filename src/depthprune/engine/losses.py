"""Losses by workers: each holds the model, and scores the shards it is given."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

from depthprune.engine.cluster import Cluster
from depthprune.engine.facts import Alike, Facts
from depthprune.engine.pool import Lost, Pool
from depthprune.errors import EvaluationError
from depthprune.evaluator.shard_losses import ShardLosses
from depthprune.evaluator.shards import Scored, Scoring, Shard
from depthprune.models.loading import Model


class LossWorker:
    """What a worker holds: the model, and the calibrations that it has met.

    Args:
        load: Loads the model.
    """

    def __init__(self, load: Callable[[], Model]) -> None:
        self._model = load()
        self._met: dict[str, ShardLosses] = {}

    def facts(self) -> Facts:
        """What this worker is."""
        return Facts.of(self._model)

    def score(self, scoring: Scoring, shrunk: Sequence[tuple[int, ...]], shard: Shard) -> Scored:
        """Score a shard."""
        losses = self._met.get(scoring.key)
        if losses is None:
            losses = self._met[scoring.key] = ShardLosses(self._model, scoring)
        return losses.score(shrunk, shard)


class RayLosses:
    """Losses by workers on a cluster; give it to an `Evaluator` as its `workers`.

    Args:
        cluster: Where they run.
        load: Loads the model in a worker; it travels, so it holds no model.
        model: The one that this process has, which theirs must be.

    Raises:
        UsageError: If a worker's model, libraries or arithmetic are not those of the others.
    """

    def __init__(self, cluster: Cluster, load: Callable[[], Model], model: Model) -> None:
        self._alike = Alike(Facts.of(model))
        self._pool: Pool[LossWorker] = Pool(cluster, partial(LossWorker, load), self._alike)

    @property
    def count(self) -> int:
        """How many workers there are."""
        return self._pool.count

    @property
    def rounds(self) -> str:
        """The arithmetic that all of them compute with."""
        assert self._alike.first is not None
        return self._alike.first.rounds

    @property
    def deaths(self) -> int:
        """How many workers died so far."""
        return self._pool.deaths

    def score(
        self, scoring: Scoring, shrunk: Sequence[tuple[int, ...]], shards: Sequence[Shard]
    ) -> Iterator[tuple[Shard, Scored]]:
        """Score shards, each answered once, in the order in which they end.

        Raises:
            EvaluationError: If a shard killed three workers.
        """
        shared = self._pool.share(scoring.key, scoring)
        known = tuple(shrunk)
        work = [("score", shared, known, shard) for shard in shards]
        for place, answer in self._pool.run(work):
            if isinstance(answer, Lost):
                raise EvaluationError(
                    f"a shard of {len(shards[place].sets)} sets killed three workers, the last by: "
                    f"{answer.reason}; give workers more memory, or --memory less"
                )
            yield shards[place], answer

    def close(self) -> None:
        """End the workers."""
        self._pool.close()

    def __enter__(self) -> RayLosses:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
