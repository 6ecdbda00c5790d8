"""What a search will cost, before it is paid for.

A rehearsal stands in for the evaluator: it answers a search with made-up losses, so that the search
asks as it would, and counts what those asks would cost. Which sets a search asks for depends on the
losses; how many, and how much they share, hardly does. The counts are those of exact scores; racing
looks at fewer losses, by a share that was measured (`RACED`). Seconds come from blocks and a chunk
of the head, run a few times on this machine in calls as the search makes them.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from depthprune.calibration import Calibration, Window
from depthprune.evaluator.calls import expected_rows, expected_tokens
from depthprune.evaluator.cost import Cost, plain_tokens
from depthprune.evaluator.importance import runs_of
from depthprune.evaluator.losses import Losses
from depthprune.evaluator.memory import call_tokens, head_tokens
from depthprune.evaluator.prefix_walk import (
    RemovedSet,
    block_runs,
    widest,
)
from depthprune.evaluator.score import ONE_WINDOW, Score, score_of
from depthprune.evaluator.timing import block_seconds, median_seconds
from depthprune.models.blocks.carried import hidden
from depthprune.models.loading import Model
from depthprune.objectives import Mixture

R = TypeVar("R", bound="Rehearsal")

RACED = 0.25
"""Of the losses, what racing looked at in 720 choices on three draws (`docs/benchmarks.md`)."""

_RACE_WINDOWS = 16
"""On fewer windows a race has hardly begun when it ends."""


@dataclass(frozen=True)
class TokenCosts:
    """What one token costs on this machine, in seconds."""

    block_token: float
    head_token: float


@dataclass(frozen=True)
class CostEstimate:
    """What a search is expected to cost, every set scored on every window.

    Attributes:
        evaluations: Removed sets, the dense model apart.
        block_tokens: Tokens times blocks.
        head_tokens: Tokens whose logits are computed.
        plain_block_tokens: Block-tokens of plain forwards for the same sets.
        state_bytes: The most that hidden states take at once.
        weight_bytes: Bytes of weights read while it runs; 0 where the model is in memory.
        seconds: Estimated, at most.
        windows: Of the calibration.
    """

    evaluations: float
    block_tokens: int
    head_tokens: int
    plain_block_tokens: int
    state_bytes: int
    weight_bytes: int
    seconds: float
    windows: int = 0

    @property
    def raced_seconds(self) -> float:
        """What is to be expected where candidates are raced."""
        return self.seconds * (RACED if self.windows >= _RACE_WINDOWS else 1.0)


class Rehearsal:
    """Scores sets by a made-up loss and counts; what a search needs of an evaluator.

    Args:
        blocks: Number of the model's blocks.
        tokens: Tokens of all windows.
        scored: Scored tokens of all windows.
        windows: Number of windows.
        compares: Whether the dense model is walked beside the sets.
        scaled: Whether the dense model is scored first, for a mixture to be divided by it.
        passes: How often the head is run on a scored token.
        plain: Tokens of all windows in plain forwards, where items make them other than `tokens`.
        rows: How many windows share a call; where some are missing, others are computed too.
    """

    def __init__(
        self,
        blocks: int,
        tokens: int,
        scored: int,
        windows: int,
        *,
        compares: bool = False,
        scaled: bool = False,
        passes: int = 1,
        plain: int | None = None,
        rows: int = 1,
    ) -> None:
        self.blocks = blocks
        self.walks = 0
        self.widest = 0
        self.windows = windows
        self._tokens, self._scored = tokens, scored
        self._plain = tokens if plain is None else plain
        self._compares = compares
        self._scaled = scaled
        self._passes = passes
        self._rows = rows
        self._known: dict[RemovedSet, int] = {}
        self._asked: dict[RemovedSet, int] = {}
        self._priced: dict[RemovedSet, int] = {}
        self._measured: set[str] = set()
        self._measures_asked: set[str] = set()
        self._cost = Cost()
        self.lose_by(0)

    @classmethod
    def of(cls: type[R], model: Model, calibration: Calibration, objective: Mixture) -> R:
        """For what an evaluator would be made of."""
        windows = calibration.windows
        return cls(
            model.blocks,
            tokens=expected_tokens(model, windows),
            scored=sum(int(window.scored.sum()) for window in windows),
            windows=len(windows),
            compares=any(c.objective.compares for c in objective.components),
            scaled=len(objective.components) > 1,
            passes=Losses(model, objective, windows, np.array(objective.judged(windows))).passes,
            plain=sum(map(plain_tokens, windows)),
            rows=expected_rows(model, windows),
        )

    def lose_by(self, seed: int) -> None:
        """Make up other losses, by which a search would come to another set.

        Args:
            seed: Of what each block costs.
        """
        # Losses of real models add up at first, and more than add up later.
        rng = random.Random(seed)
        self._damage = [rng.random() for _ in range(self.blocks)]

    @property
    def cost(self) -> Cost:
        """What the asks so far would have cost."""
        return self._cost

    def score(self, removed: Iterable[Sequence[int]], *, windows: int | None = None) -> list[Score]:
        """Made-up scores; each set is paid for once on each window."""
        seen = self.windows if windows is None else min(windows, self.windows)
        sets = [tuple(s) for s in removed]
        if self._scaled:
            self._count([()], self.windows)
        self._count(sets, seen)
        return [replace(self._made_up(s), windows=seen) for s in sets]

    def forget_asked(self) -> None:
        """As the evaluator's: what is asked for counts again, and is not paid for again."""
        self._asked.clear()
        self._priced.clear()
        self._measures_asked.clear()

    def compare(
        self, removed: Iterable[Sequence[int]], keep: int, earlier: Sequence[Score] = ()
    ) -> list[Score]:
        """The same, the dense model beside them."""
        return self.score([(), *removed])[1:]

    def measure(self, name: str) -> NDArray[np.float64]:
        """A made-up measurement, and a value for each block (or run of blocks)."""
        passed = self._tokens * self.blocks * runs_of(name)
        if name not in self._measures_asked:
            self._cost += Cost(asked_block_tokens=passed)
        if name not in self._measured:
            self._cost += Cost(block_tokens=passed, plain_block_tokens=passed)
        self._measures_asked.add(name)
        self._measured.add(name)
        rng = np.random.default_rng(0)
        return rng.random((self.blocks, self.blocks + 1) if name == "angular" else self.blocks)

    def _count(self, sets: Sequence[RemovedSet], seen: int) -> None:
        for more, new in _lacking(self._asked, sets, seen):
            self._cost += Cost(evaluations=sum(more / self.windows for s in new if s))
            self._asked.update(dict.fromkeys(new, seen))
        for known, count in ((self._priced, self._ask), (self._known, self._pay)):
            for more, new in _lacking(known, sets, seen):
                filled = min(-(-more // self._rows) * self._rows, self.windows - seen + more)
                count(new, filled / self.windows)
                known.update(dict.fromkeys(new, seen - more + filled))

    def _ask(self, new: Sequence[RemovedSet], share: float) -> None:
        self._cost += Cost(asked_block_tokens=self._walked(new, share))

    def _pay(self, new: Sequence[RemovedSet], share: float) -> None:
        walked = self._together(new)
        self.walks += 1
        self.widest = max(self.widest, widest(walked, self.blocks))
        self._cost += Cost(
            block_tokens=self._walked(new, share),
            head_tokens=self._passes * round(share * self._scored) * len(walked),
            plain_block_tokens=round(share * self._plain) * sum(self.blocks - len(s) for s in new),
        )

    def _together(self, new: Sequence[RemovedSet]) -> list[RemovedSet]:
        return list(dict.fromkeys([(), *new] if self._compares else new))

    def _walked(self, new: Sequence[RemovedSet], share: float) -> int:
        return round(share * self._tokens) * block_runs(self._together(new), self.blocks)

    def _made_up(self, removed: RemovedSet) -> Score:
        loss = 3.0 + sum(self._damage[b] for b in removed) * (1 + len(removed) / self.blocks)
        return score_of(removed, np.array([loss]), ONE_WINDOW)


def _lacking(
    known: Mapping[RemovedSet, int], sets: Sequence[RemovedSet], seen: int
) -> list[tuple[int, list[RemovedSet]]]:
    """Sets by how many of so many windows are not known of them."""
    found: dict[int, list[RemovedSet]] = {}
    for removed in dict.fromkeys(sets):
        if (more := seen - known.get(removed, 0)) > 0:
            found.setdefault(more, []).append(removed)
    return list(found.items())


@torch.inference_mode()
def measure_speed(model: Model, windows: Sequence[Window]) -> TokenCosts:
    """Time blocks and a chunk of the head, each the median of a few runs.

    They are run as a search runs them: as many windows as share a call, in three places of the
    model, since blocks are not all of one kind.

    Args:
        model: The model.
        windows: The calibration's; those of the greatest length are run.
    """
    longest = max(len(window.tokens) for window in windows)
    alike = [window.tokens for window in windows if len(window.tokens) == longest]
    rows = max(1, min(len(alike), call_tokens(model) // longest))
    tokens = torch.from_numpy(np.stack(alike[:rows]))
    inputs = model.anatomy.record(tokens)
    blocks = sorted({0, model.blocks // 2, model.blocks - 1})
    seconds = [block_seconds(model, block, inputs) for block in blocks]
    chunk = hidden(inputs.states).flatten(0, 1)[: head_tokens(model)][None]
    head = median_seconds(lambda: model.anatomy.head(chunk), model)
    return TokenCosts(statistics.fmean(seconds) / tokens.numel(), head / chunk.shape[1])


def plan_of(
    rehearsal: Rehearsal, model: Model, windows: Sequence[Window], speed: TokenCosts
) -> CostEstimate:
    """What a rehearsed search will cost.

    Args:
        rehearsal: After the search has run on it.
        model: The model it is meant for.
        windows: The calibration's.
        speed: Of this machine.
    """
    cost = rehearsal.cost
    longest = max(len(window.tokens) for window in windows)
    together = sum(len(w.tokens) for w in windows) if model.streamed else longest
    blocks = sum(
        p.numel() * p.element_size()
        for block in model.anatomy.blocks.modules
        for p in block.parameters()
    )
    return CostEstimate(
        evaluations=cost.evaluations,
        block_tokens=cost.block_tokens,
        head_tokens=cost.head_tokens,
        plain_block_tokens=cost.plain_block_tokens,
        state_bytes=rehearsal.widest * together * model.anatomy.state_bytes(longest),
        weight_bytes=rehearsal.walks * blocks if model.streamed else 0,
        seconds=cost.block_tokens * speed.block_token + cost.head_tokens * speed.head_token,
        windows=len(windows),
    )
