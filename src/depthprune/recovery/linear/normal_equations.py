"""What a fit is made of: sums of products over tokens, in float64.

With x what a weight is given for a token (or m what an MLP adds) and e what is lacking there, the
change D is to make D x near e. Σ x xᵀ, Σ e xᵀ and Σ e² fix every least-squares solution and its
error on those tokens; they are added up in float64.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from depthprune.models.devices import wide_place


def wide(tensor: Tensor) -> Tensor:
    """A copy in float64, held by the processor where the device has no float64."""
    return tensor.to(wide_place(tensor.device)).to(torch.float64, copy=True)


@dataclass
class Sums:
    """Sums over the tokens of some windows.

    Attributes:
        moments: Σ w x xᵀ, shape (inputs, inputs), float64.
        products: Σ w e xᵀ, shape (outputs, inputs), float64.
        channels: Σ w e², shape (outputs,), float64.
        spread: Σ w |x|² over the ordinary tokens alone.
        tokens: How many ordinary tokens.
    """

    moments: Tensor
    products: Tensor
    channels: Tensor
    spread: float = 0.0
    tokens: int = 0

    @classmethod
    def empty(cls, width: int, device: torch.device, outputs: int | None = None) -> Sums:
        """Nothing yet; on a device without float64, held by the processor."""
        place = wide_place(device)
        rows = width if outputs is None else outputs
        moments = torch.zeros(width, width, dtype=torch.float64, device=place)
        products = torch.zeros(rows, width, dtype=torch.float64, device=place)
        return cls(moments, products, torch.zeros(rows, dtype=torch.float64, device=place))

    @property
    def squares(self) -> float:
        """Σ w |e|²."""
        return self.channels.sum().item()

    def add(self, given: Tensor, lacking: Tensor, weight: float = 1.0) -> None:
        """Add ordinary tokens.

        Args:
            given: x, shape (tokens, inputs), float64.
            lacking: e, shape (tokens, outputs).
            weight: w, of each of these tokens.
        """
        x, e = given.to(self.moments), lacking.to(self.moments)
        self.moments += weight * (x.T @ x)
        self.products += weight * (e.T @ x)
        self.channels += weight * e.pow(2).sum(0)
        self.spread += weight * x.pow(2).sum().item()
        self.tokens += len(x)

    def hold(self, given: Tensor, weight: float = 1.0) -> None:
        """Add tokens for which nothing shall change: e counts as zero for them."""
        x = given.to(self.moments)
        self.moments += weight * (x.T @ x)

    def rows(self, first: int, last: int) -> Sums:
        """The same of some outputs alone; the moments are shared."""
        return Sums(
            self.moments,
            self.products[first:last],
            self.channels[first:last],
            self.spread,
            self.tokens,
        )
