"""Many removed sets recovered together, what they share once.

What recovers a set is fitted from the bottom up, so sets whose lowest runs are the same share those
runs' fits and all states up to the next run; and all share the dense model's states, which are
walked through once. The sets make a tree, each run a branch of it, which is walked depth first: at
a fork the states before it wait. The weights are those that `recover` fits for each set alone, bit
for bit, where no block behind a gap is refitted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import torch

from depthprune.calibration import Calibration
from depthprune.evaluator.prefix_walk import RemovedSet
from depthprune.evaluator.state_store import StoredState
from depthprune.models.loading import Model
from depthprune.progress import ProgressStep
from depthprune.recovery.linear.layerwise_fit import FittedBlock, Walk
from depthprune.recovery.methods import Linear
from depthprune.recovery.recover import recovery_of, walking
from depthprune.recovery.result import Recovery, runs_of

GAPS = Linear(refit="none")
"""What is fitted: what writes into the state before each gap."""

Run = tuple[int, ...]


@dataclass
class Fork:
    """Sets whose lowest runs are the same.

    Attributes:
        ends: Whether those runs are a whole set.
        further: By the run that comes next, where sets part.
    """

    ends: bool = False
    further: dict[Run, Fork] = field(default_factory=dict)

    def nearest(self) -> list[tuple[Run, Fork]]:
        """The branches, the lowest first."""
        return sorted(self.further.items())


def forks(sets: Iterable[RemovedSet]) -> Fork:
    """The tree of some removed sets."""
    root = Fork()
    for removed in sets:
        at = root
        for run in runs_of(removed):
            at = at.further.setdefault(run, Fork())
        at.ends = True
    return root


def shared_block_runs(sets: Sequence[RemovedSet]) -> int:
    """How many blocks each token of the calibration is run through to recover all of them.

    A writer with a norm behind it takes two runs more, which only the model's blocks would tell.
    """
    root = forks(sets)
    dense = max((removed[-1] + 1 for removed in sets if removed), default=0)
    return dense + sum(_branch_runs(run, fork) for run, fork in root.further.items())


def _branch_runs(run: Run, fork: Fork) -> int:
    """The kept block before a run, run to be fitted and with its new weights, and all above it."""
    at = run[-1] + 1
    along = max((above[0] - 1 - at for above in fork.further), default=0)
    return 2 * (run[0] > 0) + along + sum(_branch_runs(*each) for each in fork.further.items())


@torch.no_grad()
def recover_each(
    model: Model,
    sets: Sequence[RemovedSet],
    calibration: Calibration,
    step: ProgressStep | None = None,
) -> Iterator[Recovery]:
    """What `recover` fits before the gaps of each set, in the order of the tree.

    Args:
        model: The dense original. Between answers it is as it was.
        sets: Sorted, none of them empty.
        calibration: As `recover` takes it.
        step: Is told each block-token.

    Raises:
        DepthpruneError: As `recover` does.
    """
    with walking(model, calibration, GAPS) as walk:
        walk.step = step
        yield from _Tree(walk, sets).above((), 0, [], forks(sets))


class _Tree:
    """The dense model's states where runs begin and end, and the walk from fork to fork."""

    def __init__(self, walk: Walk, sets: Sequence[RemovedSet]) -> None:
        self._walk = walk
        runs = [run for removed in sets for run in runs_of(removed)]
        lowest = {max(0, runs_of(removed)[0][0] - 1) for removed in sets}
        places = lowest | {run[-1] + 1 for run in runs}
        self._dense: dict[int, list[StoredState]] = {}
        for place in sorted(places):
            walk.pass_dense(place)
            self._dense[place] = list(walk.dense)

    def above(
        self, done: tuple[FittedBlock, ...], at: int, states: list[StoredState], fork: Fork
    ) -> Iterator[Recovery]:
        """All sets of a fork, whose own runs are fitted.

        Args:
            done: What was fitted for those.
            at: The block behind the last of them.
            states: The pruned model's before it; not used where there was no run yet.
            fork: Of the tree.
        """
        if fork.ends:
            yield recovery_of(self._walk, done)
        for run, further in fork.nearest():
            before = max(0, run[0] - 1)
            if not done:
                states = self._dense[before]
            else:
                states = self._walk.along(states, at, before)
                at = before
            fitted, behind = self._walk.branch(run, states, self._dense[run[-1] + 1])
            yield from self.above((*done, fitted), run[-1] + 1, behind, further)
