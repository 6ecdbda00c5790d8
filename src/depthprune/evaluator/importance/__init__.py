"""What ranks blocks without removing any: measurements of the dense model."""

from depthprune.evaluator.importance.measures import MEASURES, measure, runs_of
from depthprune.evaluator.importance.passes import Importance

__all__ = ["MEASURES", "Importance", "measure", "runs_of"]
