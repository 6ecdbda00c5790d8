"""Tasks of lm-evaluation-harness, run on a model that is in memory.

The harness brings hundreds of tasks and the field's way of counting them. Its own noise, on stdout
and in its log, is kept from a command line whose output a program may read. The harness is an
extra, since it brings some thirty packages that nothing else here needs.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from copy import deepcopy
from importlib import import_module
from typing import Any

from torch import nn

from depthprune.errors import EvaluationError, first_line
from depthprune.extras import check_extra
from depthprune.study.finalists import FinalScore
from depthprune.study.plan import is_task_file

_MODULES = ("lm_eval", "accelerate")
_BATCH = 8


def require_harness() -> None:
    """Refuse where the harness is not installed.

    Raises:
        UsageError: Naming the extra.
    """
    check_extra("tasks", "eval", *_MODULES)


def run_tasks(
    module: nn.Module, tokenizer: Any, tasks: Sequence[str], *, items: int | None = None
) -> Mapping[str, Any]:
    """What the harness gives for these tasks: its results, and a sample for each item.

    Args:
        module: A causal language model from transformers.
        tokenizer: Its tokenizer.
        tasks: Names, or paths of YAML files.
        items: Of each task, the first so many; None for all.

    Raises:
        UsageError: If the harness is not installed.
        EvaluationError: If it does not know a task, or a task cannot be run.
    """
    require_harness()
    with _quiet():
        try:
            evaluator: Any = import_module("lm_eval.evaluator")
            models: Any = import_module("lm_eval.models.huggingface")
            known: Any = import_module("lm_eval.tasks")
            # Reading the harness's own tasks takes seconds, and files stand for themselves.
            own = not all(map(is_task_file, tasks))
            # The harness gives a tokenizer a token to pad with.
            lm = models.HFLM(pretrained=module, tokenizer=deepcopy(tokenizer), batch_size=_BATCH)
            found = evaluator.simple_evaluate(
                model=lm,
                tasks=list(tasks),
                task_manager=known.TaskManager(include_defaults=own),
                limit=items,
                bootstrap_iters=1000,
            )
        except Exception as error:
            raise EvaluationError(
                f"tasks: lm-evaluation-harness cannot run {', '.join(tasks)} "
                f"({first_line(error)}); name a task it knows (lm-eval ls tasks), or a YAML file"
            ) from error
    answer: Mapping[str, Any] = found
    return answer


def scores_of(found: Mapping[str, Any]) -> list[FinalScore]:
    """The metrics among a harness's results, task by task.

    Args:
        found: By `run_tasks`.
    """
    scores = []
    for task, metrics in found["results"].items():
        if task not in found["n-samples"]:
            continue  # A group's mean, whose tasks are told.
        for key, value in metrics.items():
            metric, _, kept = key.partition(",")
            if not kept or metric.endswith("_stderr") or not isinstance(value, (int, float)):
                continue
            stderr = metrics.get(f"{metric}_stderr,{kept}")
            known = float(stderr) if isinstance(stderr, (int, float)) else None
            n = int(found["n-samples"][task]["effective"])
            scores.append(
                FinalScore(
                    task=task, metric=metric, filter=kept, value=float(value), stderr=known, n=n
                )
            )
    return scores


@contextmanager
def _quiet() -> Iterator[None]:
    # The harness sets its loggers up as it is imported, so levels are overruled from outside.
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(before)
