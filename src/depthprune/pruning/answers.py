"""Problems with known answers, answered by the whole, the pruned and the recovered model.

Perplexity and choices heal first, and long answers last: a model whose losses look well may no
longer get anywhere in its own words. So what it writes is compared, problem by problem, once the
checkpoint stands; that takes long, and only this is lost if it is stopped.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from depthprune.calibration import (
    Calibration,
    CalibrationSpec,
    calibrate,
    context_of,
    parse_calibration,
)
from depthprune.calibration.problems import ANSWER_STOPS, ANSWER_TOKENS, as_problems
from depthprune.errors import EvaluationError, UsageError
from depthprune.evaluator import RemovedSet
from depthprune.manifest import AnswerRecord, AnswerShare, HeldOut
from depthprune.models.loading import Model
from depthprune.progress import Progress
from depthprune.pruning.generation import AnswerScore, answer_all
from depthprune.pruning.session import TextReader

COLLAPSED = 0.5
"""A model that answers less than this share of what the whole one answers is warned of."""

SURE = 2.0
"""By how many standard errors of the paired difference, at least."""


@dataclass(frozen=True)
class WantedAnswers:
    """What `--answers` asks for.

    Attributes:
        specs: Of prompts with answers; none where nothing is to be answered.
        tokens: That an answer may have.
    """

    specs: tuple[CalibrationSpec, ...] = ()
    tokens: int = ANSWER_TOKENS


@dataclass(frozen=True)
class Questions:
    """Problems that were drawn, each source apart.

    Attributes:
        sources: Windows whose scored tokens are the answers.
        tokens: That an answer may have.
    """

    sources: tuple[Calibration, ...]
    tokens: int


def read_answers(specs: Sequence[str], tokens: int | None, *, stream: bool) -> WantedAnswers:
    """Read `--answers`, and refuse what no model could do.

    Args:
        specs: Of `--answers`.
        tokens: Of `--answer-tokens`.
        stream: Whether blocks are read from disk for every token.

    Raises:
        UsageError: If any of it is wrong.
    """
    if not specs:
        if tokens is not None:
            raise UsageError("--answer-tokens: means nothing without --answers; name problems")
        return WantedAnswers()
    if tokens is not None and tokens < 1:
        raise UsageError(f"--answer-tokens: expected a number from 1, got {tokens}")
    if stream:
        raise UsageError(
            "--answers: a streamed model reads all its weights for every token; drop --stream"
        )
    try:
        asked = tuple(as_problems(spec) for spec in parse_calibration(specs))
    except UsageError as error:
        raise UsageError(f"--answers: {error}") from error
    return WantedAnswers(asked, tokens or ANSWER_TOKENS)


def draw_questions(wanted: WantedAnswers, reader: TextReader) -> Questions | None:
    """Draw what is to be answered; None where nothing is.

    Raises:
        DepthpruneError: If a source cannot be read, or has no answers.
    """
    sources = tuple(calibrate(spec, reader, split="whole") for spec in wanted.specs)
    return Questions(sources, wanted.tokens) if sources else None


def judge_answers(
    questions: Questions,
    model: Model,
    module: nn.Module,
    removed: RemovedSet,
    *,
    recovered: bool,
    progress: Progress,
) -> list[AnswerRecord]:
    """Let all models answer.

    Args:
        questions: What is asked.
        model: The original.
        module: The reloaded checkpoint.
        removed: Original block numbers.
        recovered: Whether the checkpoint's weights were changed by a recovery.
        progress: Where the work shows itself.

    Raises:
        EvaluationError: If a prompt leaves no room for an answer, or a model cannot generate.
    """

    def answered(by: nn.Module, source: Calibration) -> AnswerScore:
        return answer_all(
            by,
            model.tokenizer,
            source.windows,
            max_new_tokens=questions.tokens,
            stop=ANSWER_STOPS,
            context=context_of(model),
            progress=progress,
        )

    records = []
    for source in questions.sources:
        whole = answered(model.module, source)
        with original_weights(module, model, removed) if recovered else nullcontext():
            pruned = answered(module, source)
        last = answered(module, source) if recovered else None
        kept = pruned if last is None else last
        change, stderr = _paired(kept, whole)
        records.append(
            AnswerRecord(
                calibration=source.parts[0].spec.line(),
                problems=whole.n,
                new_tokens=questions.tokens,
                dense=_share(whole),
                pruned=_share(pruned),
                recovered=None if last is None else _share(last),
                change=change,
                change_stderr=stderr,
                collapsed=has_collapsed(kept, whole),
            )
        )
    return records


def has_collapsed(after: AnswerScore, before: AnswerScore) -> bool:
    """Whether a model surely answers less than it may; never of one problem, which has no error.

    Args:
        after: Of the model that was written.
        before: Of the whole one, on the same problems.
    """
    change, stderr = _paired(after, before)
    sure = stderr is not None and -change > SURE * stderr
    return sure and after.value < COLLAPSED * before.value


def _share(score: AnswerScore) -> AnswerShare:
    return AnswerShare(right=score.value, stderr=score.stderr, unanswered=score.unanswered)


def _paired(after: AnswerScore, before: AnswerScore) -> tuple[float, float | None]:
    """The difference of two shares, and its standard error between problems."""
    apart = np.asarray(after.right, dtype=float) - np.asarray(before.right, dtype=float)
    n = len(apart)
    stderr = float(apart.std(ddof=1)) / math.sqrt(n) if n > 1 else None
    return float(apart.mean()), stderr


@contextmanager
def original_weights(module: nn.Module, model: Model, removed: RemovedSet) -> Iterator[None]:
    """Inside the context a reloaded checkpoint has the weights that its original has.

    Args:
        module: The checkpoint, without the removed blocks.
        model: The original.
        removed: Original block numbers.

    Raises:
        EvaluationError: If a parameter of the two differs in more than values.
    """
    path = model.anatomy.blocks.path
    kept = [block for block in range(model.blocks) if block not in removed]
    originals = dict(model.module.named_parameters(remove_duplicate=False))
    own: list[tuple[nn.Parameter, torch.Tensor]] = []
    try:
        for name, parameter in module.named_parameters():
            number, _, rest = name.removeprefix(f"{path}.").partition(".")
            inside = name.startswith(f"{path}.") and number.isdigit()
            source = originals.get(f"{path}.{kept[int(number)]}.{rest}" if inside else name)
            if source is None or source.shape != parameter.shape:
                raise EvaluationError(f"{name}: the original has no parameter of this shape")
            own.append((parameter, parameter.data))
            parameter.data = source.data.to(parameter.device, parameter.dtype)
        yield
    finally:
        for parameter, data in own:
            parameter.data = data


def warnings_of(records: Sequence[AnswerRecord], held_out: Sequence[HeldOut]) -> list[str]:
    """A line for each set of problems that the checkpoint no longer answers.

    Args:
        records: Of all problems.
        held_out: Of the same checkpoint, for what its losses say beside that.
    """
    return [
        f"generated answers collapse: {record.dense.right:.0%} of {record.problems} problems right "
        f"before and {record.kept.right:.0%} after, of "
        f"{record.calibration}{_beside(held_out)}; remove fewer blocks, or heal with --recover lora"
        for record in records
        if record.collapsed
    ]


def _beside(held_out: Sequence[HeldOut]) -> str:
    grown = [
        record.increase if record.recovered_increase is None else record.recovered_increase
        for record in held_out
        if record.objective in (None, "nll")
    ]
    if not grown:
        return ""
    return f", where the held-out loss grew by {max(grown):.2f} at most"
