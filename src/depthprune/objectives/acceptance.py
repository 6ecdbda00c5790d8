"""How often a pruned model's token would be accepted as a draft of the dense model's."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from depthprune.calibration import Window
from depthprune.errors import UsageError
from depthprune.objectives.base import TokenLosses, TokenObjective, option_losses
from depthprune.objectives.tiles import DenseTiles, LogSumExp, OwnLogits, TileLosses, by_columns

if TYPE_CHECKING:
    from torch import Tensor

LEAST = 2.0**-10
"""An acceptance below it counts as it: as a draft either is worth nothing, and the loss is bounded,
so that races have a strict bound."""


@dataclass(frozen=True)
class Acceptance(TokenObjective):
    """−log of the expected acceptance by speculative sampling; 0 for the dense model itself.

    A token drawn from the pruned model's distribution q is accepted with probability Σ min(p, q)
    over the vocabulary, p the dense model's; a token's loss is the chance that it is not. A
    window's acceptance is the mean over its tokens. With `temperature=0` both models take their
    likeliest token, and it is accepted where they agree.

    Source: Leviathan, Kalman and Matias (arXiv 2211.17192), corollary 3.6.

    Attributes:
        temperature: What both models' logits are divided by; 0 is greedy.
    """

    temperature: float = 1.0

    summary: ClassVar[str] = (
        "how seldom the dense model would accept the pruned one's tokens as a draft; temperature=T"
    )
    compares: ClassVar[bool] = True
    bounds: ClassVar[tuple[float, float] | None] = (0.0, -math.log(LEAST))

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < math.inf:
            raise UsageError(
                "acceptance: temperature: expected 0 (greedy) or a number above it, got "
                f"{self.temperature:g}"
            )

    @property
    def name(self) -> str:
        """With the temperature where it is not 1, in full: losses are kept under the name."""
        chosen = f":temperature={str(self.temperature).removesuffix('.0')}"
        return "acceptance" + (chosen if self.temperature != 1 else "")

    @property
    def passes(self) -> int:
        """The sum needs both distributions, which need all logits first; greedy needs neither."""
        return 2 if self.temperature else 1

    def token_losses(self, outputs: Tensor, targets: Tensor, dense: Tensor | None) -> Tensor:
        """See `Objective.token_losses`: 1 − acceptance; in float32 whatever the logits' dtype."""
        if dense is None:
            raise ValueError("acceptance compares with the dense model's logits")
        return by_columns(self, outputs, targets, dense)

    def window_loss(self, losses: TokenLosses, window: Window) -> float:
        """See `Objective.window_loss`: −log of the mean acceptance; of an item, its answer's."""
        if window.item is not None:
            losses = option_losses(losses, window)[window.item.answer]
        accepted = 1.0 - float(np.mean(losses))
        return accepted if math.isnan(accepted) else -math.log(max(accepted, LEAST))

    def dense_tiles(self) -> DenseTiles:
        """See `Tiled.dense_tiles`."""
        return _Dense(self.temperature) if self.temperature else _DenseLikeliest()

    def tile_losses(self, dense: DenseTiles | None) -> TileLosses:
        """See `Tiled.tile_losses`."""
        if isinstance(dense, _DenseLikeliest):
            return _Agrees(dense)
        assert isinstance(dense, _Dense)
        return _Overlap(dense)


class _Sampled:
    """Log-probabilities at a temperature: the first pass sums, the second gives them."""

    def __init__(self, temperature: float) -> None:
        self._temperature = temperature
        self._all = LogSumExp()
        self._sum: Tensor | None = None

    def tile(self, logits: Tensor) -> Tensor | None:
        """Log-probabilities of the tile's tokens; None in the first pass."""
        logits = logits if self._temperature == 1 else logits.div_(self._temperature)
        if self._sum is None:
            self._all.add(logits)
            return None
        return logits.sub_(self._sum[:, None])

    def turn(self) -> None:
        self._sum = self._all.value


class _Dense(DenseTiles):
    def __init__(self, temperature: float) -> None:
        self.temperature = temperature
        self._sampled = _Sampled(temperature)

    def see(self, logits: Tensor) -> None:
        self.log = self._sampled.tile(logits)

    def turn(self) -> None:
        self._sampled.turn()


class _Overlap(TileLosses):
    def __init__(self, dense: _Dense) -> None:
        self._dense = dense
        self._sampled = _Sampled(dense.temperature)
        self._accepted: Tensor | None = None

    def see(self, logits: Tensor) -> None:
        import torch

        log = self._sampled.tile(logits)
        if log is None or self._dense.log is None:
            return
        shared = torch.minimum(log, self._dense.log).exp_().sum(-1)
        self._accepted = shared if self._accepted is None else self._accepted + shared

    def turn(self) -> None:
        self._sampled.turn()

    def losses(self, own: OwnLogits) -> Tensor:
        assert self._accepted is not None
        return (1.0 - self._accepted).clamp(min=0.0, max=1.0)


class _Likeliest:
    """The first of the likeliest tokens so far."""

    def __init__(self) -> None:
        self.token: Tensor | None = None
        self._logit: Tensor | None = None
        self._first = 0

    def see(self, logits: Tensor) -> None:
        import torch

        found = logits.max(-1)
        token = found.indices + self._first
        self._first += logits.shape[1]
        if self._logit is None or self.token is None:
            self._logit, self.token = found.values, token
            return
        # What is no number is kept, so that the loss is none either.
        better = ~(found.values <= self._logit)
        self.token = torch.where(better, token, self.token)
        self._logit = torch.where(better, found.values, self._logit)

    def agrees(self, other: _Likeliest) -> Tensor:
        """1 where they are the same token, not a number where a logit is none; float32."""
        assert self.token is not None
        assert other.token is not None
        assert self._logit is not None
        assert other._logit is not None
        return self.token.eq(other.token).float() + 0.0 * (self._logit + other._logit)


class _DenseLikeliest(DenseTiles):
    def __init__(self) -> None:
        self.likeliest = _Likeliest()

    def see(self, logits: Tensor) -> None:
        self.likeliest.see(logits)


class _Agrees(TileLosses):
    def __init__(self, dense: _DenseLikeliest) -> None:
        self._dense = dense
        self._likeliest = _Likeliest()

    def see(self, logits: Tensor) -> None:
        self._likeliest.see(logits)

    def losses(self, own: OwnLogits) -> Tensor:
        return 1.0 - self._likeliest.agrees(self._dense.likeliest)
