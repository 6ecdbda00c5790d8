"""Recovery: mending what removal broke, by weights that are there already."""

from depthprune.recovery.recover import recover, refuse_quantized_config, require_tokens
from depthprune.recovery.result import Change, Recovery, RunRecovery, recovered
from depthprune.recovery.scorer import RecoveringRehearsal, RecoveringScorer
from depthprune.recovery.stored import stored

__all__ = [
    "Change",
    "RecoveringRehearsal",
    "RecoveringScorer",
    "Recovery",
    "RunRecovery",
    "recover",
    "recovered",
    "refuse_quantized_config",
    "require_tokens",
    "stored",
]
