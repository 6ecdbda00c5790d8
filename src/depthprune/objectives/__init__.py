"""Objectives: one file each, found by name.

Other packages add theirs through the entry-point group `depthprune.objectives`: a callable that
takes no arguments and gives an `Objective`.
"""

from __future__ import annotations

from collections.abc import Callable

from depthprune.objectives.base import Objective
from depthprune.objectives.nll import NLL
from depthprune.plugins import Registry

OBJECTIVES: Registry[Callable[[], Objective]] = Registry(
    "objective", "depthprune.objectives", {"nll": NLL}
)

__all__ = ["NLL", "OBJECTIVES", "Objective"]
