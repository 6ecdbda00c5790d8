"""Losses of a recovered model, beside those of the dense and of the pruned one.

All three are measured on the same windows, text by text, so that each difference is paired. A memo
knows nothing of recovered weights, so theirs are always computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from depthprune.calibration import Calibration
from depthprune.evaluator import Evaluator, Memo, RemovedSet, increase
from depthprune.manifest import HeldOut
from depthprune.models.loading import Model
from depthprune.progress import SILENT, Progress
from depthprune.recovery import Recovery, recovered
from depthprune.study.judge import estimate


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
        objective: As an evaluator takes it.
        recovery: Of the removed set.
        memory: Bytes that hidden states may take.
        memo: Store of losses, for those of the dense and the pruned model.
        progress: Where the work shows itself.

    Raises:
        EvaluationError: If a loss is NaN or infinite.
    """
    removed: RemovedSet = recovery.removed
    shared: dict[str, Any] = {"memory": memory, "plain": True, "progress": progress}
    records = []
    for text in texts:
        evaluator = Evaluator(model, text, objective, memo=memo, **shared)
        dense, pruned = (s.require_finite() for s in evaluator.score([(), removed]))
        with recovered(model, recovery):
            again = Evaluator(model, text, objective, **shared)
            after = again.score([removed])[0].require_finite()
        grown, stderr = increase(pruned, dense)
        left, left_stderr = increase(after, dense)
        change, change_stderr = increase(after, pruned)
        records.append(
            HeldOut(
                calibration=text.parts[0].spec.line(),
                dense=estimate(dense, evaluator.objective),
                pruned=estimate(pruned, evaluator.objective),
                increase=grown,
                increase_stderr=stderr,
                recovered=estimate(after, evaluator.objective),
                recovered_increase=left,
                recovered_increase_stderr=left_stderr,
                recovered_change=change,
                recovered_change_stderr=change_stderr,
            )
        )
    return records


def harmed(records: Sequence[HeldOut]) -> list[str]:
    """A line for each text on which recovery raised the loss by more than its standard error."""
    return [
        f"recovery made the model worse on {record.calibration}: the loss rose by "
        f"{record.recovered_change:.3f} ± {record.recovered_change_stderr:.3f}; add such text to "
        "the calibration, or leave recovery out"
        for record in records
        if record.recovered_change is not None
        and record.recovered_change > (record.recovered_change_stderr or 0.0)
    ]
