"""What the searches of this package share: a name made of their parameters, and their least need.

A search's parameters are the fields of its dataclass. Its name is its method's, followed by those
that are not the defaults, so that what the manifest says is what the command line takes.
"""

from __future__ import annotations

from typing import ClassVar

from depthprune.bounds import check_bounds
from depthprune.registry import spell
from depthprune.searches.common.protocol import Space


class Method:
    """Base of a search.

    Attributes:
        method: The name without parameters.
        summary: A line about it.
        grows: See `Search.grows`.
    """

    method: ClassVar[str]
    summary: ClassVar[str]
    grows: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_bounds(f"search {self.method}", self)

    @property
    def name(self) -> str:
        """See `Search.name`."""
        return spell(self.method, self)

    def least(self, space: Space) -> int:
        """Evaluations that it takes to have a first set of size k.

        Raises:
            UsageError: If the space cannot be searched this way.
            DepthpruneError: If a library that it needs is missing.
        """
        return 1
