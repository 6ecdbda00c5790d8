"""Objectives of items: a prompt, its options, and which of them is right.

All start from ll, the log-likelihood of an option given the prompt. How ll is measured decides
much: summed over tokens it is the option's probability and favours short options; the mean over
tokens, characters or UTF-8 bytes is not a probability, and favours none by its length.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from depthprune.bounds import check_bounds
from depthprune.calibration import Window
from depthprune.objectives.base import TokenLosses, TokenObjective, option_losses
from depthprune.objectives.nll import NLLTiles, token_nll
from depthprune.objectives.tiles import DenseTiles, TileLosses

if TYPE_CHECKING:
    from torch import Tensor

By = Literal["sum", "token", "char", "byte"]


class _Choices(TokenObjective, ABC):
    items_only: ClassVar[bool] = True
    passes: ClassVar[int] = 1

    def token_losses(self, outputs: Tensor, targets: Tensor, dense: Tensor | None) -> Tensor:
        """See `Objective.token_losses`: −log p of each token of each option."""
        return token_nll(outputs, targets)

    def dense_tiles(self) -> DenseTiles | None:
        """See `Tiled.dense_tiles`."""
        return None

    def tile_losses(self, dense: DenseTiles | None) -> TileLosses:
        """See `Tiled.tile_losses`."""
        return NLLTiles()

    @abstractmethod
    def window_loss(self, losses: TokenLosses, window: Window) -> float:
        """See `Objective.window_loss`."""


def likelihoods(losses: TokenLosses, window: Window, by: str) -> TokenLosses:
    """The log-likelihood of each option of an item, shape (options,).

    Args:
        losses: −log p of the options' tokens, in order.
        window: The item.
        by: `sum`, `token` (mean over the option's tokens), `char` or `byte` (mean over the
            characters or the UTF-8 bytes of its text, without the space before it).
    """
    options = option_losses(losses, window)
    divisors = np.ones(len(options))
    if by == "token":
        divisors = np.array([float(len(option)) for option in options])
    elif window.item is not None and by in ("char", "byte"):
        sizes = window.item.characters if by == "char" else None
        divisors = np.array(sizes or window.item.bytes, dtype=np.float64)
    answer: TokenLosses = np.array([-option.sum() for option in options]) / divisors
    return answer


@dataclass(frozen=True)
class Margin(_Choices):
    """−[(n−1)·ll(right) − Σ ll(wrong)], ll a mean over tokens; unbounded below.

    An item of four options weighs three times one of two; `normalised` divides by n−1.
    Source: PuDDing (arXiv 2502.04348); arXiv 2604.24938, calibration (b).
    """

    normalised: bool = False

    summary: ClassVar[str] = (
        "how far the right option's likelihood is above the wrong ones'; normalised=true|false"
    )

    @property
    def name(self) -> str:
        """With the parameters that are not the defaults."""
        return "margin:normalised=true" if self.normalised else "margin"

    def window_loss(self, losses: TokenLosses, window: Window) -> float:
        """See `Objective.window_loss`."""
        found = likelihoods(losses, window, "token")
        right = found[window.item.answer]  # type: ignore[union-attr]
        others = len(found) - 1
        margin = others * right - (found.sum() - right)
        return -float(margin / others if self.normalised else margin)


@dataclass(frozen=True)
class OptionCE(_Choices):
    """−log softmax(ll over the options)[right]; bounded below by 0.

    Attributes:
        by: How ll is measured: `sum`, `token`, `char` or `byte`.
    """

    by: By = "sum"

    summary: ClassVar[str] = "cross-entropy of the right option among all; by=sum|token|char|byte"

    def __post_init__(self) -> None:
        check_bounds("objective option-ce", self)

    @property
    def name(self) -> str:
        """With the parameters that are not the defaults."""
        return "option-ce" if self.by == "sum" else f"option-ce:by={self.by}"

    def window_loss(self, losses: TokenLosses, window: Window) -> float:
        """See `Objective.window_loss`."""
        found = likelihoods(losses, window, self.by)
        top = found.max()
        total = top + np.log(np.exp(found - top).sum())
        return float(total - found[window.item.answer])  # type: ignore[union-attr]


@dataclass(frozen=True)
class Accuracy(_Choices):
    """1 − accuracy: 0 where the most likely option is the right one, 1 where it is not.

    Of options that are equally likely the first counts, as in lm-evaluation-harness, where `sum`
    is `acc`, `char` is `acc_norm` and `byte` is `acc_bytes`.

    Attributes:
        by: How ll is measured: `sum`, `token`, `char` or `byte`.
    """

    by: By = "sum"

    summary: ClassVar[str] = (
        "share of items whose most likely option is wrong; by=sum|token|char|byte"
    )
    bounds: ClassVar[tuple[float, float] | None] = (0.0, 1.0)

    def __post_init__(self) -> None:
        check_bounds("objective accuracy", self)

    @property
    def name(self) -> str:
        """With the parameters that are not the defaults."""
        return "accuracy" if self.by == "sum" else f"accuracy:by={self.by}"

    def window_loss(self, losses: TokenLosses, window: Window) -> float:
        """See `Objective.window_loss`; NaN where a likelihood is."""
        found = likelihoods(losses, window, self.by)
        if np.isnan(found).any():
            return float("nan")
        return float(int(np.argmax(found)) != window.item.answer)  # type: ignore[union-attr]
