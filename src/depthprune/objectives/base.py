"""What an objective is to the evaluator.

The evaluator owns the walk through the blocks and the chunks of the head. An objective sees the
outputs for a few hundred tokens at a time and answers with one loss a token; then it sees the token
losses of one window and makes them the window's loss. Lower is better. One that compares with the
dense model is given the dense model's outputs for the same tokens.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from depthprune.calibration import Window

if TYPE_CHECKING:
    from torch import Tensor

Reads = Literal["logits", "states"]
TokenLosses = NDArray[np.float64]


class Objective(Protocol):
    """Maps a model's outputs on a window to a loss; derive from `TokenObjective` for the rest."""

    @property
    def name(self) -> str:
        """The name by which it is asked for, with its parameters."""

    @property
    def summary(self) -> str:
        """A line about it."""

    @property
    def has_perplexity(self) -> bool:
        """Whether exp(loss) is a perplexity."""

    @property
    def reads(self) -> Reads:
        """Whether it is given logits, or the hidden states behind the last block."""

    @property
    def compares(self) -> bool:
        """Whether it is given the dense model's outputs too."""

    @property
    def items_only(self) -> bool:
        """Whether it judges items of options and nothing else."""

    @property
    def bounds(self) -> tuple[float, float] | None:
        """The range of a window's loss, where there is one; strict bounds then race."""

    def token_losses(self, outputs: Tensor, targets: Tensor, dense: Tensor | None) -> Tensor:
        """Losses of some scored tokens.

        Args:
            outputs: For the position before each token: logits, shape (n, vocabulary), or hidden
                states, shape (n, width); in the model's dtype.
            targets: The tokens, shape (n,), int64.
            dense: The dense model's outputs, of the same shape, if the objective compares.

        Returns:
            Shape (n,), float32.
        """

    def window_loss(self, losses: TokenLosses, window: Window) -> float:
        """The loss of one window.

        Args:
            losses: Of its scored tokens, in order, shape (scored,).
            window: The window.
        """


class TokenObjective:
    """An objective that is the mean over a window's scored tokens; of an item, its answer's."""

    has_perplexity: ClassVar[bool] = False
    reads: ClassVar[Reads] = "logits"
    compares: ClassVar[bool] = False
    items_only: ClassVar[bool] = False
    bounds: ClassVar[tuple[float, float] | None] = None

    def window_loss(self, losses: TokenLosses, window: Window) -> float:
        """See `Objective.window_loss`."""
        item = window.item
        if item is not None:
            losses = option_losses(losses, window)[item.answer]
        return float(np.mean(losses))


def option_losses(losses: TokenLosses, window: Window) -> list[TokenLosses]:
    """The token losses of an item, option by option."""
    if window.item is None:
        raise ValueError("the window is no item")
    ends = np.cumsum([stop - start for start, stop in window.item.spans])
    return np.split(losses, ends[:-1])
