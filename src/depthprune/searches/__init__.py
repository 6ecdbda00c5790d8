"""Searches: one file each, behind one protocol, run by one driver."""

from depthprune.searches.budget import Budget, parse_budget
from depthprune.searches.common.base import Method
from depthprune.searches.common.protocol import (
    Ask,
    ChosenSize,
    Loss,
    Measure,
    Refusal,
    RemovedSet,
    Search,
    Space,
    nothing_refused,
)
from depthprune.searches.driver import (
    Result,
    check_search,
    make_space,
    most_removable,
    search,
)
from depthprune.searches.registry import SEARCHES, make_search

__all__ = [
    "SEARCHES",
    "Ask",
    "Budget",
    "ChosenSize",
    "Loss",
    "Measure",
    "Method",
    "Refusal",
    "RemovedSet",
    "Result",
    "Search",
    "Space",
    "check_search",
    "make_search",
    "make_space",
    "most_removable",
    "nothing_refused",
    "parse_budget",
    "search",
]
