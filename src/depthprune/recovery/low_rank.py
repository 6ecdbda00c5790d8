"""What training adds to a weight: the product of two thin matrices.

It is kept as the two factors, which are small whatever the model, and written out when a weight is
wanted: the sum is formed in float64 and rounded once.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


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
        return (weight.cpu().double() + self.change()).to(weight.dtype).contiguous()
