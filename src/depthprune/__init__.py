"""Depth pruning of causal language models.

    import depthprune as dp

    model = dp.load("demo")
    calibration = dp.calibrate("text:wiki.txt,windows=64,length=512,seed=0", model)
    evaluator = dp.Evaluator(model, calibration, objective="nll")
    result = dp.search("greedy", evaluator, k=6)
    dp.apply("path/to/checkpoint", result.removed, "out/")
    manifest = dp.prune("demo", k=6, out="out/demo", calibration=["text:wiki.txt"])  # the whole job

The names below are the whole public surface. They are imported on first use: `dp.apply` cuts
checkpoints without loading torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from depthprune.errors import (
    CalibrationError,
    CheckpointError,
    DepthpruneError,
    EvaluationError,
    ModelError,
    OutputError,
    ParityError,
    UsageError,
)
from depthprune.manifest import versions

if TYPE_CHECKING:
    from depthprune.calibration.calibration import Calibration, calibrate
    from depthprune.calibration.spec import CalibrationSpec
    from depthprune.evaluator.confidence import Racing
    from depthprune.evaluator.cost import Cost
    from depthprune.evaluator.evaluator import Evaluator
    from depthprune.evaluator.memo import Memo
    from depthprune.evaluator.score import Score, increase
    from depthprune.models.loading import Model, load
    from depthprune.pruning.apply import apply
    from depthprune.pruning.prune import prune
    from depthprune.recovery.lora.distil import distil
    from depthprune.recovery.methods import LoRA
    from depthprune.recovery.recover import recover
    from depthprune.recovery.result import Recovery, recovered
    from depthprune.searches.budget import Budget
    from depthprune.searches.driver import Result, search

_PLACES = {
    "Budget": "searches.budget",
    "Calibration": "calibration.calibration",
    "CalibrationSpec": "calibration.spec",
    "Cost": "evaluator.cost",
    "Evaluator": "evaluator.evaluator",
    "LoRA": "recovery.methods",
    "Memo": "evaluator.memo",
    "Model": "models.loading",
    "Racing": "evaluator.confidence",
    "Recovery": "recovery.result",
    "Result": "searches.driver",
    "Score": "evaluator.score",
    "apply": "pruning.apply",
    "calibrate": "calibration.calibration",
    "distil": "recovery.lora.distil",
    "increase": "evaluator.score",
    "load": "models.loading",
    "prune": "pruning.prune",
    "recover": "recovery.recover",
    "recovered": "recovery.result",
    "search": "searches.driver",
}

__version__ = versions().depthprune

__all__ = [
    "Budget",
    "Calibration",
    "CalibrationError",
    "CalibrationSpec",
    "CheckpointError",
    "Cost",
    "DepthpruneError",
    "EvaluationError",
    "Evaluator",
    "LoRA",
    "Memo",
    "Model",
    "ModelError",
    "OutputError",
    "ParityError",
    "Racing",
    "Recovery",
    "Result",
    "Score",
    "UsageError",
    "apply",
    "calibrate",
    "distil",
    "increase",
    "load",
    "prune",
    "recover",
    "recovered",
    "search",
]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'depthprune' has no attribute {name!r}")
    value = getattr(import_module(f"depthprune.{_PLACES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
