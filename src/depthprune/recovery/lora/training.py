"""Training a student with transformers' own Trainer: schedule, checkpoints, resume, best step.

The order of training batches is laid out beforehand, so what a resumed run reads is what an
uninterrupted one would have. The Trainer writes a checkpoint (adapters, optimizer, schedule, random
states) at every judgement (see `resume`). Nothing is printed: the Trainer's bars and logs are off,
and the caller's step advances.
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from torch.utils.data import Dataset, SequentialSampler
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import EarlyStoppingCallback, PrinterCallback

from depthprune.errors import OutputError, first_line
from depthprune.models.pretrained import quiet_transformers
from depthprune.outputs import whole_file
from depthprune.progress import ProgressStep
from depthprune.recovery.lora.resume import (
    MARK,
    PREFIX,
    baseline_of,
    has_ended,
    judged,
    last_checkpoint,
    load_step,
    state_of,
)
from depthprune.recovery.lora.student import Student
from depthprune.recovery.methods import Trained
from depthprune.recovery.result import StudentPoint


@dataclass(frozen=True)
class History:
    """How a training went.

    Attributes:
        points: From step 0.
        best: The step that was kept; 0 if none was better than no training.
        stopped: Whether it ended early.
        resumed: The step that it went on from; 0 if it began anew.
    """

    points: tuple[StudentPoint, ...]
    best: int
    stopped: bool
    resumed: int


class _TrainingOrder(Dataset[dict[str, torch.Tensor]]):
    """The training batches of every step, in order."""

    def __init__(self, places: Sequence[int]) -> None:
        self._places = places

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"distil_batch": torch.tensor(self._places[index])}


class _Trainer(Trainer):  # type: ignore[misc]
    """A Trainer whose loss is the student's own and whose evaluation is its judgement."""

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        loss = model(**inputs)
        return (loss, None) if return_outputs else loss

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        metrics = judged(self.model)
        self.log(metrics)
        self.control: Any = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        return SequentialSampler(self.train_dataset)


class _Watch(TrainerCallback):  # type: ignore[misc]
    """Advances the step that is shown, and marks checkpoints that are whole.

    No training at all is the first best that later steps are held against.
    """

    def __init__(self, shown: ProgressStep, baseline: float) -> None:
        self._shown = shown
        self._baseline = baseline

    def on_train_begin(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        if state.best_metric is None:
            state.best_metric = self._baseline

    def on_step_end(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        self._shown.advance()
        # Older transformers leave the last steps unjudged.
        if state.global_step >= state.max_steps:
            control.should_evaluate = control.should_save = True

    def on_save(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        with whole_file(Path(args.output_dir) / f"{PREFIX}{state.global_step}" / MARK) as mark:
            mark.write_text("", encoding="utf-8")


def train(
    student: Student, order: Sequence[int], settings: Trained, folder: Path, shown: ProgressStep
) -> History:
    """Train a student, going on from the last whole checkpoint; it is left at its best step.

    Args:
        student: Its parameters are trained in place.
        order: The training batches of all steps, as many for each.
        settings: Of the training.
        folder: Where checkpoints are written and found.
        shown: Advances by one a step.

    Raises:
        CheckpointError: If a checkpoint cannot be read.
        EvaluationError: If a loss is NaN or infinite.
        OutputError: If the disk is full or the folder cannot be written.
    """
    last = last_checkpoint(folder)
    known = {} if last is None else state_of(last)
    device = student.trained[0].device
    with quiet_transformers(), _own_randomness(device), _on(device):
        first = baseline_of(student, folder)
        shown.advance(known.get("global_step", 0))
        log, steps = known.get("log_history", []), known.get("global_step", 0)
        if not has_ended(known, settings):
            watch = _Watch(shown, first["eval_loss"])
            trainer = _trainer(student, order, settings, folder, watch)
            try:
                with warnings.catch_warnings():
                    # Said of checkpoints written within a second, which are then told by number.
                    warnings.filterwarnings("ignore", message="mtime may not be reliable")
                    trainer.train(resume_from_checkpoint=None if last is None else str(last))
            except (OSError, SafetensorError, RuntimeError) as error:
                if isinstance(error, RuntimeError) and not _of_a_file(error):
                    raise
                raise OutputError(
                    f"{folder}: a checkpoint cannot be written or read ({first_line(error)}); free "
                    "some space and run again, which goes on from the last whole one"
                ) from error
            log, steps = trainer.state.log_history, trainer.state.global_step
    points = _points(first, log)
    best = min(points, key=lambda point: (point.choosing, point.step)).step
    if best:
        load_step(student, folder, best)
    return History(
        tuple(points),
        best,
        stopped=steps < settings.steps,
        resumed=known.get("global_step", 0),
    )


def _of_a_file(error: RuntimeError) -> bool:
    """Whether torch's own writer, which knows no OSError, could not write."""
    return any(name in str(error) for name in ("inline_container", "PytorchStreamWriter"))


def _trainer(
    student: Student, order: Sequence[int], settings: Trained, folder: Path, watch: _Watch
) -> _Trainer:
    arguments = TrainingArguments(
        output_dir=str(folder.absolute()),
        max_steps=settings.steps,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=len(order) // settings.steps,
        learning_rate=settings.lr,
        lr_scheduler_type="cosine",
        warmup_steps=-(-settings.steps // 10),
        eval_strategy="steps",
        eval_steps=settings.every,
        save_strategy="steps",
        save_steps=settings.every,
        logging_steps=settings.every,
        # The best, the last, and one more while the last is being written.
        save_total_limit=3,
        metric_for_best_model="loss",
        greater_is_better=False,
        restore_callback_states_from_checkpoint=True,
        seed=settings.seed,
        report_to=[],
        disable_tqdm=True,
        log_level="error",
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        use_cpu=student.trained[0].device.type == "cpu",
    )
    _hold_to(arguments, student.trained[0].device)
    places = _TrainingOrder(order)
    trainer = _Trainer(
        model=student,
        args=arguments,
        train_dataset=places,
        eval_dataset=places,
        data_collator=lambda items: items[0],
        callbacks=[EarlyStoppingCallback(settings.patience), watch],
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def _hold_to(arguments: TrainingArguments, device: torch.device) -> None:
    """Have the Trainer use the one device that the model is on.

    It would take the first of several, make it the current one, and the others for copies of the
    model.
    """
    arguments._n_gpu = min(1, arguments.n_gpu)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    # Before transformers 5 the property that is found once keeps it under the other name.
    arguments.__dict__ |= {"_setup_devices": device, "__cached__setup_devices": device}


def _points(first: dict[str, float], log: Sequence[dict[str, float]]) -> list[StudentPoint]:
    """The judgements in a Trainer's log, each with the training loss that was logged with it."""
    trained = {int(row["step"]): row["loss"] for row in log if "loss" in row}
    rows = [{"step": 0, **first}, *(row for row in log if "eval_loss" in row)]
    points = {
        int(row["step"]): StudentPoint(
            step=int(row["step"]),
            trained=trained.get(int(row["step"])),
            choosing=row["eval_loss"],
            held_out=row["eval_held_out"],
            held_out_nll=row["eval_held_out_nll"],
        )
        for row in rows
    }
    return list(points.values())


@contextmanager
def _own_randomness(device: torch.device) -> Iterator[None]:
    """The Trainer seeds every generator; afterwards each is where it was."""
    python, numbers = random.getstate(), np.random.get_state()
    devices = [device] if device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numbers)


@contextmanager
def _on(device: torch.device) -> Iterator[None]:
    """The Trainer takes the current CUDA device, whichever the model is on."""
    if device.type == "cuda":
        with torch.cuda.device(device):
            yield
    else:
        yield
