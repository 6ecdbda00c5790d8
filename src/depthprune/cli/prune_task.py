"""What `prune` does before its search: everything that can be refused without weights, then them.

The order puts what is cheap and can fail before what is dear.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from depthprune.calibration import Calibration, parse_calibration
from depthprune.cli.console import note
from depthprune.cli.recovering import check_output, check_recovering, check_source, further_texts
from depthprune.cli.session import DEFAULT_CALIBRATION, mixture, read_tokenizer
from depthprune.errors import ModelError, UsageError
from depthprune.evaluator import RemovedSet
from depthprune.models.architectures import find, require_prunable
from depthprune.models.config_surgery import cut_config, rows_of
from depthprune.models.loading import Model
from depthprune.models.pruned_output import check_pruned_output
from depthprune.models.removal import parse_blocks
from depthprune.models.source import ModelSource
from depthprune.objectives import Mixture, parse_objective
from depthprune.outputs import check_target
from depthprune.recovery import require_tokens
from depthprune.search import (
    Budget,
    Search,
    check_search,
    make_search,
    make_space,
    parse_budget,
)

if TYPE_CHECKING:
    from depthprune.cli.prune_job import PruneJob


@dataclass(frozen=True)
class Task:
    """What is to be searched, checked and loaded."""

    model: Model
    calibration: Calibration
    objective: Mixture
    search: Search
    budget: Budget | None
    k: int
    protect: RemovedSet
    further: list[Calibration]


def prepare(job: PruneJob) -> Task:
    """Check everything, draw the calibration and load the model.

    Raises:
        DepthpruneError: If anything that was asked for cannot be.
    """
    objective = parse_objective(job.objective)
    algorithm = _find_search(job)
    check_output(job.recover, job.also, job.out, stream=job.loading.stream)
    if job.search_with_recovery:
        check_recovering(job.recover, job.search, job.max_increase is not None)
    budget = None if job.budget is None else parse_budget(job.budget)
    parse_calibration(job.specs or (DEFAULT_CALIBRATION,))
    check_target(job.out, overwrite=job.overwrite)
    source = job.loading.find()
    _check_source(job, source)
    if job.recover is not None:
        check_source(source)
    protect = _protected(job, source)
    k = job.k
    if k is None:
        k = source.blocks - max(1, len(protect))
        if k < 1:
            raise UsageError("--protect: leaves no block that may go; protect fewer")
    limit = budget if job.max_increase is None else None
    check_search(algorithm, make_space(source.blocks, k, protect), limit)
    if job.loading.stream:
        left = "the sample is" if job.bench else "speed and the sample are"
        note(f"note: a streamed model reads its weights for every token; {left} left out")
    reader = read_tokenizer(source, job.progress, job.loading)
    calibration = mixture(job.specs, reader, job.progress)
    objective.judged(calibration.windows)
    calibration.held_out()
    further = further_texts(job.also, reader)
    model = job.loading.load(source, reader.tokenizer, job.progress)
    make_space(model.blocks, k, protect)
    if job.recover is not None:
        require_tokens(model, calibration)
    return Task(model, calibration, objective, algorithm, budget, k, protect, further)


def _find_search(job: PruneJob) -> Search:
    algorithm = make_search(job.search)
    if job.max_increase is not None and not algorithm.grows:
        raise UsageError(
            f"--search {job.search}: its sets do not grow one by one, which --max-increase "
            "needs; take greedy or one-shot, or give -k"
        )
    return algorithm


def _protected(job: PruneJob, source: ModelSource) -> RemovedSet:
    """The blocks that the user protects, and those without which its type makes no model."""
    asked = parse_blocks(job.protect, "--protect") if job.protect else ()
    row = find(source.model_type)
    needed = {block % source.blocks for block in row.keep} if row is not None else set()
    needed |= _uncuttable(source)
    if needed.difference(asked):
        which = ", ".join(map(str, sorted(needed)))
        note(f"note: block {which} stays: a {source.model_type} model needs it")
    return tuple(sorted({*asked, *needed}))


def _uncuttable(source: ModelSource) -> set[int]:
    """Blocks that surgery would refuse to remove even alone, such as a hybrid's only attention."""
    if source.checkpoint is None:
        return set()
    found = set()
    for block in range(source.blocks):
        try:
            cut_config(source.checkpoint.config, (block,))
        except ModelError:
            found.add(block)
    # A config that no cut fits is refused by name later, and not by protecting everything.
    return found if len(found) < source.blocks else set()


def _check_source(job: PruneJob, source: ModelSource) -> None:
    """Refuse before the search what surgery would refuse after it."""
    if source.gguf is None and job.out.exists() and job.out.samefile(source.folder):
        raise UsageError(f"-o {job.out}: is the model's own folder; choose another")
    require_prunable(source.model_type)
    if source.checkpoint is not None:
        rows_of(source.checkpoint.config)
        _ = source.checkpoint.block_prefix
    check_pruned_output(source, job.out, None if job.k is None else source.blocks - job.k)
