"""What a statistic answers: a value with its interval, or the reason why it cannot be said.

A design with one draw, one level or constant values leaves some questions open. NaN would be
printed, averaged or compared without anyone noticing, so such a question is answered by an
`NotEstimable`, which has to be looked at before anything can be done with it.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class NotEstimable:
    """A question that this table does not answer.

    Attributes:
        reason: Why, as a clause without a full stop, with what would answer it where that helps.
    """

    reason: str


@dataclass(frozen=True)
class IntervalEstimate:
    """A value with its 95% interval.

    Attributes:
        value: The estimate.
        low: Lower end of the interval, or why there is none.
        high: Upper end.
        n: How many values or pairs it is made of.
    """

    value: float
    low: float | NotEstimable
    high: float | NotEstimable
    n: int

    @property
    def interval(self) -> tuple[float, float] | NotEstimable:
        """Both ends, or why there are none."""
        if isinstance(self.low, NotEstimable):
            return self.low
        if isinstance(self.high, NotEstimable):
            return self.high
        return self.low, self.high
