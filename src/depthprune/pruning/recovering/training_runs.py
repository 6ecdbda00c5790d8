"""The ways to recover that `--recover` names, told apart: checks, the fit itself, its record.

A training's checkpoints stand in a hidden folder beside OUT, named after all that the training
depends on, so that the same command goes on from them; it is removed once OUT is written.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from depthprune.calibration import Calibration, require_positions
from depthprune.errors import CheckpointError, DepthpruneError, OutputError, UsageError
from depthprune.evaluator import RemovedSet
from depthprune.manifest import TrainingPoint, TrainingRecord
from depthprune.models.loading import Model
from depthprune.progress import Progress, note
from depthprune.pruning.standing import if_interrupted
from depthprune.recovery import (
    Last,
    Linear,
    LoRA,
    Magnitude,
    Method,
    Recovery,
    Training,
    distil,
    plan_key,
    recover,
    require_tokens,
    require_trainable,
    require_trainer,
    require_windows,
    rescale,
)
from depthprune.staging import stem


def check_way(method: Method, *, stream: bool, in_search: bool = False) -> None:
    """Refuse, before anything is read, what a way to recover cannot do here."""
    if isinstance(method, Magnitude) and in_search:
        raise UsageError(
            "--search-with-recovery: sets are scored after --recover linear; pass that"
        )
    if not isinstance(method, (LoRA, Last)):
        return
    require_trainer(method)
    if stream:
        raise UsageError(
            f"--recover {method.name}: a streamed model holds no weights to train; load it whole "
            "without --stream"
        )
    if in_search:
        raise UsageError(
            "--search-with-recovery: every set would be trained, which is too much; pass "
            "--recover linear"
        )


def check_enough(
    model: Model,
    calibration: Calibration,
    method: Method,
    further: Sequence[Calibration],
    kept: int,
) -> None:
    """Refuse, before anything is spent, what cannot be recovered or judged.

    Args:
        model: The dense original.
        calibration: What is to be fitted or trained on.
        method: The way to recover.
        further: What recovery is to be judged on besides.
        kept: How many blocks are kept at most.
    """
    for each in (calibration, *calibration.held_out(), *further):
        require_positions(model, each)
    if isinstance(method, (LoRA, Last)):
        require_trainable(model, method, kept)
        require_windows(calibration, method)
    if isinstance(method, Linear):
        method.behind(model.blocks)
    if isinstance(method, Linear) or getattr(method, "start", None) == "linear":
        require_tokens(model, calibration)


def fit_recovery(
    model: Model,
    removed: RemovedSet,
    calibration: Calibration,
    method: Method,
    out: Path,
    progress: Progress,
) -> Recovery:
    """Recover a model in the way that was asked for.

    Args:
        model: The dense original.
        removed: Original block numbers.
        calibration: What is fitted or trained on.
        method: The way.
        out: What `-o` names; a training's checkpoints are kept beside it.
        progress: Where the work shows itself.
    """
    if isinstance(method, Linear):
        return recover(model, removed, calibration, method, progress=progress)
    if isinstance(method, Magnitude):
        return rescale(model, removed, calibration, progress=progress)
    folder = _folder(out, method.name, plan_key(model, removed, calibration, method))
    if_interrupted(partial(_last_checkpoint_note, folder))
    with _noting_checkpoints(folder, method.name):
        recovery = distil(model, removed, calibration, method, folder=folder, progress=progress)
    if recovery.training is not None and not recovery.training.best:
        note(
            f"--recover {method.name}: no step was better than none on windows that were not "
            "trained on, so nothing was gained and nothing was added"
        )
    return recovery


def forget(recovery: Recovery | None) -> None:
    """Remove the checkpoints of a training whose result is written."""
    if recovery is not None and recovery.training is not None:
        shutil.rmtree(recovery.training.folder, ignore_errors=True)


def training_record(training: Training | None) -> TrainingRecord | None:
    """A training as the manifest has it."""
    if training is None:
        return None
    return TrainingRecord(
        settings=training.settings.line,
        parameters=training.parameters,
        tokens=training.tokens,
        steps=training.steps,
        best=training.best,
        stopped=training.stopped,
        curve=[TrainingPoint.model_validate(point) for point in training.points],
    )


def _folder(out: Path, name: str, key: str) -> Path:
    return out.absolute().parent / f"{stem(out.name)}.{name}-{key[:12]}"


def _last_checkpoint_note(folder: Path) -> str | None:
    """What an interruption leaves of a training."""
    from depthprune.recovery.lora.resume import last_checkpoint

    last = last_checkpoint(folder)
    return None if last is None else f"{last} stands; the same command goes on from it"


@contextmanager
def _noting_checkpoints(folder: Path, name: str) -> Iterator[None]:
    """Say where a training goes on from, and that an interrupted one can be gone on with.

    A folder that was made for a training which is refused is removed again, unless its checkpoints
    are what the refusal is about.
    """
    from depthprune.recovery.lora.resume import last_checkpoint

    known = folder.exists()
    last = last_checkpoint(folder)
    if last is not None:
        note(f"--recover {name}: training goes on from {last}")
    try:
        yield
    except (CheckpointError, OutputError):
        raise  # with room on the disk it goes on
    except DepthpruneError:
        if not known:
            shutil.rmtree(folder, ignore_errors=True)
        raise  # it would be met again
    except Exception:
        last = last_checkpoint(folder)
        if last is not None:
            note(f"--recover {name}: the same command goes on from {last}")
        raise
