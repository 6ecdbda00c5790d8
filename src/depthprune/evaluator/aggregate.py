"""From the losses of windows, by objective, to one score of a set.

With one objective a window's loss is the objective's. In a mixture each objective's mean, over the
windows that it judges, is divided by the dense model's and weighted; the same is put into each
window's loss by a factor, so that means, standard errors and paired differences are taken over
windows as ever.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from depthprune.calibration import Calibration
from depthprune.errors import EvaluationError
from depthprune.evaluator.prefix_walk import RemovedSet
from depthprune.evaluator.racing.differences import Strata
from depthprune.evaluator.score import LossArray, Score, Weighting, partial_score, score_of
from depthprune.objectives import Mixture


class Combination:
    """Puts losses together.

    Args:
        objective: One or more objectives with their weights.
        judged: Which windows each judges, shape (components, windows).
        calibration: How its windows weigh.
    """

    def __init__(
        self, objective: Mixture, judged: NDArray[np.bool_], calibration: Calibration
    ) -> None:
        self.weighting = Weighting.of(calibration)
        self.bounds = objective.bounds
        self._objective = objective
        self._judged = judged
        self._factors: LossArray | None = None if self.scaled else judged.astype(np.float64)

    @property
    def scaled(self) -> bool:
        """Whether the dense model's losses must be known before anything is put together."""
        return len(self._objective.components) > 1

    @property
    def races(self) -> bool:
        """Whether the loss is a mean over windows, which a race needs."""
        return not self.weighting.worst

    def scale_by(self, dense: LossArray) -> None:
        """Set the scale.

        Args:
            dense: The dense model's losses, shape (components, windows).

        Raises:
            EvaluationError: If an objective is not above 0 for the dense model.
        """
        if not self.scaled or self._factors is not None:
            return
        weights = self.weighting.weights()
        factors = np.zeros(self._judged.shape)
        for row, component in enumerate(self._objective.components):
            inside = self._judged[row]
            value = float(weights[inside] @ dense[row, inside] / weights[inside].sum())
            if not 0 < value < np.inf:
                raise EvaluationError(
                    f"--objective {self._objective.name}: {component.objective.name} is {value:g} "
                    "for the dense model, and a mixture divides by that; use it alone"
                )
            factors[row, inside] = component.weight / value / self._shares_of(inside)[inside]
        self._factors = factors

    def _shares_of(self, inside: NDArray[np.bool_]) -> LossArray:
        """By what share each window's loss grows to stand for those that are not judged.

        Of all windows; where the worst domain counts, of its own domain, which stands alone.
        """
        weights = self.weighting.weights()
        groups = self.weighting.groups if self.weighting.worst else np.zeros_like(weights, int)
        judged = np.bincount(groups, weights=np.where(inside, weights, 0.0))
        shares: LossArray = (judged / np.bincount(groups, weights=weights))[groups]
        return shares

    def windows(self, losses: LossArray) -> LossArray:
        """Losses of windows, shape (windows,), from those by component."""
        if self._factors is None:
            raise ValueError("a mixture is scaled by the dense model's losses first")
        # A component that does not judge a window adds nothing to it; an unknown loss stays NaN.
        parts = np.where(self._judged, losses * self._factors, 0.0)
        answer: LossArray = parts.sum(axis=0)
        return answer

    def score(
        self, removed: RemovedSet, losses: LossArray, places: Sequence[int] | None = None
    ) -> Score:
        """The score of a set over all windows, or over some of them.

        Args:
            removed: The set.
            losses: Shape (components, windows).
            places: The windows to count; None for all.
        """
        return self.put_together(removed, self.windows(losses), places)

    def put_together(
        self, removed: RemovedSet, losses: LossArray, places: Sequence[int] | None = None
    ) -> Score:
        """The same from losses of windows, shape (windows,)."""
        if places is None or len(places) == len(losses):
            return score_of(removed, losses, self.weighting)
        return partial_score(removed, losses, self.weighting, places)

    def strata(self, places: Sequence[int]) -> Strata:
        """How some windows make a loss, for a race."""
        where = np.asarray(places)
        groups = self.weighting.groups
        count = len(self.weighting.shares)
        return Strata(
            groups=groups[where],
            sizes=self.weighting.counts()[where],
            shares=np.array(self.weighting.shares),
            totals=np.bincount(groups, minlength=count),
        )
