"""From final hidden states to the losses of windows, a chunk of tokens at a time.

No tensor of tokens × vocabulary is ever held: where the head is known to be a product (see
`projection`) and the objectives take it so, a chunk's logits are made by tiles of the vocabulary,
and each tile is seen for all sets before the next. A chunk is of one window, also where windows
share a call, so that its losses follow no other's. An objective that compares with the dense model
is given the dense model's outputs for the chunk, made once from its own final state for all
sets that were walked beside it; nothing of the dense model is stored.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from depthprune.calibration import Window
from depthprune.evaluator.batches import Batch
from depthprune.evaluator.memory import head_tokens, tile_tokens
from depthprune.evaluator.prefix_walk import RemovedSet
from depthprune.evaluator.tile_walk import losses_by_tiles, passes_of, rows_round_apart
from depthprune.models.blocks.head import Head
from depthprune.models.blocks.projection import Projection
from depthprune.models.devices import plain_products, uploaded
from depthprune.models.free_memory import give_back_memory, out_of_memory
from depthprune.models.loading import Model
from depthprune.objectives import Mixture
from depthprune.objectives.checked import token_losses, window_loss
from depthprune.objectives.tiles import Tiled, columns_of, is_tiled

Found = dict[RemovedSet, NDArray[np.float64]]
"""Losses by set, shape (components, windows of the batch); NaN where a component does not judge."""

_CHUNK_LEAST = 16


@dataclass(frozen=True)
class _Scored:
    """Which states of a batch are scored, and against what, on the device of the states."""

    rows: Tensor
    columns: Tensor
    targets: Tensor

    @classmethod
    def of(cls, batch: Batch, device: torch.device) -> _Scored:
        return cls(*(uploaded(each, device) for each in (batch.rows, batch.columns, batch.targets)))


class Losses:
    """Turns final states into losses.

    Args:
        model: Whose head is run.
        objective: One or more objectives.
        windows: All windows of the calibration.
        judged: For each component, which windows it judges, shape (components, windows).

    Attributes:
        head_tokens: Tokens whose logits were computed so far.
        chunk: Tokens whose logits are held at once; halved where memory does not hold them.
    """

    def __init__(
        self,
        model: Model,
        objective: Mixture,
        windows: Sequence[Window],
        judged: NDArray[np.bool_],
    ) -> None:
        self.head_tokens = 0
        self._model = model
        self._objectives = [component.objective for component in objective.components]
        self._windows = windows
        self._judged = judged
        self._projection = self._tiled()
        self._changed: Head | None = None
        self._usual = head_tokens(model) if self._projection is None else tile_tokens(model)
        self.chunk = self._usual

    def _tiled(self) -> Projection | None:
        """What gives logits by tiles, if the head can and all objectives of logits take them."""
        reading = [each for each in self._objectives if each.reads == "logits"]
        able = bool(reading) and all(is_tiled(each) for each in reading)
        return self._model.anatomy.head.projection if able else None

    @property
    def rounding(self) -> str:
        """Names what losses round by in the head: tiles, and a chunk that memory made smaller."""
        if not self.runs_head:
            return ""
        way = ", logits"
        if self._projection is not None:
            columns = columns_of(self._projection.linear.weight.device.type)
            way = f", shared tiles {self._usual}×{columns}"
        return way + (f", head {self.chunk}" if self.chunk < self._usual else "")

    @property
    def passes(self) -> int:
        """How often the head is run on a token."""
        if self._projection is None:
            return int(self.runs_head)
        return passes_of([each for each in self._objectives if isinstance(each, Tiled)])

    @property
    def compares(self) -> bool:
        """Whether the dense model must be walked beside the sets."""
        return any(objective.compares for objective in self._objectives)

    @property
    def runs_head(self) -> bool:
        """Whether logits are computed."""
        return any(objective.reads == "logits" for objective in self._objectives)

    @contextmanager
    def changed(self, head: Head | None) -> Iterator[None]:
        """Inside the context all sets but the dense model's have another head.

        Args:
            head: Of the same shape; None for the model's own.
        """
        self._changed = head
        try:
            yield
        finally:
            self._changed = None

    def _head_of(self, removed: RemovedSet) -> Head:
        own = self._model.anatomy.head
        return self._changed if removed and self._changed is not None else own

    @torch.inference_mode()
    @plain_products()
    def losses(self, batch: Batch, finals: Iterator[tuple[RemovedSet, Tensor]]) -> Found:
        """The losses of each set on a batch's windows.

        Where memory runs out, those of sets that had larger chunks are left out: they round
        otherwise, and are to be asked for again.

        Args:
            batch: The windows.
            finals: Each set with its state behind the last block; with a comparing objective the
                dense model, `()`, is among them.
        """
        if not self.compares:
            found: Found = {}
            for removed, state in finals:
                chunk = self.chunk
                losses = self._windows_of(batch, {removed: state})
                found = found | losses if self.chunk == chunk else losses
            return found
        return self._windows_of(batch, dict(finals))

    def _windows_of(self, batch: Batch, states: Mapping[RemovedSet, Tensor]) -> Found:
        while True:
            try:
                found = self._chunks_of(batch, states)
                break
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error) or self.chunk <= _CHUNK_LEAST or not self.runs_head:
                    raise
            give_back_memory()
            self.chunk //= 2
        # The device is waited for once a set, when all of it is under way.
        return {
            removed: self._window_losses(batch, losses.cpu().double().numpy())
            for removed, losses in found.items()
        }

    def _chunks_of(
        self, batch: Batch, states: Mapping[RemovedSet, Tensor]
    ) -> dict[RemovedSet, Tensor]:
        """Each set's token losses, shape (components, scored tokens)."""
        scored = _Scored.of(batch, next(iter(states.values())).device)
        tokens: dict[RemovedSet, list[Tensor]] = {removed: [] for removed in states}
        for part, rows in self._parts(batch):
            for removed, losses in self._tokens_of(scored, states, part, rows):
                tokens[removed].append(losses)
        return {removed: torch.cat(parts, dim=1) for removed, parts in tokens.items()}

    def _parts(self, batch: Batch) -> Iterator[tuple[slice, int]]:
        """Chunks of a batch's scored tokens, and how many rows each is filled up to.

        A product rounds by its rows, which follow no company: a chunk is of one window, or of
        windows of text that are scored whole, filled up to what the shape of the call says.
        """
        together, rows = self._sharing(batch)
        first = waiting = 0
        for count in batch.counts:
            whole = together > 1 and count == batch.tokens.shape[1] - 1
            if waiting and (not whole or waiting == together * count):
                yield slice(first - waiting, first), rows
                waiting = 0
            if whole:
                waiting += count
            else:
                for start in range(first, first + count, self.chunk):
                    yield slice(start, min(start + self.chunk, first + count)), 0
            first += count
        if waiting:
            yield slice(first - waiting, first), rows

    def _sharing(self, batch: Batch) -> tuple[int, int]:
        """How many windows of a batch's shape share a chunk, of how many rows; 1 where none do."""
        windows, length = batch.tokens.shape
        if not batch.shared or batch.arguments or self._projection is None:
            return 1, 0
        together = min(windows, self.chunk // length)
        rows = together * length
        if together < 2 or not rows_round_apart(self._projection, rows):
            return 1, 0
        return together, rows

    def _tokens_of(
        self, scored: _Scored, states: Mapping[RemovedSet, Tensor], part: slice, rows: int
    ) -> Iterator[tuple[RemovedSet, Tensor]]:
        """Each set's token losses of one chunk, shape (components, tokens)."""
        if self._projection is not None:
            return self._tokens_by_tiles(scored, states, part, rows)
        return self._tokens_of_whole(scored, states, part)

    def _tokens_of_whole(
        self, scored: _Scored, states: Mapping[RemovedSet, Tensor], part: slice
    ) -> Iterator[tuple[RemovedSet, Tensor]]:
        """The same from logits over the whole vocabulary."""
        dense = self._outputs((), states[()], scored, part) if self.compares else {}
        for removed, state in states.items():
            known = removed == () and dense
            outputs = dense if known else self._outputs(removed, state, scored, part)
            rows = []
            for objective in self._objectives:
                seen = outputs[objective.reads]
                other = dense.get(objective.reads) if objective.compares else None
                targets = scored.targets[part].to(seen.device)
                rows.append(token_losses(objective, seen, targets, other).to(state.device))
            yield removed, torch.stack(rows)

    def _tokens_by_tiles(
        self,
        scored: _Scored,
        states: Mapping[RemovedSet, Tensor],
        part: slice,
        filled: int,
    ) -> Iterator[tuple[RemovedSet, Tensor]]:
        """The same from tiles of the vocabulary, in a chunk filled up to so many rows."""
        count = part.stop - part.start
        places = torch.arange(part.start, max(part.stop, part.start + filled))
        places = places.clamp_(max=part.stop - 1).to(scored.rows.device)
        before = {
            s: state[scored.rows[places], scored.columns[places]] for s, state in states.items()
        }
        targets = scored.targets[places]
        reading = [each for each in self._objectives if isinstance(each, Tiled)]
        heads = {removed: self._head_of(removed).projection for removed in before}
        projections = {removed: each for removed, each in heads.items() if each is not None}
        found = losses_by_tiles(reading, projections, before, targets, ())
        self.head_tokens += self.passes * count * len(before)
        for removed, own in before.items():
            by_tiles = iter(found[removed])
            rows = [
                next(by_tiles)
                if isinstance(each, Tiled)
                else token_losses(each, own, targets, before[()] if each.compares else None)
                for each in self._objectives
            ]
            yield removed, torch.stack([row[:count].to(states[removed].device) for row in rows])

    def _outputs(
        self, removed: RemovedSet, state: Tensor, scored: _Scored, part: slice
    ) -> dict[str, Tensor]:
        before = state[scored.rows[part], scored.columns[part]]
        outputs = {"states": before}
        if self.runs_head:
            outputs["logits"] = self._head_of(removed)(before.unsqueeze(0))[0]
            self.head_tokens += len(before)
        return outputs

    def _window_losses(self, batch: Batch, tokens: NDArray[np.float64]) -> NDArray[np.float64]:
        ends = np.cumsum(batch.counts)
        answer = np.full((len(tokens), len(batch.places)), np.nan)
        for row, objective in enumerate(self._objectives):
            for column, (place, losses) in enumerate(
                zip(batch.places, np.split(tokens[row], ends[:-1]), strict=True)
            ):
                if self._judged[row, place]:
                    answer[row, column] = window_loss(objective, losses, self._windows[place])
        return answer
