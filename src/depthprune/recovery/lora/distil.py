"""`distil`: training low-rank adapters, or the last blocks, to give what the dense model gives.

What the closed form cannot mend, a few hundred steps of distillation can, in part: the pruned model
is trained towards the dense model's next-token distributions on the calibration's windows and on
text of the dense model's own, and what was trained is written into the weights, so that the result
is an ordinary checkpoint. The best step on windows that were not trained on is kept, and that may
be none.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from depthprune.calibration import Calibration, require_positions
from depthprune.claims import held
from depthprune.errors import ModelError, UsageError
from depthprune.extras import require_extra
from depthprune.models.arithmetic import arithmetic_of
from depthprune.models.loading import Model
from depthprune.outputs import whole_file
from depthprune.progress import SILENT, Progress
from depthprune.recovery.delta import Delta, LowRank
from depthprune.recovery.linear.fold import swapped
from depthprune.recovery.linear.write_back import unwritten
from depthprune.recovery.lora.adapters import Adapters, adapted, require_rank, targets
from depthprune.recovery.lora.distillation_data import (
    DistillationData,
    distillation_data,
    require_windows,
)
from depthprune.recovery.lora.own_text import with_own_text
from depthprune.recovery.lora.student import Student
from depthprune.recovery.lora.unfrozen import Unfrozen, require_kept, unfrozen
from depthprune.recovery.methods import Last, Linear, LoRA, Trained
from depthprune.recovery.recover import recover, refuse_quantized
from depthprune.recovery.result import Recovery, Training
from depthprune.removed_sets import check_removed
from depthprune.untrusted import read_untrusted

if TYPE_CHECKING:
    from depthprune.recovery.lora.training import History

_CALL_TOKENS = {"cpu": 512}
_CALL_TOKENS_ELSEWHERE = 4096
_PLAN = "plan.json"


def distil(
    model: Model,
    removed: Sequence[int],
    calibration: Calibration,
    settings: Trained | None = None,
    *,
    folder: str | Path | None = None,
    progress: Progress = SILENT,
) -> Recovery:
    """Train what recovers a model from which blocks are removed. The model itself stays as it is.

    Args:
        model: The dense original.
        removed: Original block numbers.
        calibration: Whose windows are trained on and choose the best step.
        settings: What is trained, adapters (`LoRA`) or the last blocks (`Last`), and how; the
            defaults of the first if None.
        folder: Where checkpoints are kept, to go on from if the training is interrupted; a
            temporary one, without resume, if None.
        progress: Where the work shows itself.

    Returns:
        The new weights, what was done for each run of removed blocks before, and the training's
        curve.

    Raises:
        CalibrationError: If there are too few windows, or one is longer than the model has
            positions for.
        CheckpointError: If a checkpoint in the folder cannot be read.
        EvaluationError: If a loss or an activation is NaN or infinite.
        ModelError: If the model is quantized or streamed, or has nothing that can be trained.
        OutputError: If another process trains in the folder.
        UsageError: If PEFT or accelerate is not installed, the removed set does not fit the model,
            or the folder holds another training's checkpoints.
    """
    settings = settings or LoRA()
    gone = check_removed(removed, model.blocks)
    require_trainable(model, settings, model.blocks - len(gone))
    require_windows(calibration, settings)
    for each in (calibration, *calibration.held_out()):
        require_positions(model, each)
    with _checkpoints(folder) as place:
        mixed = with_own_text(model, calibration, settings, progress)
        read = distillation_data(mixed, settings, _call_tokens(model))
        start = Recovery(gone, (), {})
        if settings.start == "linear":
            start = recover(model, gone, calibration, Linear(refit="none"), progress=progress)
        task = _Task(model, gone, mixed, read, start, settings)
        _claim(place, plan_key(model, gone, calibration, settings))
        history, changes, parameters = task.train(place, progress)
    return task.recovery(history, changes, parameters, place)


def plan_key(
    model: Model, removed: Sequence[int], calibration: Calibration, settings: Trained
) -> str:
    """What a training depends on, as a SHA-256 in hexadecimal: only the same one may be resumed."""
    facts = {
        "weights": model.fingerprint or model.source.name,
        "dtype": model.dtype,
        "device": torch.device(model.device).type,
        "arithmetic": arithmetic_of(model),
        "removed": list(removed),
        "calibration": [
            calibration.fingerprint,
            *(each.fingerprint for each in calibration.held_out()),
        ],
        "settings": {"name": settings.name, **asdict(settings)},
        "versions": [version(name) for name in ("torch", "transformers", "peft")],
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def require_trainer(settings: Trained) -> None:
    """Refuse where what trains is not installed.

    Raises:
        UsageError: Naming the extra that brings it.
    """
    require_extra(f"--recover {settings.name}", "heal", "peft", "accelerate")


def require_trainable(model: Model, settings: Trained, kept: int) -> None:
    """Refuse a model that cannot be trained here, and settings that fit no part of it.

    Args:
        model: The dense original.
        settings: What is to be trained.
        kept: How many blocks are kept at most.

    Raises:
        ModelError: If it is quantized, streamed or laid on several devices, or in float16.
        UsageError: If what trains is not installed, or the settings ask for more than there is.
    """
    require_trainer(settings)
    refuse_quantized(model)
    where = f"{model.source.name}: --recover {settings.name}"
    if model.streamed:
        raise ModelError(f"{where}: a streamed model holds no weights to train; "
                         "load it whole without --stream")  # fmt: skip
    if len({p.device for p in model.module.parameters()}) > 1:
        raise ModelError(f"{where}: expected the model on one device; leave "
                         "--device-map out")  # fmt: skip
    if model.dtype == "float16":
        raise ModelError(f"{where}: gradients vanish in float16; load it with "
                         "--dtype bfloat16 or float32")  # fmt: skip
    if isinstance(settings, Last):
        require_kept(settings, kept)
    else:
        require_rank(targets(model.anatomy, range(model.blocks)).values(), settings)


@dataclass(frozen=True)
class _Task:
    """One training, everything checked."""

    model: Model
    removed: tuple[int, ...]
    calibration: Calibration
    distillation_data: DistillationData
    start: Recovery
    settings: Trained

    def train(
        self, folder: Path, progress: Progress
    ) -> tuple[History, dict[str, LowRank] | dict[str, Delta], int]:
        from depthprune.recovery.lora.training import train

        module, settings = self.model.module, self.settings
        kept = [b for b in range(self.model.blocks) if b not in self.removed]
        changed = [module.get_parameter(name) for name in self.start.weights]
        originals = {parameter: parameter.data for parameter in changed}
        order = self.distillation_data.order(settings.steps * self._accumulated, settings.seed)
        # Files are compared with the model's own values, not with what a start put in their place.
        lost = self._unwritten(kept) if isinstance(self.settings, LoRA) else set()
        with (
            swapped(module, self.start.weights),
            self._trained(kept, lost) as trained,
            progress.step("training", settings.steps, "steps") as shown,
        ):
            student = Student(
                self.model,
                self.removed,
                trained,
                self.distillation_data,
                originals,
                nll=settings.nll,
                checkpointing=self._checkpointing,
            )
            history = train(student, order, settings, folder, shown)
            changes = trained.changes() if history.best else {}
            return history, changes, sum(p.numel() for p in trained.parameters)

    def _unwritten(self, kept: Sequence[int]) -> set[str]:
        """Weights of kept blocks that no checkpoint could be given."""
        blocks, found = self.model.anatomy.blocks, set()
        for block in kept:
            names = [n for n, p in blocks.modules[block].named_parameters() if p.dim() == 2]
            found |= {f"{blocks.path}.{block}.{n}" for n in unwritten(self.model, block, names)}
        return found

    def _trained(
        self, kept: Sequence[int], lost: Collection[str]
    ) -> AbstractContextManager[Adapters | Unfrozen]:
        if isinstance(self.settings, Last):
            return unfrozen(self.model, kept, self.settings)
        return adapted(self.model.anatomy, kept, self.settings, lost)

    def recovery(
        self,
        history: History,
        changes: dict[str, LowRank] | dict[str, Delta],
        parameters: int,
        folder: Path,
    ) -> Recovery:
        weights, deltas = dict(self.start.weights), dict(self.start.deltas)
        low_rank: dict[str, LowRank] = {}
        for name, change in changes.items():
            if isinstance(change, LowRank):
                low_rank[name] = change
            else:
                fitted = deltas.get(name)
                deltas[name] = change.after(fitted) if isinstance(fitted, Delta) else change
            before = weights.get(name, self.model.module.get_parameter(name).data)
            weights[name] = change.added_to(before)
        steps = history.points[-1].step
        place = self.distillation_data.order(steps * self._accumulated, self.settings.seed)
        training = Training(
            settings=self.settings,
            calibration=self.calibration,
            points=history.points,
            best=history.best,
            steps=steps,
            stopped=history.stopped,
            resumed=history.resumed,
            parameters=parameters,
            tokens=sum(self.distillation_data.trained[p].tokens.numel() for p in place),
            folder=folder,
        )
        return replace(
            self.start, weights=weights, deltas=deltas, low_rank=low_rank, training=training
        )

    @property
    def _accumulated(self) -> int:
        return self.distillation_data.accumulated(self.settings.batch)

    @property
    def _checkpointing(self) -> bool:
        if self.settings.checkpointing == "auto":
            return torch.device(self.model.device).type != "cpu"
        return self.settings.checkpointing == "on"


def _call_tokens(model: Model) -> int:
    return _CALL_TOKENS.get(torch.device(model.device).type, _CALL_TOKENS_ELSEWHERE)


@contextmanager
def _checkpoints(folder: str | Path | None) -> Iterator[Path]:
    if folder is None:
        with tempfile.TemporaryDirectory(prefix="depthprune-lora-") as temporary:
            yield Path(temporary)
        return
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    with held(place, "folder"):
        yield place


def _claim(folder: Path, key: str) -> None:
    """Write whose checkpoints the folder holds, or refuse those of another training."""
    file = folder / _PLAN
    if file.is_file():
        if read_untrusted(file, error=UsageError) != {"key": key}:
            raise UsageError(
                f"{folder}: holds the checkpoints of another training (of another model, set, "
                "calibration or setting, or with other versions, devices or threads); name another "
                "folder, or remove it"
            )
        return
    if any(not each.name.startswith(f".{_PLAN}.") for each in folder.iterdir()):
        raise UsageError(f"{folder}: expected an empty folder for checkpoints; name another")
    with whole_file(file) as place:
        place.write_text(json.dumps({"key": key}), encoding="utf-8")
