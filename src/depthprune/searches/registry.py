"""The searches by name, and making one of what a user wrote.

Other packages add theirs through the entry-point group `depthprune.searches`: a callable that gives
a `Search`; the fields of a dataclass are its parameters.
"""

from __future__ import annotations

from collections.abc import Callable

from depthprune.registry import Registry, build
from depthprune.searches.annealing import Annealing
from depthprune.searches.bayesian import Bayesian
from depthprune.searches.beam import Beam
from depthprune.searches.cbo import CBO
from depthprune.searches.common.protocol import Search, Space
from depthprune.searches.contiguous import ContiguousWindow
from depthprune.searches.evolution import Evolution
from depthprune.searches.exhaustive import Exhaustive
from depthprune.searches.fast_block_select import FastBlockSelect
from depthprune.searches.genetic import Genetic
from depthprune.searches.greedy import Greedy
from depthprune.searches.local_search import LocalSearch
from depthprune.searches.one_shot import OneShot
from depthprune.searches.random_sets import RandomSets
from depthprune.searches.rankings.angular import Angular
from depthprune.searches.rankings.block_influence import BlockInfluence
from depthprune.searches.rankings.last_k import LastK
from depthprune.searches.rankings.relative_magnitude import RelativeMagnitude
from depthprune.searches.rankings.taylor import Taylor

_OWN: tuple[Callable[..., Search], ...] = (
    OneShot,
    Greedy,
    Beam,
    Genetic,
    Bayesian,
    CBO,
    FastBlockSelect,
    Evolution,
    LocalSearch,
    Annealing,
    RandomSets,
    ContiguousWindow,
    LastK,
    BlockInfluence,
    Angular,
    RelativeMagnitude,
    Taylor,
    Exhaustive,
)

_PARTS = ("name", "summary", "grows", "plan")

SEARCHES: Registry[Callable[..., Search]] = Registry(
    "search",
    "depthprune.searches",
    {make.method: make for make in _OWN},  # type: ignore[attr-defined]
)


def make_search(text: str | Search) -> Search:
    """The search that a text names, such as `greedy` or `beam:width=8`.

    Args:
        text: A name and parameters; a search is returned as it is.

    Raises:
        UsageError: If the name or a parameter is unknown, a value is wrong, or a plug-in gives no
            search.
    """
    if not isinstance(text, str):
        return text
    return build(SEARCHES, text, _PARTS)


def least_evaluations(search: Search, space: Space) -> int:
    """Evaluations that it takes to have a first set of size k; 1 where a search does not say.

    Raises:
        UsageError: If the space cannot be searched this way.
    """
    least = getattr(search, "least", None)
    return 1 if least is None else int(least(space))
