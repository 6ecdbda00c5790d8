"""What an objective is to the evaluator.

The evaluator owns the walk through the blocks and the chunks of the head; an objective sees the
logits of a few hundred tokens at a time and answers with one loss a token. Lower is better.
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class Objective(Protocol):
    """Maps a model's outputs on a window to a loss."""

    @property
    def name(self) -> str:
        """The name by which it is asked for, with its parameters."""

    @property
    def summary(self) -> str:
        """A line about it."""

    @property
    def has_perplexity(self) -> bool:
        """Whether exp(loss) is a perplexity."""

    def token_losses(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Losses of some scored tokens.

        Args:
            logits: The model's logits before each token, shape (n, vocabulary), its dtype.
            targets: The tokens, shape (n,), int64.

        Returns:
            Shape (n,), float32.
        """
