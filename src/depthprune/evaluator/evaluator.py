"""The evaluator: scores many removed sets on one calibration under one objective, exactly.

Windows of one length are taken a few at a time; for each such batch all sets are walked together
(see `walk`), and the head runs on chunks of tokens, so no tensor of tokens × vocabulary is held.
Windows are never padded: one of another length makes a batch of its own. Every score is over all
windows, and a set that was scored is not computed again; with a memo, nor is what any earlier run
computed, and what is computed is stored as soon as a batch has been walked.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from depthprune.calibration import Calibration, Window, context_of
from depthprune.evaluator.cost import Cost
from depthprune.evaluator.memo import Context, Memo, Remembered, window_key
from depthprune.evaluator.memory import available_memory
from depthprune.evaluator.score import Score, Weighting, score_of
from depthprune.evaluator.walk import RemovedSet, block_runs, split_to_fit, walk
from depthprune.models.loading import Model
from depthprune.models.removal import check_removed
from depthprune.models.replay import Inputs
from depthprune.objectives import OBJECTIVES, Objective
from depthprune.progress import SILENT, Progress, Step

_CALL_TOKENS = {"cpu": 1024}
_CALL_TOKENS_ELSEWHERE = 16_384
_HEAD_CHUNK = 128
_MEMORY_SHARE = 0.5


_Work: TypeAlias = list[tuple[tuple[int, ...], list[list[RemovedSet]]]]
"""Places of windows, each with the walks that their sets are divided into."""


@dataclass(frozen=True)
class _Batch:
    """Windows of one length that are run together."""

    tokens: Tensor
    scored: Tensor
    places: NDArray[np.int64]


class Evaluator:
    """Scores removed sets of one model on one calibration.

    Args:
        model: A loaded model.
        calibration: What it is scored on.
        objective: A name, or an objective itself.
        memory: Bytes that hidden states may take; by default half of what is free.
        memo: Store of losses that are computed once for all runs; None keeps them to this object.
        progress: Where long work shows itself.
    """

    def __init__(
        self,
        model: Model,
        calibration: Calibration,
        objective: str | Objective = "nll",
        *,
        memory: int | None = None,
        memo: Memo | None = None,
        progress: Progress = SILENT,
    ) -> None:
        calibration.check_context(context_of(model))
        self.model = model
        self.calibration = calibration
        self.objective = OBJECTIVES.get(objective)() if isinstance(objective, str) else objective
        self.progress = progress
        self._memory = memory
        self._scores: dict[RemovedSet, Score] = {}
        self._cost = Cost()
        self._weighting = Weighting.of(calibration)
        self._memo = memo
        self._context = None if memo is None else _context(model, self.objective)
        self._keys = [window_key(w.tokens, w.scored) for w in calibration.windows] if memo else []

    @property
    def blocks(self) -> int:
        """Number of the model's blocks."""
        return self.model.blocks

    @property
    def cost(self) -> Cost:
        """What has been spent so far."""
        return self._cost

    @property
    def dense(self) -> Score:
        """The score of the model with every block."""
        return self._scored([()])[0]

    def has_scored(self, removed: RemovedSet) -> bool:
        """Whether the score of a sorted set is at hand."""
        return removed in self._scores

    def score(self, removed: Iterable[Sequence[int]]) -> list[Score]:
        """Score removed sets over all windows.

        Args:
            removed: Sets of original block numbers, in any order; `()` is the dense model.

        Returns:
            One score a set, in the order given.

        Raises:
            UsageError: If a set names a block twice, or one that does not exist.
        """
        sets = [check_removed(s, self.blocks) if len(s) else () for s in removed]
        return self._scored(sets)

    def _scored(self, sets: Sequence[RemovedSet]) -> list[Score]:
        missing = sorted({s for s in sets if s not in self._scores})
        if missing:
            self._compute(missing)
        return [self._scores[s] for s in sets]

    def _compute(self, sets: Sequence[RemovedSet]) -> None:
        began = time.monotonic()
        recalled = self._recall(sets)
        losses = {removed: found.losses for removed, found in recalled.items()}
        work = [
            (places, split_to_fit(members, self.blocks, self._states_that_fit()))
            for places, members in _missing(recalled).items()
        ]
        with self.progress.step(_label(sets), self._block_tokens(work), "block-tokens") as step:
            for places, walks in work:
                for batch in _batches(self.calibration.windows, places, _call_tokens(self.model)):
                    inputs = self.model.anatomy.record(batch.tokens)
                    for group in walks:
                        self._walk(batch, inputs, group, losses, step)
        for removed, values in losses.items():
            self._scores[removed] = score_of(removed, values, self._weighting)
        self._cost += Cost(
            evaluations=sum(1 for s in sets if s),
            plain_block_tokens=self._plain_block_tokens(work),
            recalled=sum(int(found.known.sum()) for found in recalled.values()),
            seconds=time.monotonic() - began,
        )

    def _recall(self, sets: Sequence[RemovedSet]) -> dict[RemovedSet, Remembered]:
        """What the memo knows of these sets, or that nothing is known."""
        if self._memo is not None and self._context is not None:
            return self._memo.look_up(self._context, sets, self._keys)
        count = len(self.calibration.windows)
        return {s: Remembered(np.full(count, np.nan), np.zeros(count, np.bool_)) for s in sets}

    def _block_tokens(self, work: _Work) -> int:
        """What the walks will cost."""
        return sum(
            self._window_tokens(places) * block_runs(group, self.blocks)
            for places, walks in work
            for group in walks
        )

    def _plain_block_tokens(self, work: _Work) -> int:
        """What plain forwards for the same sets and windows would cost."""
        return sum(
            self._window_tokens(places) * (self.blocks - len(removed))
            for places, walks in work
            for group in walks
            for removed in group
        )

    def _window_tokens(self, places: Sequence[int]) -> int:
        return sum(len(self.calibration.windows[place].tokens) for place in places)

    def _walk(
        self,
        batch: _Batch,
        inputs: Inputs,
        sets: Sequence[RemovedSet],
        losses: dict[RemovedSet, NDArray[np.float64]],
        step: Step,
    ) -> None:
        size = batch.tokens.numel()
        together = max(1, _stacked_tokens(self.model) // size)

        def advance(block: int, states: list[Tensor]) -> list[Tensor]:
            answers: list[Tensor] = []
            for first in range(0, len(states), together):
                group = states[first : first + together]
                stacked = group[0] if len(group) == 1 else torch.cat(group)
                answer = self.model.anatomy.call(block, stacked, inputs)
                answers.extend(answer.chunk(len(group)))
            self._cost += Cost(block_tokens=size * len(states))
            step.advance(size * len(states))
            return answers

        found = {}
        for removed, state in walk(sets, self.blocks, inputs.states, advance):
            found[removed] = losses[removed][batch.places] = self._head(batch, state)
        if self._memo is not None and self._context is not None:
            keys = [self._keys[place] for place in batch.places]
            self._memo.store_all(self._context, keys, found)

    @torch.inference_mode()
    def _head(self, batch: _Batch, state: Tensor) -> NDArray[np.float64]:
        """Mean loss of each window of a batch, the head run on chunks of scored tokens."""
        rows, columns = batch.scored.nonzero(as_tuple=True)
        targets = batch.tokens[rows, columns].to(state.device)
        before = state[rows.to(state.device), columns.to(state.device) - 1]
        chunks = []
        for first in range(0, len(rows), _HEAD_CHUNK):
            part = slice(first, first + _HEAD_CHUNK)
            logits = self.model.anatomy.head(before[part].unsqueeze(0))[0]
            chunks.append(self.objective.token_losses(logits, targets[part].to(logits.device)))
        self._cost += Cost(head_tokens=len(rows))
        values = torch.cat(chunks).double().cpu().numpy()
        sums = np.bincount(rows.numpy(), weights=values, minlength=len(batch.tokens))
        means: NDArray[np.float64] = sums / batch.scored.sum(1).numpy()
        return means

    def _states_that_fit(self) -> int:
        longest = max(len(window.tokens) for window in self.calibration.windows)
        widest_batch = max(longest, _call_tokens(self.model))
        embeddings = self.model.module.get_input_embeddings()  # type: ignore[operator]
        weight = next(embeddings.parameters())
        bytes_a_state = widest_batch * int(weight.shape[-1]) * weight.element_size()
        memory = self._memory
        if memory is None:
            memory = int(available_memory(weight.device) * _MEMORY_SHARE)
        return max(2, int(memory // bytes_a_state))


def _call_tokens(model: Model) -> int:
    return _CALL_TOKENS.get(torch.device(model.device).type, _CALL_TOKENS_ELSEWHERE)


def _stacked_tokens(model: Model) -> int:
    """Tokens up to which states share a call.

    On a processor none do: it gains little once a batch fills a call, and there a low-precision
    product may round by what it is stacked with, which would make a resumed run differ.
    """
    return 0 if torch.device(model.device).type == "cpu" else _CALL_TOKENS_ELSEWHERE


def _label(sets: Sequence[RemovedSet]) -> str:
    return f"scoring {len(sets)} set{'s' if len(sets) > 1 else ''} of blocks"


def _context(model: Model, objective: Objective) -> Context | None:
    """What losses depend on; None for weights that have no fingerprint, which are not stored."""
    weights = model.source.fingerprint()
    if weights is None:
        return None
    device = torch.device(model.device).type
    return Context(weights, model.dtype, device, torch.__version__, objective.name)


def _missing(recalled: dict[RemovedSet, Remembered]) -> dict[tuple[int, ...], list[RemovedSet]]:
    """Sets by the places of the windows that are still to be computed for them."""
    groups: dict[tuple[int, ...], list[RemovedSet]] = {}
    for removed, found in recalled.items():
        places = tuple(np.flatnonzero(~found.known).tolist())
        if places:
            groups.setdefault(places, []).append(removed)
    return groups


def _batches(
    windows: Sequence[Window], places: Sequence[int], call_tokens: int
) -> Iterator[_Batch]:
    by_length: dict[int, list[int]] = {}
    for place in places:
        by_length.setdefault(len(windows[place].tokens), []).append(place)
    for length, alike in by_length.items():
        size = max(1, call_tokens // length)
        for first in range(0, len(alike), size):
            chosen = alike[first : first + size]
            yield _Batch(
                torch.from_numpy(np.stack([windows[p].tokens for p in chosen])),
                torch.from_numpy(np.stack([windows[p].scored for p in chosen])),
                np.asarray(chosen),
            )
