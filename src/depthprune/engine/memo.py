"""One memo for all workers: a single process writes the file, on the machine that started the run.

Workers ask it what is known and send back what they computed, so that nothing is computed twice,
whoever dies. A memo that fails must not cost the run: a worker that cannot reach it goes on
without.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from depthprune.engine.cluster import Cluster
from depthprune.errors import first_line
from depthprune.evaluator import Memo, RemovedSet
from depthprune.evaluator.memo.store import Context, KnownLosses


class _MemoActor:
    """Holds the file open."""

    def __init__(self, path: Path | None) -> None:
        # Without a file of its own the memo lives as long as the run.
        self._memo = Memo.open(path) if path is not None else Memo.temporary()

    def look_up(
        self, context: Context, removed: Sequence[RemovedSet], windows: Sequence[bytes]
    ) -> dict[RemovedSet, KnownLosses]:
        return self._memo.look_up(context, removed, windows)

    def store_all(
        self,
        context: Context,
        windows: Sequence[bytes],
        losses: Mapping[RemovedSet, NDArray[np.float64]],
    ) -> None:
        self._memo.store_all(context, windows, losses)

    def notes(self) -> list[str]:
        return self._memo.notes


class RemoteMemo(Memo):
    """A memo in another process, which a worker reads and fills.

    Args:
        actor: That process.
    """

    def __init__(self, actor: Any) -> None:
        self._actor = actor
        self._sent: list[Any] = []
        self.path = None
        self.notes = []

    def look_up(
        self, context: Context, removed_sets: Sequence[RemovedSet], windows: Sequence[bytes]
    ) -> dict[RemovedSet, KnownLosses]:
        """See `Memo.look_up`."""
        import ray

        if self._actor is not None:
            try:
                asked = self._actor.look_up.remote(context, list(removed_sets), list(windows))
                found: dict[RemovedSet, KnownLosses] = ray.get(asked)
            except ray.exceptions.RayError:
                self._actor = None
            else:
                return found
        shape = len(windows)
        return {
            s: KnownLosses(np.full(shape, np.nan), np.zeros(shape, np.bool_)) for s in removed_sets
        }

    def store_all(
        self,
        context: Context,
        windows: Sequence[bytes],
        losses: Mapping[RemovedSet, NDArray[np.float64]],
    ) -> None:
        """See `Memo.store_all`; it is sent, and `flush` waits until it has arrived."""
        if self._actor is not None:
            self._sent.append(self._actor.store_all.remote(context, list(windows), dict(losses)))

    def flush(self) -> None:
        """Wait until all that was sent is stored."""
        import ray

        sent, self._sent = self._sent, []
        try:
            ray.get(sent)
        except ray.exceptions.RayError:
            self._actor = None

    def close(self) -> None:
        """Nothing: the file is another process's."""


@contextmanager
def memo_on(cluster: Cluster, memo: Memo | None) -> Iterator[Any]:
    """A process on this machine that writes the memo for all workers; None without a memo.

    Args:
        cluster: Where it runs.
        memo: Whose file it is; what it could not do is in its `notes` at the end.
    """
    if memo is None:
        yield None
        return
    ray = cluster.ray
    here = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
        ray.get_runtime_context().get_node_id(), soft=False
    )
    actor = ray.remote(_MemoActor).options(num_cpus=0, scheduling_strategy=here).remote(memo.path)
    try:
        yield actor
        try:
            notes = ray.get(actor.notes.remote())
        except ray.exceptions.RayError as error:
            notes = [f"memo: its process died ({first_line(error)}); losses were not all kept"]
        memo.notes += [line for line in notes if line not in memo.notes]
    finally:
        ray.kill(actor)
