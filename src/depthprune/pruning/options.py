"""Everything that `prune` is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from depthprune.engine import Engine
from depthprune.errors import UsageError
from depthprune.evaluator import Racing
from depthprune.outputs import is_file_output
from depthprune.progress import Progress
from depthprune.pruning.session import Loading
from depthprune.pruning.target.options import TargetJob
from depthprune.pruning.write import (
    BENCH_SECONDS,
)


@dataclass(frozen=True)
class PruneJob:
    """Everything that `prune` was asked for."""

    loading: Loading
    out: Path | None
    k: int | None
    max_increase: float | None
    specs: tuple[str, ...]
    objective: str
    search: str
    budget: str | None
    seed: int
    protect: str
    prompt: str
    bench: bool
    memory: int | None
    memo: str | None
    racing: Racing | None
    draws: int
    overwrite: bool
    command: str
    progress: Progress
    recover: str | None = None
    also: tuple[str, ...] = ()
    search_with_recovery: bool = False
    bench_seconds: float = BENCH_SECONDS
    wanted: TargetJob | None = None
    engine: Engine | None = None

    @property
    def target(self) -> Path:
        """What `-o` names.

        Raises:
            UsageError: If it names nothing, as in a dry run.
        """
        if self.out is None:
            raise UsageError("-o: names nothing to write")
        return self.out

    @property
    def writes_file(self) -> bool:
        """Whether the output is one file."""
        return self.out is not None and is_file_output(self.out)
