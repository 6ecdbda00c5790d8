"""The evaluator: the prefix walk, its memory, its scores and its cost.

Its names are imported on first use, so that searches, which know losses and nothing of models, can
be listed without loading torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from depthprune.lazily import lazily

if TYPE_CHECKING:
    from depthprune.evaluator.cost import Cost
    from depthprune.evaluator.evaluator import Evaluator
    from depthprune.evaluator.memo.store import Memo
    from depthprune.evaluator.prefix_walk import RemovedSet
    from depthprune.evaluator.racing.settings import Racing
    from depthprune.evaluator.rounding import Rounding
    from depthprune.evaluator.score import Score, increase, unscored

__all__ = [
    "Cost",
    "Evaluator",
    "Memo",
    "Racing",
    "RemovedSet",
    "Rounding",
    "Score",
    "increase",
    "unscored",
]

__getattr__ = lazily(
    __name__,
    {
        "Cost": "cost",
        "Evaluator": "evaluator",
        "Memo": "memo.store",
        "Racing": "racing.settings",
        "RemovedSet": "prefix_walk",
        "Rounding": "rounding",
        "Score": "score",
        "increase": "score",
        "unscored": "score",
    },
)
