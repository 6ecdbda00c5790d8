"""What the closed form adds to a weight: a matrix, kept as it was fitted.

It is written into the model's weight and into the checkpoint's, which may be of another dtype: each
sum is formed in float64 and rounded once.
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
        return (weight.cpu().double() + self.matrix.double()).to(weight.dtype).contiguous()


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
