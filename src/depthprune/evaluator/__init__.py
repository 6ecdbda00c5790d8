"""The evaluator: the prefix walk, its memory, its scores and its cost."""

from depthprune.evaluator.cost import Cost
from depthprune.evaluator.evaluator import Evaluator
from depthprune.evaluator.memo import Memo
from depthprune.evaluator.racing import Racing
from depthprune.evaluator.score import Score, increase, unscored
from depthprune.evaluator.walk import RemovedSet

__all__ = [
    "Cost",
    "Evaluator",
    "Memo",
    "Racing",
    "RemovedSet",
    "Score",
    "increase",
    "unscored",
]
