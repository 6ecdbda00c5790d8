"""Searches: one file each, behind one protocol, run by one driver.

This package and the function `depthprune.search` share a name, and whichever is imported last would
hide the other. So the package can be called, and is the function.
"""

import sys
from types import ModuleType

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


class _CallablePackage(ModuleType):
    __call__ = staticmethod(search)


sys.modules[__name__].__class__ = _CallablePackage
