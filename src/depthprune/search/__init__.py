"""Searches: one file each, behind one protocol, run by one driver."""

from depthprune.search.driver import SEARCHES, Result, make_space, search
from depthprune.search.protocol import Ask, Grown, Loss, RemovedSet, Search, Space

__all__ = [
    "SEARCHES",
    "Ask",
    "Grown",
    "Loss",
    "RemovedSet",
    "Result",
    "Search",
    "Space",
    "make_space",
    "search",
]
