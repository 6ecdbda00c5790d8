"""What a training goes on from: the last whole checkpoint, and the judgement before any step.

A checkpoint counts only once its mark is there, so a kill while it is written costs that one alone.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers.trainer_callback import EarlyStoppingCallback

from depthprune.errors import CheckpointError, first_line
from depthprune.outputs import whole_file
from depthprune.recovery.lora.student import Student
from depthprune.recovery.methods import Trained
from depthprune.untrusted import read_untrusted

MARK = "complete"
PREFIX = "checkpoint-"
_BASELINE = "baseline.json"
_NOTED = ("global_step", "log_history", "stateful_callbacks")


def last_checkpoint(folder: Path) -> Path | None:
    """The last checkpoint that was written whole; those that were not are removed."""
    found = []
    for each in folder.glob(f"{PREFIX}*"):
        if (each / MARK).is_file():
            found.append(each)
        else:
            shutil.rmtree(each, ignore_errors=True)
    return max(found, key=lambda each: int(each.name.removeprefix(PREFIX)), default=None)


def state_of(checkpoint: Path) -> dict[str, Any]:
    """What the Trainer noted in a checkpoint, which can be read whole.

    Raises:
        CheckpointError: If it cannot.
    """
    try:
        state = read_untrusted(checkpoint / "trainer_state.json")
        found: dict[str, Any] = {name: state[name] for name in _NOTED}
        load_file(checkpoint / "model.safetensors")
    except (OSError, ValueError, KeyError, TypeError, SafetensorError, CheckpointError) as error:
        raise CheckpointError(
            f"{checkpoint}: cannot be resumed ({first_line(error)}); remove {checkpoint.parent} to "
            "begin anew"
        ) from error
    return found


def has_ended(state: dict[str, Any], settings: Trained) -> bool:
    """Whether a training had ended, and only what comes after it was not done."""
    if not state:
        return False
    noted = state["stateful_callbacks"].get(EarlyStoppingCallback.__name__, {})
    waited = noted.get("attributes", {}).get("early_stopping_patience_counter", 0)
    return bool(state["global_step"] >= settings.steps or waited >= settings.patience)


def baseline_of(student: Student, folder: Path) -> dict[str, float]:
    """The judgement before any step, from the folder where a training is resumed.

    Raises:
        CheckpointError: If what stands there is no judgement.
    """
    file = folder / _BASELINE
    if file.is_file():
        return _known_baseline(file)
    found = judged(student)
    with whole_file(file) as place:
        place.write_text(json.dumps(found), encoding="utf-8")
    return found


def _known_baseline(file: Path) -> dict[str, float]:
    found = read_untrusted(file)
    names = ("eval_loss", "eval_held_out", "eval_held_out_nll")
    if isinstance(found, dict) and all(isinstance(found.get(name), float) for name in names):
        return {name: found[name] for name in names}
    raise CheckpointError(f"{file}: cannot be resumed; remove {file.parent} to begin anew")


def judged(student: Any) -> dict[str, float]:
    """What a student is worth, as the Trainer logs it."""
    choosing, _ = student.judged("choosing")
    held_out, own = student.judged("held_out")
    return {"eval_loss": choosing, "eval_held_out": held_out, "eval_held_out_nll": own}


def load_step(student: Student, folder: Path, step: int) -> None:
    """Have a student be what it was after a step that was kept."""
    student.load_state_dict(load_file(folder / f"{PREFIX}{step}" / "model.safetensors"))
