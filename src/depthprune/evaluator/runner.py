"""Runs removed sets on windows in one process: an evaluator's own, or a worker's.

Whatever a loss rounds by is decided here, so that both have the same losses: which windows share a
call, whether attention is computed by products, and in how large chunks the head is run.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property

import numpy as np
import torch

from depthprune.calibration import Window
from depthprune.evaluator.batches import reads_packed_items
from depthprune.evaluator.calls import Calls
from depthprune.evaluator.forward import Forward
from depthprune.evaluator.losses import Losses
from depthprune.evaluator.memory import state_budget
from depthprune.models.attention import AttentionHeads, fast_attention, products_are_faster
from depthprune.models.devices import DTYPES
from depthprune.models.loading import Model
from depthprune.objectives import Mixture


class Runner:
    """What runs the windows of one calibration through one model.

    Args:
        model: A loaded model.
        windows: The calibration's.
        objective: What judges.
        memory: Bytes that hidden states may take; None for a share of what is free.
        batch_tokens: Up to how many tokens share a call, where memory holds them.
        products: Whether attention is computed by products.

    Attributes:
        judged: Which windows each component of the objective judges, shape (components, windows).
        memory: Bytes that hidden states may take.
        batch_tokens: Up to how many tokens share a call.
        losses: Makes losses of final states.
        forward: Runs blocks on states.

    Raises:
        UsageError: If `memory` is below what two states of the longest window take.
    """

    def __init__(
        self,
        model: Model,
        windows: Sequence[Window],
        objective: Mixture,
        memory: int | None,
        batch_tokens: int,
        *,
        products: bool,
    ) -> None:
        self.model = model
        self.windows = windows
        self.objective = objective
        self.products = products
        self.judged = np.array(objective.judged(windows))
        self.losses = Losses(model, objective, windows, self.judged)
        budget = state_budget(model, windows, memory, batch_tokens)
        self.memory = budget.bytes
        self.batch_tokens = min(budget.batch_tokens, batch_tokens)
        self.forward = Forward(model, self.losses, budget.bytes)

    @cached_property
    def calls(self) -> Calls:
        """Which windows share a call; what that depends on is tried when it is first needed."""
        packs = reads_packed_items(self.model, self.windows)
        attention = "products" if self.products else ""
        with self.attention():
            return Calls(
                self.model, self.windows, self.batch_tokens, packs=packs, attention=attention
            )

    def call_key(self, place: int) -> str:
        """What a window's loss rounds by: the shape of its call, and how the head is run."""
        return self.calls.key(place) + self.losses.rounding

    def attention(self) -> AbstractContextManager[None]:
        """Inside it attention is computed as it is for losses."""
        return fast_attention() if self.products else nullcontext()


def attends_by_products(model: Model) -> bool:
    """Whether products take clearly less time on the model's device than its own attention."""
    if torch.device(model.device).type != "cpu":
        return False
    return products_are_faster(AttentionHeads.of(model.module.config), DTYPES[model.dtype])
