"""The workers that `--engine` asks for, with the model of a job on each."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from depthprune.pruning.session import Loading

if TYPE_CHECKING:
    from depthprune.engine import Engine
    from depthprune.evaluator.shards import LossWorkers
    from depthprune.models.loading import Model


@contextmanager
def workers_for(
    engine: Engine | None, loading: Loading, model: Model
) -> Iterator[LossWorkers | None]:
    """Workers that compute losses of a model; None where this process does.

    Args:
        engine: What was asked for.
        loading: How the model was found and loaded.
        model: The model.

    Raises:
        UsageError: If the cluster cannot be joined, or the workers are not alike.
    """
    if engine is None:
        yield None
        return

    from depthprune.engine import join
    from depthprune.engine.losses import RayLosses
    from depthprune.engine.shipping import on_worker

    with join(engine) as cluster:
        load = on_worker(
            cluster,
            model,
            str(loading.name),
            revision=loading.revision,
            trust_remote_code=loading.trust_remote_code,
            allow_pickle=loading.allow_pickle,
            stream=loading.stream,
            device_map=loading.device_map,
        )
        with RayLosses(cluster, load, model) as workers:
            yield workers
