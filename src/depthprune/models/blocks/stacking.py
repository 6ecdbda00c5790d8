"""How states of one batch of windows are run together, and how much memory one takes.

Hidden states have their windows first. Of what is carried beside them, which axis follows the
windows and which the tokens is shown by two probes of different shape; where one does not tell,
states are run one by one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from depthprune.models.blocks.carried import (
    Carried,
    State,
    hidden,
    rest_leaves,
)
from depthprune.models.blocks.trees import mapped


@dataclass(frozen=True)
class StateLayout:
    """The tensors of one state, in shape and size.

    Attributes:
        batch: Windows.
        length: Tokens of each.
        shapes: Of the tensors, by path; the hidden states' path is empty.
        sizes: Bytes of one of their numbers.
    """

    batch: int
    length: int
    shapes: Mapping[str, torch.Size]
    sizes: Mapping[str, int]

    @classmethod
    def of(cls, state: State, tokens: Tensor) -> StateLayout:
        """Of a state for some token ids, shape (batch, length)."""
        found = {"": hidden(state), **rest_leaves(state)}
        return cls(
            batch=len(tokens),
            length=tokens.shape[1],
            shapes={path: tensor.shape for path, tensor in found.items()},
            sizes={path: tensor.element_size() for path, tensor in found.items()},
        )


@dataclass(frozen=True)
class Stacking:
    """How states are stacked.

    Attributes:
        axes: By path, which axis of what is carried follows the windows.
        complete: Whether every tensor has such an axis.
        needed: For each block the paths that are carried before it in the dense model.
        forms: By place in the model, for each tensor the bytes that one window takes: a number,
            and how often it is multiplied by the window's length.
    """

    axes: Mapping[str, int] = field(default_factory=dict)
    complete: bool = True
    needed: tuple[frozenset[str], ...] = ()
    forms: tuple[tuple[tuple[float, int], ...], ...] = ()

    @classmethod
    def of_tensors(cls, states: Tensor) -> Stacking:
        """Where a state is hidden states alone, shape (batch, length, width)."""
        return cls(forms=(((states[0, 0].numel() * states.element_size(), 1),),))

    def state_bytes(self, length: int) -> int:
        """Bytes of one token's state, where it is largest, in windows of a length."""
        most = max(sum(size * length**power for size, power in form) for form in self.forms)
        return -(-int(most) // length)

    def lacking(self, block: int, state: State) -> frozenset[str]:
        """What is carried before a block in the dense model and not in this state."""
        return self.needed[block] - rest_leaves(state).keys()

    def stack(self, states: Sequence[State]) -> State | None:
        """Several states as one; None if they cannot be."""
        if not any(isinstance(state, Carried) for state in states):
            return torch.cat([hidden(state) for state in states])
        parts = [rest_leaves(state) for state in states]
        if not self.complete or any(part.keys() != parts[0].keys() for part in parts):
            return None

        def joined(path: str, _: Tensor) -> Tensor:
            return torch.cat([part[path] for part in parts], dim=self.axes[path])

        rest = mapped(dict(_rest(states[0])), joined, objects=True)
        return Carried(torch.cat([hidden(state) for state in states]), rest)

    def split(self, state: State, count: int) -> list[State]:
        """What was stacked, apart again; no part keeps the memory of the whole."""
        parts = [part.clone() for part in hidden(state).chunk(count)]
        if not isinstance(state, Carried):
            return list(parts)
        rests = []
        for place in range(count):

            def part_of(path: str, tensor: Tensor, place: int = place) -> Tensor:
                return tensor.chunk(count, dim=self.axes[path])[place].clone()

            rests.append(mapped(dict(state.rest), part_of, objects=True))
        return [Carried(part, rest) for part, rest in zip(parts, rests, strict=True)]


def _rest(state: State) -> Mapping[str, object]:
    return state.rest if isinstance(state, Carried) else {}


def learn_stacking(rooms: Sequence[tuple[StateLayout, StateLayout]]) -> Stacking:
    """How states are stacked, from those of two shapes of token ids.

    Args:
        rooms: Before each block, and behind the last.
    """
    axes: dict[str, int] = {}
    complete = True
    for small, large in rooms:
        for path, shape in small.shapes.items():
            axis = _batch_axis(shape, large.shapes.get(path), small.batch, large.batch)
            if axis is None or axes.setdefault(path, axis) != axis:
                complete = False
    return Stacking(
        axes=axes,
        complete=complete,
        needed=tuple(frozenset(small.shapes) - {""} for small, _ in rooms),
        forms=tuple(_form(small, large) for small, large in rooms),
    )


def _batch_axis(shape: torch.Size, other: torch.Size | None, batch: int, larger: int) -> int | None:
    """The one axis whose size is as many times the one batch as the other."""
    if other is None or len(other) != len(shape):
        return None
    pairs = enumerate(zip(shape, other, strict=True))
    follow = [axis for axis, (a, b) in pairs if a != b and a * larger == b * batch]
    return follow[0] if len(follow) == 1 else None


def _form(small: StateLayout, large: StateLayout) -> tuple[tuple[float, int], ...]:
    """For each tensor, bytes of a window by powers of its length; too much rather than too little.

    An axis that grows with the length, however slowly, is taken to grow as fast as it.
    """
    form = []
    for path, shape in small.shapes.items():
        count, power = float(small.sizes[path]), 0
        batch = _batch_axis(shape, large.shapes.get(path), small.batch, large.batch)
        others = large.shapes.get(path, shape)
        for axis, size in enumerate(shape):
            if axis == batch:
                count *= size / small.batch
            elif axis < len(others) and others[axis] > size:
                count *= max(size / small.length, others[axis] / large.length)
                power += 1
            else:
                count *= size
        form.append((count, power))
    return tuple(form)
