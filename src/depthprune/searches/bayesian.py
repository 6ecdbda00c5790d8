"""Bayesian: a Gaussian process over sets says where the next one is worth scoring."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field

from depthprune.extras import require_extra
from depthprune.searches.common.base import Method
from depthprune.searches.common.moves import random_set, swaps
from depthprune.searches.common.protocol import (
    Ask,
    Plan,
    RemovedSet,
    Space,
)
from depthprune.searches.common.single_losses import (
    distinct,
    draw,
    log_weights,
    single_losses,
)

_PRIOR_SAMPLES = 32


@dataclass(frozen=True)
class Bayesian(Method):
    """Bayesian optimisation with expected improvement.

    The surrogate is a Gaussian process with kernel exp(−d/ℓ) on the Hamming distance d of the
    masks, ℓ by maximum likelihood. After some random sets, the candidates are the swaps of the best
    set so far and draws from the prior, and the one of largest expected improvement is scored.

    Source: arXiv 2604.24938, search 5, with its numbers.

    Attributes:
        trials: Sets scored besides the single blocks.
        starts: How many of them are random.
        temperature: τ of the prior.
    """

    trials: Annotated[int, Field(ge=1)] = 200
    starts: Annotated[int, Field(ge=2)] = 10
    temperature: Annotated[float, Field(ge=1e-6, allow_inf_nan=False)] = 1.0

    method: ClassVar[str] = "bayesian"
    summary: ClassVar[str] = (
        "a Gaussian process chooses each next set; trials=, starts=, temperature="
    )

    def least(self, space: Space) -> int:
        """See `Method.least`."""
        _require()
        return len(space.free) + 1

    def plan(self, space: Space, rng: random.Random) -> Plan:
        """See `Search.plan`."""
        _require()
        # It imports numpy, which listing the searches should not wait for.
        from depthprune.searches.common.gaussian_process import Surrogate

        weights = log_weights((yield from single_losses(space)), self.temperature)
        starts = distinct(lambda: random_set(space, rng), min(self.starts, self.trials))
        scores = yield Ask(tuple(starts), keep=len(starts))
        known = {s: score.loss for s, score in zip(starts, scores, strict=True)}
        surrogate = Surrogate(space)
        while len(known) < self.trials:
            candidates = self._candidates(space, weights, known, rng)
            if not candidates:
                break
            surrogate.learn(known)
            chosen = candidates[int(surrogate.improvement(candidates).argmax())]
            (score,) = yield Ask((chosen,), keep=1)
            known[chosen] = score.loss
        return min(known, key=lambda s: (known[s], s))

    def _candidates(
        self,
        space: Space,
        weights: Mapping[int, float],
        known: Mapping[RemovedSet, float],
        rng: random.Random,
    ) -> list[RemovedSet]:
        best = min(known, key=lambda s: (known[s], s))
        near = [s for s in swaps(space, best) if s not in known]
        far = distinct(
            lambda: draw(space, weights, rng), _PRIOR_SAMPLES, {*known, *near}, attempts=4
        )
        return [*near, *far] or distinct(lambda: random_set(space, rng), 1, known)


def _require() -> None:
    require_extra("search bayesian", "search", "sklearn.gaussian_process")
