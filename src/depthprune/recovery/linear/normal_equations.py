"""What a fit needs to know of the tokens: two d × d sums, and no token.

With m what the kept block adds by its MLP and e what the state behind it lacks against the dense
model's behind the run, `T = I + D` is to make D m near e. Σ m mᵀ, Σ e mᵀ and Σ |e|² fix every
least-squares solution and its error on those tokens; they are added up in float64.
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
        moments: Σ w m mᵀ, shape (width, width), float64.
        products: Σ w e mᵀ, shape (width, width), float64.
        squares: Σ w |e|².
        spread: Σ w |m|² over the ordinary tokens alone.
        tokens: How many ordinary tokens.
    """

    moments: Tensor
    products: Tensor
    squares: float = 0.0
    spread: float = 0.0
    tokens: int = 0

    @classmethod
    def empty(cls, width: int, device: torch.device) -> Sums:
        """Nothing yet; on a device without float64, held by the processor."""
        zeros = torch.zeros(width, width, dtype=torch.float64, device=wide_place(device))
        return cls(zeros, zeros.clone())

    def add(self, added: Tensor, lacking: Tensor, weight: float = 1.0) -> None:
        """Add ordinary tokens.

        Args:
            added: m, shape (tokens, width), float64.
            lacking: e, of the same shape.
            weight: w, of each of these tokens.
        """
        m, e = added.to(self.moments), lacking.to(self.moments)
        self.moments += weight * (m.T @ m)
        self.products += weight * (e.T @ m)
        self.squares += weight * e.pow(2).sum().item()
        self.spread += weight * m.pow(2).sum().item()
        self.tokens += len(m)

    def hold(self, added: Tensor, weight: float = 1.0) -> None:
        """Add tokens whose m shall stay as it is: e counts as zero for them."""
        m = added.to(self.moments)
        self.moments += weight * (m.T @ m)

    def error(self, change: Tensor, strength: float = 1.0) -> float:
        """Σ w |e − strength · D m|², for D = `change`."""
        linear, quadratic = self.terms(change)
        return self.squares - 2 * strength * linear + strength**2 * quadratic

    def terms(self, change: Tensor) -> tuple[float, float]:
        """Σ w eᵀD m and Σ w |D m|²."""
        linear = (change * self.products).sum().item()
        quadratic = ((change @ self.moments) * change).sum().item()
        return linear, quadratic
