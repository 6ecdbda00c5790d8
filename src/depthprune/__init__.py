"""Depth pruning of causal language models.

    import depthprune as dp

    model = dp.load("demo")
    calibration = dp.calibrate("text:wiki.txt,windows=64,length=512,seed=0", model)
    evaluator = dp.Evaluator(model, calibration, objective="nll")
    result = dp.search("greedy", evaluator, k=6)
    dp.apply("path/to/checkpoint", result.removed, "out/")
    manifest = dp.prune("demo", k=6, out="out/demo", calibration=["text:wiki.txt"])  # the whole job

What a verb of the command line does, a function does: `prune`, `apply`, `score`, `evaluate`,
`bench`, `recover_checkpoint` and `run_study`. They print nothing; what they have to say is logged
under `depthprune`, and where logging is not set up, Python shows the warnings among it on stderr.

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

if TYPE_CHECKING:
    from depthprune.calibration.calibration import Calibration, calibrate
    from depthprune.calibration.spec import CalibrationSpec
    from depthprune.evaluator.cost import Cost
    from depthprune.evaluator.evaluator import Evaluator
    from depthprune.evaluator.memo.store import Memo
    from depthprune.evaluator.racing.settings import Racing
    from depthprune.evaluator.score import Score, increase
    from depthprune.models.loading import Model, load
    from depthprune.pruning.apply import apply
    from depthprune.pruning.bench import bench
    from depthprune.pruning.drafting.bench_draft import bench_draft
    from depthprune.pruning.evaluate import evaluate
    from depthprune.pruning.prune import prune
    from depthprune.pruning.recovering.recover import recover_checkpoint
    from depthprune.pruning.score import score
    from depthprune.recovery.lora.distil import distil
    from depthprune.recovery.methods import LoRA
    from depthprune.recovery.recover import recover
    from depthprune.recovery.result import Recovery, recovered
    from depthprune.searches.budget import Budget
    from depthprune.searches.driver import Result, search
    from depthprune.study.run import run_study

_PLACES = {
    "Budget": "searches.budget",
    "Calibration": "calibration.calibration",
    "CalibrationSpec": "calibration.spec",
    "Cost": "evaluator.cost",
    "Evaluator": "evaluator.evaluator",
    "LoRA": "recovery.methods",
    "Memo": "evaluator.memo.store",
    "Model": "models.loading",
    "Racing": "evaluator.racing.settings",
    "Recovery": "recovery.result",
    "Result": "searches.driver",
    "Score": "evaluator.score",
    "apply": "pruning.apply",
    "bench": "pruning.bench",
    "bench_draft": "pruning.drafting.bench_draft",
    "calibrate": "calibration.calibration",
    "distil": "recovery.lora.distil",
    "evaluate": "pruning.evaluate",
    "increase": "evaluator.score",
    "load": "models.loading",
    "prune": "pruning.prune",
    "recover": "recovery.recover",
    "recover_checkpoint": "pruning.recovering.recover",
    "recovered": "recovery.result",
    "run_study": "study.run",
    "score": "pruning.score",
    "search": "searches.driver",
}

__version__: str

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
    "bench",
    "bench_draft",
    "calibrate",
    "distil",
    "evaluate",
    "increase",
    "load",
    "prune",
    "recover",
    "recover_checkpoint",
    "recovered",
    "run_study",
    "score",
    "search",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        value: Any = import_module("depthprune.manifest").versions().depthprune
    elif name not in _PLACES:
        raise AttributeError(f"module 'depthprune' has no attribute {name!r}")
    else:
        value = getattr(import_module(f"depthprune.{_PLACES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
