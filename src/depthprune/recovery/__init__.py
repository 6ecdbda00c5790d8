"""Recovery: mending what removal broke, by changing weights that are there already."""

from depthprune.recovery.linear.write_back import stored
from depthprune.recovery.lora.distil import distil, plan_key, require_trainable, require_trainer
from depthprune.recovery.lora.distillation_data import require_windows
from depthprune.recovery.magnitude.rescale import rescale
from depthprune.recovery.methods import Last, Linear, LoRA, Magnitude, Method, Trained, parse_method
from depthprune.recovery.recover import (
    recover,
    refuse_quantized_config,
    require_tokens,
)
from depthprune.recovery.result import Change, Recovery, RunRecovery, Training, recovered
from depthprune.recovery.scorer import RecoveringRehearsal, RecoveringScorer
from depthprune.recovery.splits import as_text

__all__ = [
    "Change",
    "Last",
    "Linear",
    "LoRA",
    "Magnitude",
    "Method",
    "RecoveringRehearsal",
    "RecoveringScorer",
    "Recovery",
    "RunRecovery",
    "Trained",
    "Training",
    "as_text",
    "distil",
    "parse_method",
    "plan_key",
    "recover",
    "recovered",
    "refuse_quantized_config",
    "require_tokens",
    "require_trainable",
    "require_trainer",
    "require_windows",
    "rescale",
    "stored",
]
