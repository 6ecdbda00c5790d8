"""Parity: the written checkpoint computes exactly what the masked model did."""

from depthprune.models.parity.comparison import verify, verify_checkpoint
from depthprune.models.parity.reloading import reload, reload_like

__all__ = ["reload", "reload_like", "verify", "verify_checkpoint"]
