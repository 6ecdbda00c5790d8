"""What is known behind a prefix of blocks: hidden states, and what else later blocks read.

Most models pass on one tensor from block to block, and for them a state is that tensor. Where
blocks pass on more (keys and values that others share, indices, a router's states), a state is a
`Carried`: the tensor, and the rest as a tree. A removed block changes neither.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from torch import Tensor

from depthprune.models.blocks.trees import leaves, mapped


@dataclass(frozen=True)
class Carried:
    """Hidden states with what blocks pass on beside them.

    Attributes:
        states: Hidden states, shape (batch, length, width) or with more axes between.
        rest: By name, a tensor or a container that holds some.
    """

    states: Tensor
    rest: Mapping[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.states)


State: TypeAlias = Tensor | Carried


def hidden(state: State) -> Tensor:
    """The hidden states."""
    return state.states if isinstance(state, Carried) else state


def with_hidden(state: State, states: Tensor) -> State:
    """The same with other hidden states."""
    return Carried(states, state.rest) if isinstance(state, Carried) else states


def rest_leaves(state: State) -> dict[str, Tensor]:
    """The tensors beside the hidden states, by path."""
    return dict(leaves(state.rest, objects=True)) if isinstance(state, Carried) else {}


def tensors(state: State) -> Iterator[Tensor]:
    """Every tensor of a state, the hidden states first."""
    yield hidden(state)
    yield from rest_leaves(state).values()


def changed(state: State, change: Callable[[Any], Any], kind: type = Tensor) -> Any:
    """A copy with every tensor changed (or every leaf of another kind)."""
    if not isinstance(state, Carried):
        return change(state)
    rest = mapped(dict(state.rest), lambda _, leaf: change(leaf), objects=True, kind=kind)
    return Carried(change(state.states), rest)
