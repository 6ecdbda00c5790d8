"""What is known: the loss of each set on each window, kept for this evaluator and in the memo.

A set is looked up in the memo when it is first met, on all windows at once, and what is computed is
stored as soon as a batch has been walked. Each objective of a mixture has losses of its own, so a
mixture shares what its objectives were computed for alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from depthprune.calibration import Window
from depthprune.evaluator.memo.store import Context, Memo, window_key
from depthprune.evaluator.prefix_walk import RemovedSet
from depthprune.evaluator.score import LossArray


class LossTable:
    """Losses of sets on windows, by component of the objective.

    Args:
        windows: The calibration's.
        judged: Which windows each component judges, shape (components, windows).
        memo: Where losses are kept for other runs, if anywhere.
        contexts: What the losses of each component depend on; needed with a memo.
        shape: Names the shape of the call in which a window is run, which its losses follow too.

    Attributes:
        recalled: Losses of a set on a window that the memo gave so far.
    """

    def __init__(
        self,
        windows: Sequence[Window],
        judged: NDArray[np.bool_],
        memo: Memo | None,
        contexts: Sequence[Context],
        shape: Callable[[int], str] = lambda _: "",
    ) -> None:
        self.recalled = 0
        self._judged = judged
        self._memo = memo if contexts else None
        self._contexts = contexts
        self._windows = windows
        self._shape = shape
        self._named: dict[tuple[int, str], bytes] = {}
        self._losses: dict[RemovedSet, LossArray] = {}
        self._known: dict[RemovedSet, NDArray[np.bool_]] = {}

    def _key(self, place: int) -> bytes:
        """What a window is kept under now: its shape changes where memory runs out."""
        shape = self._shape(place)
        if (place, shape) not in self._named:
            window = self._windows[place]
            named = window_key(window.tokens, window.scored, window.item, shape)
            self._named[place, shape] = named
        return self._named[place, shape]

    def losses(self, removed: RemovedSet) -> LossArray:
        """Losses of a set, shape (components, windows); NaN where unknown or not judged."""
        self._meet([removed])
        return self._losses[removed]

    def known(self, removed: RemovedSet) -> NDArray[np.bool_]:
        """On which windows all losses of a set are known, shape (windows,)."""
        self._meet([removed])
        return self._known[removed]

    def missing(
        self, sets: Iterable[RemovedSet], places: Sequence[int]
    ) -> dict[tuple[int, ...], list[RemovedSet]]:
        """What is to be computed: sets by the places, of those given, they are unknown on."""
        sets = list(dict.fromkeys(sets))
        self._meet(sets)
        groups: dict[tuple[int, ...], list[RemovedSet]] = {}
        for removed in sets:
            known = self._known[removed]
            unknown = tuple(place for place in places if not known[place])
            if unknown:
                groups.setdefault(unknown, []).append(removed)
        return groups

    def note(self, places: Sequence[int], found: Mapping[RemovedSet, LossArray]) -> None:
        """Take down what was computed on some windows, shape (components, places) for each set."""
        where = np.asarray(places)
        self._meet(found)
        for removed, losses in found.items():
            self._losses[removed][:, where] = losses
            self._known[removed][where] = True
        if self._memo is None:
            return
        for row, context in enumerate(self._contexts):
            chosen = np.flatnonzero(self._judged[row, where])
            keys = [self._key(place) for place in where[chosen].tolist()]
            if keys:
                rows = {removed: losses[row, chosen] for removed, losses in found.items()}
                self._memo.store_all(context, keys, rows)

    def _meet(self, sets: Iterable[RemovedSet]) -> None:
        new = [removed for removed in sets if removed not in self._known]
        if not new:
            return
        for removed in new:
            self._losses[removed] = np.full(self._judged.shape, np.nan)
            self._known[removed] = np.zeros(self._judged.shape[1], dtype=np.bool_)
        if self._memo is not None:
            self._recall(new)

    def _recall(self, sets: Sequence[RemovedSet]) -> None:
        known = {removed: ~self._judged for removed in sets}  # noqa: C420 - each needs its own
        keys = [self._key(place) for place in range(len(self._windows))]
        for row, context in enumerate(self._contexts):
            if self._memo is None:
                return
            for removed, found in self._memo.look_up(context, sets, keys).items():
                self._losses[removed][row] = np.where(self._judged[row], found.losses, np.nan)
                known[removed][row] |= found.known
        for removed in sets:
            self._known[removed] = np.all(known[removed], axis=0, keepdims=True)[0]
            self.recalled += int(self._known[removed].sum())
