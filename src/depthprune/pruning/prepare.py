"""What `prune` does before its search: everything that can be refused without weights, then them.

The order puts what is cheap and can fail before what is dear.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from depthprune.calibration import (
    Calibration,
    CalibrationSpec,
    check_files,
    parse_calibration,
    require_positions,
)
from depthprune.checkpoints.architectures.table import require_prunable
from depthprune.checkpoints.config.cut import rows_of
from depthprune.checkpoints.gguf.reader import read_gguf
from depthprune.checkpoints.refusals import (
    Refusal,
    checkpoint_refusal,
    gguf_refusal,
)
from depthprune.errors import ModelError, UsageError
from depthprune.evaluator import RemovedSet
from depthprune.models.loading import Model
from depthprune.models.source import ModelSource
from depthprune.objectives import Mixture, parse_objective
from depthprune.outputs import check_target
from depthprune.progress import note
from depthprune.pruning.answers import Questions, WantedAnswers, draw_questions, read_answers
from depthprune.pruning.drafting.as_draft import LARGEST_SHARE, check_draft
from depthprune.pruning.draws import check_draws, require_draws
from depthprune.pruning.output import check_pruned_output
from depthprune.pruning.recovering.recovery_step import (
    WantedRecovery,
    check_recovering,
    check_source,
    further_texts,
    read_recovery,
)
from depthprune.pruning.recovering.training_runs import check_enough
from depthprune.pruning.session import (
    DEFAULT_CALIBRATION,
    mixture,
    read_tokenizer,
)
from depthprune.pruning.space import require_space
from depthprune.pruning.target.task import ParsedTarget, TargetTask, parse_target, read_target
from depthprune.recovery import Method
from depthprune.removed_sets import name_blocks, parse_blocks
from depthprune.searches import (
    Budget,
    Result,
    Search,
    check_search,
    make_search,
    make_space,
    most_removable,
    nothing_refused,
    parse_budget,
    search,
)
from depthprune.searches.driver import Scorer

if TYPE_CHECKING:
    from depthprune.pruning.options import PruneJob


@dataclass(frozen=True)
class PruneTask:
    """What is to be searched, checked and loaded."""

    model: Model
    calibration: Calibration
    objective: Mixture
    search: Search
    budget: Budget | None
    k: int
    protect: RemovedSet
    refusal: Refusal
    further: list[Calibration]
    method: Method | None = None
    wanted: TargetTask | None = None
    questions: Questions | None = None

    def search_on(
        self,
        scorer: Scorer,
        seed: int,
        *,
        k: int | None = None,
        enough: Callable[[RemovedSet], bool] | None = None,
    ) -> Result:
        """Run its search on what scores sets, for sets of its size or of another."""
        return search(
            self.search,
            scorer,
            k=self.k if k is None else k,
            seed=seed,
            protect=self.protect,
            budget=self.budget,
            enough=enough,
            refusal=self.refusal,
        )


@dataclass(frozen=True)
class ParsedJob:
    """What a job's words mean, as far as they can be read without the model."""

    objective: Mixture
    search: Search
    budget: Budget | None
    specs: tuple[CalibrationSpec, ...]
    recovery: WantedRecovery
    answers: WantedAnswers
    wanted: ParsedTarget | None = None


def check(job: PruneJob) -> ParsedJob:
    """Read what was asked for, and refuse what no model could do.

    Raises:
        DepthpruneError: If any of it is wrong, or OUT may not be written.
    """
    objective = parse_objective(job.objective)
    algorithm = _find_search(job)
    if job.draft is not None:
        check_draft(objective, sized=job.k is not None, grows=algorithm.grows, search=job.search)
    recovery = read_recovery(job.recover, job.also, job.out, stream=job.loading.stream)
    answers = read_answers(job.answers, job.answer_tokens, stream=job.loading.stream)
    if job.search_with_recovery:
        check_recovering(recovery.method, job.search, job.max_increase is not None)
    budget = None if job.budget is None else parse_budget(job.budget)
    specs = parse_calibration(calibration_specs(job))
    check_draws(specs, job.draws)
    wanted = None
    if job.wanted is not None:
        if job.search_with_recovery:
            raise UsageError(
                "--search-with-recovery: means nothing with --for, which tries calibrations on "
                "what is removed alone; drop one of them"
            )
        wanted = parse_target(job.wanted, job.specs, job.objective)
    if job.out is not None:
        check_target(job.out, overwrite=job.overwrite)
    return ParsedJob(objective, algorithm, budget, tuple(specs), recovery, answers, wanted)


def calibration_specs(job: PruneJob) -> tuple[str, ...]:
    """What is calibrated on; with a target every `-c` is tried, and the default is another."""
    return (DEFAULT_CALIBRATION,) if job.wanted is not None else job.specs or (DEFAULT_CALIBRATION,)


def prepare(job: PruneJob, asked_for: ParsedJob, *, rehearsed: bool = False) -> PruneTask:
    """Check everything that the model's files tell, draw the calibration and load the model.

    Args:
        job: What was asked for.
        asked_for: What `check` made of it.
        rehearsed: Whether it is only to be counted, for which the model need not write text.

    Raises:
        DepthpruneError: If anything that was asked for cannot be.
    """
    objective, recovery = asked_for.objective, asked_for.recovery
    check_files([*asked_for.specs, *recovery.also, *asked_for.answers.specs])
    if asked_for.wanted is not None:
        asked_for.wanted.check_files()
    source = job.loading.find()
    asked, refusal = _check_without_weights(job, asked_for, source)
    reader = replace(read_tokenizer(source, job.progress, job.loading), rehearsed=rehearsed)
    calibration = mixture(asked_for.specs, reader, job.progress)
    wanted = None
    if asked_for.wanted is not None:
        generates = not job.loading.stream
        wanted = read_target(asked_for.wanted, reader, job.seed, generates=generates)
        objective = parse_objective("nll")  # of the default calibration; each has its own
    objective.judged(calibration.windows)
    require_draws(calibration, job.draws, reader)
    calibration.held_out()
    further = further_texts(recovery.also, reader)
    questions = draw_questions(asked_for.answers, reader)
    model = job.loading.load(source, reader.tokenizer, job.progress)
    require_positions(model, calibration)
    if not job.writes_file:
        refusal = model.refusal
    k, protect = _size(job, asked, model.blocks, refusal)
    make_space(model.blocks, k, asked, refusal=refusal)
    _note_needed(source, asked, protect)
    if recovery.method is not None:
        check_enough(model, calibration, recovery.method, further, model.blocks - (job.k or 1))
    return PruneTask(
        model=model,
        calibration=calibration,
        objective=objective,
        search=asked_for.search,
        budget=asked_for.budget,
        k=k,
        protect=protect,
        refusal=refusal,
        further=further,
        method=recovery.method,
        wanted=wanted,
        questions=questions,
    )


def _check_without_weights(
    job: PruneJob, asked_for: ParsedJob, source: ModelSource
) -> tuple[RemovedSet, Refusal]:
    """Refuse what the files alone show to be impossible.

    Returns:
        The blocks that were asked to stay, and what says why a set may not go.
    """
    _check_source(job, source)
    if asked_for.recovery.method is not None:
        check_source(source)
    asked = parse_blocks(job.protect, "--protect") if job.protect else ()
    refusal = _before_loading(job, source)
    k, _ = _size(job, asked, source.blocks, refusal)
    # A size rule may end a search early, and a target spends the budget on many.
    whole = job.max_increase is None and asked_for.wanted is None
    space = make_space(source.blocks, k, asked, refusal=refusal)
    check_search(asked_for.search, space, asked_for.budget if whole else None)
    if job.loading.stream:
        left = "the sample is" if job.bench else "speed and the sample are"
        note(f"a streamed model reads its weights for every token; {left} left out")
    return asked, refusal


def _find_search(job: PruneJob) -> Search:
    algorithm = make_search(job.search)
    if job.max_increase is not None and not algorithm.grows:
        raise UsageError(
            f"--search {job.search}: its sets do not grow one by one, which --max-increase "
            "needs; take greedy or one-shot, or give -k"
        )
    return algorithm


def _before_loading(job: PruneJob, source: ModelSource) -> Refusal:
    """What of the cut would be refused, as far as the files say it themselves."""
    if source.gguf is not None and job.writes_file:
        return gguf_refusal(read_gguf(source.gguf))
    if source.checkpoint is not None:
        return checkpoint_refusal(source.checkpoint)
    return nothing_refused


def _size(
    job: PruneJob, asked: RemovedSet, blocks: int, refusal: Refusal
) -> tuple[int, RemovedSet]:
    """How many blocks go at most, and which stay: those asked for, and those that must alone."""
    alone = {block: why for block in range(blocks) if (why := refusal((block,))) is not None}
    if len(alone) == blocks:
        raise ModelError(f"no block can be removed from this model: {alone[0]}")
    protect = tuple(sorted({*asked, *alone}))
    if job.k is not None:
        return job.k, protect
    most = most_removable(blocks, protect, refusal)
    if job.draft is not None:
        most = min(most, int(blocks * LARGEST_SHARE))
    if most < 1:
        raise UsageError("--protect: leaves no block that may go; protect fewer")
    return most, protect


def _note_needed(source: ModelSource, asked: RemovedSet, protect: RemovedSet) -> None:
    needed = sorted(set(protect).difference(asked))
    if needed:
        stays = "stay" if len(needed) > 1 else "stays"
        note(f"{name_blocks(needed)} {stays}: a {source.model_type} model needs it")


def _check_source(job: PruneJob, source: ModelSource) -> None:
    """Refuse before the search what surgery would refuse after it."""
    if job.out is not None and source.gguf is None and job.out.is_same(source.folder):
        raise UsageError(f"-o {job.out}: is the model's own folder; choose another")
    require_prunable(source.model_type)
    if source.checkpoint is not None:
        rows_of(source.checkpoint.config)
        _ = source.checkpoint.block_prefix
    if job.out is not None:
        left = None if job.k is None else source.blocks - job.k
        check_pruned_output(source, job.out, left, link=job.link)
        require_space(source, job.out, left, link=job.link)
