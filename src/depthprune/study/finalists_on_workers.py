"""A study's finalists on the workers of a cluster.

A set is cut and reloaded by the worker that judges it, so what is asked of a set stays together;
where there are more workers than sets, it is divided, and several cut the same set.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import gettempdir

from depthprune.calibration import Calibration
from depthprune.engine.cluster import Cluster
from depthprune.engine.facts import Alike, Facts
from depthprune.engine.pool import Lost, Pool
from depthprune.errors import DepthpruneError
from depthprune.models.loading import Model
from depthprune.pruning.output import dense_checkpoint
from depthprune.staging import remove
from depthprune.study.finalist_judge import FinalJob, FinalJudge, Problems, failed
from depthprune.study.finalists import FinalRow
from depthprune.study.judging import died
from depthprune.study.on_workers import as_tokens
from depthprune.study.plan import Plan


@dataclass(frozen=True)
class FinalFactory:
    """Makes a worker that judges finalists.

    Attributes:
        load: Loads the model.
        plan: The study's.
        problems: What is answered in words.
        folder: The study's; cuts are made there where a worker's machine has it.
    """

    load: Callable[[], Model]
    plan: Plan
    problems: Problems
    folder: Path

    def __call__(self) -> FinalWorker:
        """The worker."""
        return FinalWorker(self)


class FinalWorker:
    """Holds a model, and judges sets of it.

    Args:
        made: What it is made of.
    """

    def __init__(self, made: FinalFactory) -> None:
        self._made = made
        self._model = made.load()
        self._folder = made.folder if made.folder.is_dir() else Path(gettempdir())

    def facts(self) -> Facts:
        """What this worker is."""
        return Facts.of(self._model)

    def judge(self, jobs: Sequence[FinalJob]) -> list[FinalRow]:
        """Judge one set."""
        made = self._made
        # A worker is ended without a word, so a copy of the weights is not kept between two sets.
        with dense_checkpoint(self._model, self._folder / "finalists") as dense:
            judge = FinalJudge(made.plan, self._model, dense, made.problems, self._folder)
            return list(judge.rows(jobs))


def rows_of(
    cluster: Cluster,
    factory: FinalFactory,
    model: Model,
    sets: Sequence[Sequence[FinalJob]],
) -> Iterator[FinalRow]:
    """Have workers judge finalists.

    Args:
        cluster: Where.
        factory: Makes a worker.
        model: The one that this process has, which theirs must be.
        sets: What is asked of each set.
    """
    travelling = _travelling(factory.problems)
    factory = replace(factory, problems=travelling, folder=factory.folder.absolute())
    parts = list(_shared(sets, cluster.workers))
    try:
        with Pool(cluster, factory, Alike(Facts.of(model))) as pool:
            for piece, answer in pool.run([("judge", part) for part in parts]):
                if isinstance(answer, Lost):
                    error = died(answer)
                    yield from (failed(job, model.blocks, error) for job in parts[piece])
                else:
                    yield from answer
    finally:
        # Workers that were ended leave what they had cut.
        for cut in factory.folder.glob(".finalist*-*"):
            remove(cut)


def _shared(sets: Sequence[Sequence[FinalJob]], workers: int) -> Iterator[tuple[FinalJob, ...]]:
    """What is asked of each set, in as many parts as keep all workers busy."""
    parts = -(-workers // max(1, len(sets)))
    for jobs in sets:
        yield from (tuple(jobs[part::parts]) for part in range(min(parts, len(jobs))))


def _travelling(problems: Problems) -> Mapping[str, Calibration | DepthpruneError]:
    return {
        name: drawn if isinstance(drawn, DepthpruneError) else as_tokens(drawn)
        for name, drawn in problems.items()
    }
