"""What is searched for, and what was found: the records of a choice's rounds."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from depthprune.evaluator import Cost, RemovedSet, Score
from depthprune.pruning.target.configurations import Configuration
from depthprune.searches import Refusal, Result, Search, nothing_refused, search
from depthprune.searches.driver import Scorer


@dataclass(frozen=True)
class Rules:
    """What sets are searched for, and how.

    Attributes:
        search: The dear search.
        k: How many blocks go.
        seed: Of the searches.
        protect: Blocks that stay.
        refusal: Why a set may not go.
    """

    search: Search
    k: int
    seed: int = 0
    protect: tuple[int, ...] = ()
    refusal: Refusal = nothing_refused

    def run(
        self,
        name: str | Search,
        scorer: Scorer,
        *,
        enough: Callable[[RemovedSet], bool] | None = None,
    ) -> Result:
        """Run a search on a scorer."""
        return search(
            name,
            scorer,
            k=self.k,
            seed=self.seed,
            protect=self.protect,
            refusal=self.refusal,
            enough=enough,
        )


@dataclass
class Arm:
    """A calibration in the rounds.

    Attributes:
        name: By which it is reported.
        scorer: On all its windows.
        configuration: What it is; None for the consensus.
        best: The lowest loss on the target of its sets so far.
        whole: Whether it was searched on all its windows by the dear search.
    """

    name: str
    scorer: Scorer
    configuration: Configuration | None
    best: float = math.inf
    whole: bool = False


@dataclass(frozen=True)
class Trial:
    """A set that was found, and how.

    Attributes:
        removed: The set.
        arm: The calibration's name.
        search: The search's name, or `swap`.
        share: Of the calibration's windows that were searched on.
    """

    removed: RemovedSet
    arm: str
    search: str
    share: float


@dataclass(frozen=True)
class Round:
    """What one round tried, and what it cost.

    Attributes:
        name: What it was.
        tried: How many calibrations.
        leader: The set that kept the target best when it ended.
        loss: Of that on the target's first windows.
        cost: All that was spent until then.
    """

    name: str
    tried: int
    leader: RemovedSet
    loss: float
    cost: Cost


@dataclass
class Spent:
    """What the budget bought.

    Attributes:
        trials: Every set with how it was found, in the order in which they were.
        first: Each set's score on the target's first windows.
        rounds: What was done.
        default: The set of the default calibration, if that was searched on all windows.
        task: The set of the task itself, likewise.
        left_out: Calibrations on which no search came to a set, with why.
    """

    trials: list[Trial] = field(default_factory=list)
    first: dict[RemovedSet, Score] = field(default_factory=dict)
    rounds: list[Round] = field(default_factory=list)
    default: RemovedSet | None = None
    task: RemovedSet | None = None
    left_out: dict[str, str] = field(default_factory=dict)

    @property
    def leader(self) -> RemovedSet:
        """The set that keeps the target best, on its first windows."""
        return min(self.first, key=lambda removed: (self.first[removed].loss, removed))
