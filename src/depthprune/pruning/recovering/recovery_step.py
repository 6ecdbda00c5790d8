"""Recovery as `prune` and `recover` share it: fit, judge, and hand surgery what it is to write."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from depthprune.calibration import Calibration, CalibrationSpec, calibrate, parse_calibration
from depthprune.checkpoints.checkpoint import Checkpoint
from depthprune.errors import UsageError
from depthprune.evaluator import Memo, RemovedSet
from depthprune.manifest import HeldOut, RecoveredRun, RecoveryRecord, RefittedLayer
from depthprune.models.loading import Model
from depthprune.models.source import ModelSource
from depthprune.outputs import OutputTarget
from depthprune.progress import Progress, note, warn
from depthprune.pruning.records import calibration_record
from depthprune.pruning.recovering.held_out_recovered import (
    harmed,
    judge_choices,
    judge_recovered,
)
from depthprune.pruning.recovering.training_runs import (
    check_way,
    fit_recovery,
    training_record,
)
from depthprune.pruning.session import TextReader
from depthprune.recovery import (
    Method,
    Recovery,
    parse_method,
    recovered,
    refuse_quantized_config,
    stored,
)
from depthprune.removed_sets import name_blocks

IN_SEARCH = ("one-shot", "greedy")


@dataclass(frozen=True)
class Recovered:
    """A fitted recovery with its losses."""

    recovery: Recovery
    held_out: list[HeldOut]
    record: RecoveryRecord


@dataclass(frozen=True)
class WantedRecovery:
    """What `--recover` and `--also` ask for.

    Attributes:
        method: The way; None for none.
        also: Further text and items that it is judged on.
    """

    method: Method | None
    also: tuple[CalibrationSpec, ...]


def read_recovery(
    method: str | None, also: Sequence[str], out: OutputTarget | None, *, stream: bool = False
) -> WantedRecovery:
    """Read `--recover` and `--also`, and refuse what no model could do.

    Args:
        method: Of `--recover`.
        also: Of `--also`, which without a method would do nothing.
        out: What is written; the weights of a GGUF are only ever copied.
        stream: Whether blocks are read from disk.

    Raises:
        UsageError: If any of it is wrong.
    """
    way = None if method is None else parse_method(method)
    if also and way is None:
        raise UsageError("--also: names further text to judge recovery on; pass --recover linear")
    further = tuple(parse_calibration(also)) if also else ()
    if way is not None:
        check_way(way, stream=stream)
    if way is not None and out is not None and out.is_file:
        raise UsageError(
            f"-o {out}: --recover changes weights, and those of a GGUF are copied as they are; "
            "give a folder"
        )
    return WantedRecovery(way, further)


def check_recovering(method: Method | None, search: str, sized: bool) -> None:
    """Refuse a search that would not end, or whose sizes are judged before recovery."""
    if method is None:
        raise UsageError("--search-with-recovery: needs a way to recover; pass --recover linear")
    check_way(method, stream=False, in_search=True)
    if search.partition(":")[0] not in IN_SEARCH:
        raise UsageError(
            f"--search-with-recovery: expected --search {' or '.join(IN_SEARCH)}, got {search}; "
            "every set is fitted anew, which others ask for too often"
        )
    if sized:
        raise UsageError("--search-with-recovery: --max-increase judges before recovery; give -k")


def check_source(source: ModelSource) -> None:
    """Refuse, before its weights are read, a model that cannot be recovered."""
    if source.checkpoint is not None:
        refuse_quantized_config(source.name, source.checkpoint.text_config)
        refuse_quantized_config(source.name, source.checkpoint.config)


def further_texts(also: Sequence[CalibrationSpec], reader: TextReader) -> list[Calibration]:
    """The texts that `--also` names, each apart."""
    return [calibrate(spec, reader, split="whole") for spec in also]


def fit_and_judge(
    model: Model,
    calibration: Calibration,
    further: Sequence[Calibration],
    objective: Any,
    removed: RemovedSet,
    method: Method,
    out: Path,
    *,
    memory: int | None,
    memo: Memo | None,
    progress: Progress,
    in_search: bool = False,
) -> Recovered:
    """Fit a recovery, and measure it on held-out windows and on further texts."""
    recovery = fit_recovery(model, removed, calibration, method, out, progress)
    _note_runs(recovery)
    shared: dict[str, Any] = {"memory": memory, "memo": memo, "progress": progress}
    own = calibration.held_out()
    held_out = judge_recovered(model, own, objective, recovery, **shared)
    others = judge_recovered(model, further, objective, recovery, **shared)
    choices = judge_choices(model, [*own, *further], recovery, **shared)
    warnings = harmed([*held_out, *others, *choices])
    for warning in warnings:
        warn(warning)
    read = recovery.training.calibration if recovery.training else calibration
    record = RecoveryRecord(
        method=method.name,
        in_search=in_search,
        calibration=[calibration_record(part) for part in read.parts],
        runs=[RecoveredRun.model_validate(run) for run in recovery.runs],
        settings=method.line,
        refits=[RefittedLayer.model_validate(layer) for layer in recovery.refits],
        training=training_record(recovery.training),
        further=others,
        choices=choices,
        warnings=warnings,
    )
    return Recovered(recovery, held_out, record)


def _note_runs(recovery: Recovery) -> None:
    """Say which runs were not recovered, or not in every direction."""
    mapped = {change.target.block for change in recovery.changes}
    for run in recovery.runs:
        if run.why_not is not None:
            note(f"{name_blocks(run.blocks)}: not recovered; {run.why_not}")
        elif run.into in mapped and run.rank is not None and run.rank < recovery.width:
            note(
                f"{name_blocks(run.blocks)}: the system is singular: on these tokens the MLP "
                f"of block {run.into} adds {run.rank:,} of {recovery.width:,} directions; the "
                "others are left as they are"
            )


class RecoveredModel:
    """What surgery replaces of a loaded model, and the model with the same weights in place.

    Args:
        found: A recovery, if there is one.
        model: The dense original.
    """

    def __init__(self, found: Recovered | None, model: Model) -> None:
        self._found = found
        self._model = model
        self._as_written: AbstractContextManager[None] = nullcontext()

    def replacements(self, dense: Checkpoint, block_prefix: str | None) -> dict[str, bytes]:
        """New bytes of some tensors of the dense checkpoint, by their names in it."""
        if self._found is None:
            return {}
        data, recovery = stored(self._found.recovery, self._model, dense, block_prefix)
        self._as_written = recovered(self._model, recovery)
        return data

    def in_place(self) -> AbstractContextManager[None]:
        """Inside the context the model has the weights that were written."""
        return self._as_written
