"""Losses of a recovered model, beside those of the dense and of the pruned one.

All three are measured on the same windows, text by text, so that each difference is paired. A memo
knows nothing of recovered weights, so theirs are always computed. Of items with options the share
that is answered right is measured besides, whatever the objective.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

from depthprune.calibration import Calibration
from depthprune.evaluator import Evaluator, Memo, RemovedSet, increase
from depthprune.manifest import HeldOut
from depthprune.models.loading import Model
from depthprune.objectives import parse_objective
from depthprune.progress import SILENT, Progress
from depthprune.pruning.held_out import before_and_after, estimate, other_name
from depthprune.recovery import Recovery, recovered

_LEAST = 0.0005
"""A change below this is rounding, and would be told as 0.000."""


def judge_recovered(
    model: Model,
    texts: Sequence[Calibration],
    objective: Any,
    recovery: Recovery,
    *,
    memory: int | None = None,
    memo: Memo | None = None,
    progress: Progress = SILENT,
) -> list[HeldOut]:
    """Dense, pruned and recovered losses on each text.

    Args:
        model: The dense original.
        texts: Of one source each, none of whose windows was fitted.
        objective: As an evaluator takes it; where it cannot judge a text, NLL does.
        recovery: Of the removed set.
        memory: Bytes that hidden states may take.
        memo: Store of losses, for those of the dense and the pruned model.
        progress: Where the work shows itself.

    Raises:
        EvaluationError: If a loss is NaN or infinite.
    """
    removed: RemovedSet = recovery.removed
    shared: dict[str, Any] = {"memory": memory, "plain": True, "progress": progress}
    asked = parse_objective(objective)
    whole = [window for text in texts for window in text.windows]
    records = []
    for text in texts:
        kind = asked.of_source(text.windows, whole) or parse_objective("nll")
        evaluator = Evaluator(model, text, kind, memo=memo, **shared)
        dense, pruned = (s.require_finite() for s in evaluator.score([(), removed]))
        after = evaluator.score_changed(removed, partial(recovered, model, recovery))
        after.require_finite()
        left, left_stderr = increase(after, dense)
        change, change_stderr = increase(after, pruned)
        record = before_and_after(text.parts[0], kind, other_name(kind, asked), dense, pruned)
        mended = {
            "recovered": estimate(after, kind),
            "recovered_increase": left,
            "recovered_increase_stderr": left_stderr,
            "recovered_change": change,
            "recovered_change_stderr": change_stderr,
        }
        records.append(record.model_copy(update=mended))
    return records


def judge_choices(
    model: Model, texts: Sequence[Calibration], recovery: Recovery, **shared: Any
) -> list[HeldOut]:
    """Dense, pruned and recovered share of wrong answers on each text that is of items alone.

    Args:
        model: The dense original.
        texts: Of one source each; running text is passed over.
        recovery: Of the removed set.
        **shared: As `judge_recovered` takes it.
    """
    items = [text for text in texts if all(w.item is not None for w in text.windows)]
    records = judge_recovered(model, items, "accuracy", recovery, **shared)
    return [record.model_copy(update={"objective": "accuracy"}) for record in records]


def harmed(records: Sequence[HeldOut]) -> list[str]:
    """A line for each text on which recovery raised the loss by more than its standard error."""
    return [
        f"recovery made the model worse on {record.calibration}: {_fall(record)}; add such text to "
        "the calibration, or leave recovery out"
        for record in records
        if record.recovered_change is not None
        and record.recovered_change > max(_known(record.recovered_change_stderr) or 0.0, _LEAST)
    ]


def _known(stderr: float | None) -> float | None:
    """A standard error; one window has none."""
    return None if stderr is None or math.isnan(stderr) else stderr


def _fall(record: HeldOut) -> str:
    change, stderr = record.recovered_change or 0.0, _known(record.recovered_change_stderr)
    if record.objective == "accuracy":
        error = "" if stderr is None else f" ± {100 * stderr:.1f}"
        return f"accuracy fell by {100 * change:.1f}{error} points"
    error = ", on one window" if stderr is None else f" ± {stderr:.3f}"
    return f"the loss rose by {change:.3f}{error}"
