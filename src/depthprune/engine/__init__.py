"""Work spread over a Ray cluster: joining one, a pool of workers that may die, losses by workers.

Ray is imported when a cluster is asked for, and not before.
"""

from depthprune.engine.cluster import Cluster, Engine, as_engine, join, parse_engine

__all__ = ["Cluster", "Engine", "as_engine", "join", "parse_engine"]
