"""Losses of tokens from logits that come a tile of the vocabulary at a time.

Whoever computes logits shows them to a `TileLosses`, some columns after the other, and those of the
dense model first to what an objective keeps of that. Sums over the vocabulary are online: each is
held relative to the largest logit so far and scaled when a larger one comes, so that nothing
overflows and nothing is ever as long as the vocabulary. All of it is float32.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from torch import Tensor

COLUMNS, ROWS = 2048, 64
"""Of a tile on a processor: what a core's own cache holds in float32, several times. The product is
made for more rows at once, up to a chunk."""

COLUMNS_ELSEWHERE = 16_384


@dataclass(frozen=True)
class OwnLogits:
    """Of each row's own target, shape (n,), float32.

    Attributes:
        seen: As it stood in its tile, where a product of few bits had rounded it.
        exact: As the states and the target's weights make it in float32.
    """

    seen: Tensor
    exact: Tensor


class TileLosses(ABC):
    """Makes losses of tiles."""

    @abstractmethod
    def see(self, logits: Tensor) -> None:
        """Take the next tile, shape (n, columns), float32, to keep or to change."""

    def turn(self) -> None:  # noqa: B027 - one that needs one pass has nothing to do
        """All of the vocabulary was seen; where there is another pass, it begins."""

    @abstractmethod
    def losses(self, own: OwnLogits) -> Tensor:
        """What came of it, shape (n,), float32.

        Args:
            own: Logits of the rows' targets.
        """


class DenseTiles(ABC):
    """What an objective keeps of the dense model's tiles, once for all sets compared with it."""

    @abstractmethod
    def see(self, logits: Tensor) -> None:
        """Take the next tile; the sets' tiles of the same columns come next."""

    def turn(self) -> None:  # noqa: B027
        """As of `TileLosses`."""


@runtime_checkable
class Tiled(Protocol):
    """An objective that can read logits by tiles."""

    @property
    def passes(self) -> int:
        """How often it must see the vocabulary."""

    def dense_tiles(self) -> DenseTiles | None:
        """What will take the dense model's tiles; None if it compares with nothing."""

    def tile_losses(self, dense: DenseTiles | None) -> TileLosses:
        """What will take one set's tiles, beside what `dense_tiles` gave."""


def is_tiled(objective: object) -> bool:
    """Whether an objective's losses by tiles are those of its `token_losses`.

    One that is derived from a tiled one and changes what a token's loss is has none of its own.
    """
    if not isinstance(objective, Tiled):
        return False
    owner = next(kind for kind in type(objective).__mro__ if "token_losses" in vars(kind))
    return "tile_losses" in vars(owner)


class LogSumExp:
    """log Σ exp, online.

    Attributes:
        rescale: By what sums relative to the largest logit of earlier tiles are multiplied, to be
            relative to the largest so far; shape (n,).
    """

    def __init__(self) -> None:
        self.rescale: Tensor | None = None
        self._top: Tensor | None = None
        self._total: Tensor | None = None

    def add(self, logits: Tensor) -> Tensor:
        """Take the next tile; it becomes exp of itself, relative to the largest so far."""
        import torch

        top = logits.amax(-1)
        if self._top is not None:
            top = torch.maximum(top, self._top)
        # A row of nothing but −∞ so far has no largest number to be relative to.
        top = top.clamp(min=torch.finfo(torch.float32).min)
        weights = logits.sub_(top[:, None]).exp_()
        total = weights.sum(-1)
        if self._total is None or self._top is None:
            self.rescale = torch.ones_like(total)
        else:
            self.rescale = (self._top - top).exp_()
            total += self._total * self.rescale
        self._top, self._total = top, total
        return weights

    def replace(self, logits: Tensor, others: Tensor) -> None:
        """Count other logits in the place of some that were taken, one a row, shape (n,)."""
        import torch

        assert self._top is not None
        top = torch.maximum(self._top, others)
        kept = (self.total - (logits - self._top).exp_()).clamp_(min=0.0)
        self._total = kept * (self._top - top).exp_() + (others - top).exp_()
        self._top = top

    @property
    def total(self) -> Tensor:
        """Σ exp, relative to the largest logit."""
        assert self._total is not None
        return self._total

    @property
    def value(self) -> Tensor:
        """The sum's logarithm, shape (n,)."""
        assert self._top is not None
        return self._top + self.total.log()


def by_columns(objective: Tiled, outputs: Tensor, targets: Tensor, dense: Tensor | None) -> Tensor:
    """An objective's losses of whole logits, taken by tiles; as `Objective.token_losses`."""
    import torch

    found = []
    for rows in row_blocks(len(outputs), outputs.device.type):
        theirs = None if dense is None else objective.dense_tiles()
        ours = objective.tile_losses(theirs)
        for _ in range(objective.passes):
            for columns in tiles(outputs.shape[1], outputs.device.type):
                if theirs is not None and dense is not None:
                    theirs.see(dense[rows, columns].to(torch.float32, copy=True))
                ours.see(outputs[rows, columns].to(torch.float32, copy=True))
            if theirs is not None:
                theirs.turn()
            ours.turn()
        own = outputs[rows].gather(1, targets[rows, None])[:, 0].float()
        found.append(ours.losses(OwnLogits(own, own)))
    return torch.cat(found)


def tiles(vocabulary: int, device: str) -> Iterator[slice]:
    """The columns of each tile on a kind of device."""
    columns = columns_of(device)
    for first in range(0, vocabulary, columns):
        yield slice(first, min(first + columns, vocabulary))


def columns_of(device: str) -> int:
    """How many columns a tile has on a kind of device."""
    return COLUMNS if device == "cpu" else COLUMNS_ELSEWHERE


def row_blocks(count: int, device: str) -> Iterator[slice]:
    """The rows of each tile on a kind of device, of so many."""
    rows = ROWS if device == "cpu" else max(1, count)
    for first in range(0, count, rows):
        yield slice(first, min(first + rows, count))
