"""Kullback–Leibler divergence between the dense and the pruned model's next-token distributions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from depthprune.bounds import check_bounds
from depthprune.objectives.base import TokenObjective
from depthprune.objectives.tiles import DenseTiles, LogSumExp, OwnLogits, TileLosses, by_columns

if TYPE_CHECKING:
    from torch import Tensor

Direction = Literal["forward", "reverse"]


@dataclass(frozen=True)
class KL(TokenObjective):
    """Mean KL over tokens, in nats; 0 for the dense model itself.

    Forward is KL(dense ‖ pruned), which asks for everything the dense model would say; reverse is
    KL(pruned ‖ dense), which forgives what is forgotten. With `top`, all tokens but the dense
    model's `top` most probable count as one: a lower bound of the exact value that grows with
    `top` (by the data-processing inequality).

    Source: EvoPress (arXiv 2410.14649), whose default is forward; arXiv 2604.24938.

    Attributes:
        direction: `forward` or `reverse`.
        top: How many tokens are told apart; 0 is all of them.
    """

    direction: Direction = "forward"
    top: Annotated[int, Field(ge=0, description="0 (all tokens) or more")] = 0

    summary: ClassVar[str] = (
        "divergence from the dense model's next-token distribution, nats a token; "
        "direction=forward|reverse, top=K"
    )
    compares: ClassVar[bool] = True
    passes: ClassVar[int] = 1

    def __post_init__(self) -> None:
        check_bounds("objective kl", self)

    @property
    def name(self) -> str:
        """With the parameters that are not the defaults."""
        chosen = []
        if self.direction != "forward":
            chosen.append(f"direction={self.direction}")
        if self.top:
            chosen.append(f"top={self.top}")
        return ":".join(["kl", ",".join(chosen)] if chosen else ["kl"])

    def token_losses(self, outputs: Tensor, targets: Tensor, dense: Tensor | None) -> Tensor:
        """See `Objective.token_losses`; computed in float32 whatever the logits' dtype."""
        if dense is None:
            raise ValueError("kl compares with the dense model's logits")
        return by_columns(self, outputs, targets, dense)

    def dense_tiles(self) -> DenseTiles:
        """See `Tiled.dense_tiles`."""
        return _DenseTop(self.top) if self.top else _Dense()

    def tile_losses(self, dense: DenseTiles | None) -> TileLosses:
        """See `Tiled.tile_losses`."""
        if isinstance(dense, _DenseTop):
            return _Top(dense, self.direction)
        assert isinstance(dense, _Dense)
        return _Forward(dense) if self.direction == "forward" else _Reverse(dense)


class _Dense(DenseTiles):
    """The dense model's logits of the tile at hand, and their exponentials."""

    def __init__(self) -> None:
        self.all = LogSumExp()

    def see(self, logits: Tensor) -> None:
        self.logits = logits
        self.weights = self.all.add(logits.clone())


class _Exact(TileLosses):
    """Σ p log(p/q) = Σ p (a − b) − log Σ exp a + log Σ exp b, of p and q the logits a and b."""

    def __init__(self, dense: _Dense) -> None:
        self._dense = dense
        self._all = LogSumExp()
        self._sum: Tensor | None = None

    def _add(self, p: LogSumExp, weights: Tensor, apart: Tensor) -> None:
        # Where p is 0 the term is 0, whatever q is.
        apart.nan_to_num_(nan=0.0, posinf=float("inf"), neginf=0.0)
        terms = apart.mul_(weights).sum(-1)
        if self._sum is not None and p.rescale is not None:
            terms += self._sum * p.rescale
        self._sum = terms

    def _divergence(self, p: LogSumExp, q: LogSumExp) -> Tensor:
        assert self._sum is not None
        # Rounding may leave a divergence of nothing a hair below it.
        return (self._sum / p.total - (p.value - q.value)).clamp(min=0.0)


class _Forward(_Exact):
    def see(self, logits: Tensor) -> None:
        apart = self._dense.logits - logits
        self._all.add(logits)
        self._add(self._dense.all, self._dense.weights, apart)

    def losses(self, own: OwnLogits) -> Tensor:
        return self._divergence(self._dense.all, self._all)


class _Reverse(_Exact):
    def see(self, logits: Tensor) -> None:
        apart = logits - self._dense.logits
        self._add(self._all, self._all.add(logits), apart)

    def losses(self, own: OwnLogits) -> Tensor:
        return self._divergence(self._all, self._dense.all)


class _Largest:
    """The logits of the dense model's most probable tokens so far, and all others' sum."""

    def __init__(self) -> None:
        self._values: Tensor | None = None
        self._rest = LogSumExp()

    def pool(self, logits: Tensor) -> Tensor:
        """What the most probable tokens are next chosen from."""
        import torch

        return logits if self._values is None else torch.cat([self._values, logits], dim=1)

    def keep(self, pool: Tensor, chosen: Tensor) -> None:
        """Keep those of a pool that are chosen; the others join the rest for good."""
        self._values = pool.gather(1, chosen)
        self._rest.add(pool.scatter(1, chosen, float("-inf")))

    def log_probabilities(self) -> Tensor:
        """Of the tokens kept, in one order for all, and of all others together."""
        import torch

        assert self._values is not None
        every = torch.cat([self._values, self._rest.value[:, None]], dim=1)
        return every.log_softmax(-1)


class _DenseTop(DenseTiles):
    def __init__(self, top: int) -> None:
        self._top = top
        self.largest = _Largest()

    def see(self, logits: Tensor) -> None:
        pool = self.largest.pool(logits)
        self.chosen = pool.topk(min(self._top, pool.shape[1]), dim=1).indices
        self.largest.keep(pool, self.chosen)


class _Top(TileLosses):
    def __init__(self, dense: _DenseTop, direction: Direction) -> None:
        self._dense = dense
        self._direction = direction
        self._largest = _Largest()

    def see(self, logits: Tensor) -> None:
        self._largest.keep(self._largest.pool(logits), self._dense.chosen)

    def losses(self, own: OwnLogits) -> Tensor:
        import torch

        ours, theirs = self._largest, self._dense.largest
        p, q = theirs.log_probabilities(), ours.log_probabilities()
        if self._direction == "reverse":
            p, q = q, p
        # Where p is 0 the term is 0, whatever q is.
        terms = torch.where(p.isneginf(), 0.0, p.exp() * (p - q))
        return terms.sum(-1).clamp(min=0.0)
