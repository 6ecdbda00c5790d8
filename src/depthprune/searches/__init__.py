"""Searches: one file each, behind one protocol, run by one driver.

The names of the driver are imported on first use: it brings scores and numpy, which whoever lists
the searches does not wait for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from depthprune.lazily import lazily
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
from depthprune.searches.registry import SEARCHES, make_search

if TYPE_CHECKING:
    from depthprune.searches.driver import (
        Result,
        check_search,
        make_space,
        most_removable,
        search,
    )

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

__getattr__ = lazily(
    __name__,
    dict.fromkeys(("Result", "check_search", "make_space", "most_removable", "search"), "driver"),
)
