"""Searches: one file each, behind one protocol, run by one driver.

This package and the function `depthprune.search` share a name, and whichever is imported last would
hide the other. So the package can be called, and is the function.
"""

import sys
from types import ModuleType

from depthprune.search.budget import Budget, parse_budget
from depthprune.search.driver import Result, check_search, make_space, most_removable, search
from depthprune.search.method import Method
from depthprune.search.protocol import (
    Ask,
    Grown,
    Loss,
    Measure,
    Refusal,
    RemovedSet,
    Search,
    Space,
    nothing_refused,
)
from depthprune.search.registry import SEARCHES, make_search

__all__ = [
    "SEARCHES",
    "Ask",
    "Budget",
    "Grown",
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


class _CallablePackage(ModuleType):
    __call__ = staticmethod(search)


sys.modules[__name__].__class__ = _CallablePackage
