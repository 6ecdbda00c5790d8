"""What recovery adds to a weight: a matrix as it was fitted, a factor, or two thin matrices.

It is written into the model's weight and into the checkpoint's, which may be of another dtype: each
sum is formed in float64 and rounded once. What training adds is kept as two factors, which are
small whatever the model, and written out when a weight is wanted.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Delta:
    """A change of a weight.

    Attributes:
        matrix: In the layout of the weight, float32, held by the processor.
    """

    matrix: Tensor

    def after(self, earlier: Delta) -> Delta:
        """Both changes as one."""
        return Delta(earlier.matrix + self.matrix)

    def added_to(self, weight: Tensor) -> Tensor:
        """A weight with the change, in its own dtype, held by the processor."""
        return _sum(weight, self.matrix.double())


@dataclass(frozen=True)
class Scaled:
    """A weight multiplied by a factor.

    Attributes:
        factor: By what.
        offset: What is added to the weight where it is used; a norm that multiplies by 1 + w has 1.
    """

    factor: float
    offset: float = 0.0

    def added_to(self, weight: Tensor) -> Tensor:
        """The weight for which weight + offset is multiplied, in its own dtype and place."""
        scaled = self.factor * (weight.cpu().double() + self.offset) - self.offset
        return scaled.to(weight.dtype).to(weight.device).contiguous()


@dataclass(frozen=True)
class LowRank:
    """A change `scale · up · down` of a weight of shape (outputs, inputs).

    Attributes:
        down: Shape (rank, inputs), float32, held by the processor.
        up: Shape (outputs, rank), alike.
        scale: What the product is multiplied by.
        turned: Whether the weight is kept as (inputs, outputs), as GPT-2 does.

    Source: LoRA (arXiv 2106.09685), equation 3, with B = `up` and A = `down`.
    """

    down: Tensor
    up: Tensor
    scale: float
    turned: bool = False

    def change(self) -> Tensor:
        """The change, in the layout of the weight, float64."""
        product = self.scale * (self.up.double() @ self.down.double())
        return product.T if self.turned else product

    def added_to(self, weight: Tensor) -> Tensor:
        """A weight with the change, in its own dtype, held by the processor."""
        return _sum(weight, self.change())


def _sum(weight: Tensor, change: Tensor) -> Tensor:
    return (weight.cpu().double() + change).to(weight.dtype).contiguous()
