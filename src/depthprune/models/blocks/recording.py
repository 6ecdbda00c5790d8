"""Recording what a model passes to its blocks.

A recording pass runs the model with every block replaced by one that notes its arguments and hands
its input on, and stops at the last: it costs the embedding and the masks, no block and no head.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from depthprune.errors import ModelError
from depthprune.models.blocks.carried import Carried
from depthprune.models.blocks.exchange import Exchange
from depthprune.models.blocks.replay import USUAL, Call, Inputs, Layout

Forward = Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], Any]


@dataclass(frozen=True)
class Blocks:
    """A model's blocks, in order, and the form in which each answers.

    Attributes:
        path: Dotted name of the list that holds them.
        modules: The blocks.
        lengths: For each block the length of the tuple it returns, 0 where it returns a tensor.
        layout: Of the hidden states.
        exchange: What they pass on besides hidden states, if anything.
    """

    path: str
    modules: tuple[nn.Module, ...]
    lengths: Mapping[nn.Module, int]
    layout: Layout = USUAL
    exchange: Exchange | None = None

    def __len__(self) -> int:
        return len(self.modules)

    def answer(self, block: nn.Module, states: Tensor) -> Any:
        """The model's own `states` in the form in which `block` returns its own."""
        length = self.lengths[block]
        return (states, *(None for _ in range(length - 1))) if length else states

    def pass_on(self, block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A `forward` that passes on what it is given."""
        call, states = Call.of(args, kwargs)
        answer = self.answer(block, states)
        if self.exchange is not None and isinstance(answer, tuple):
            return self.exchange.hand_on(block, call.tree, answer)
        return answer


class _Reached(Exception):
    """The recording has seen the last block."""


@contextmanager
def patched(forwards: Mapping[nn.Module, Forward]) -> Iterator[None]:
    """Replace `forward` of some modules, on the instances only, for the length of the context.

    Each replacement is called with the module, the arguments and the keywords.
    """

    def bind(module: nn.Module, forward: Forward) -> Callable[..., Any]:
        return lambda *args, **kwargs: forward(module, args, kwargs)

    before = {module: module.__dict__.get("forward") for module in forwards}
    try:
        for module, forward in forwards.items():
            module.__dict__["forward"] = bind(module, forward)
        yield
    finally:
        for module, original in before.items():
            if original is None:
                module.__dict__.pop("forward", None)
            else:
                module.__dict__["forward"] = original


class Recorder:
    """Notes the calls of `blocks` during one pass of their model."""

    def __init__(self, blocks: Blocks) -> None:
        self._blocks = blocks
        self._states: Tensor | None = None
        self._calls: list[Call] = []

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Inside the context, run the model once."""
        try:
            with patched(dict.fromkeys(self._blocks.modules, self._note)):
                yield
        except _Reached as reached:
            # Python 3.13 makes a circle of it and the frames it went through, which hold states.
            reached.__traceback__ = None

    def _note(self, block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        call, states = Call.of(args, kwargs)
        if self._states is None:
            self._states = states
        self._calls.append(call)
        if len(self._calls) == len(self._blocks):
            raise _Reached
        return self._blocks.pass_on(block, args, kwargs)

    def inputs(self) -> Inputs:
        """What was recorded."""
        if self._states is None or len(self._calls) != len(self._blocks):
            raise ModelError(
                f"the model ran {len(self._calls)} of its {len(self._blocks)} blocks when their "
                "inputs were recorded; it cannot be called block by block"
            )
        layout, exchange = self._blocks.layout, self._blocks.exchange
        states = layout.usual(self._states)
        if exchange is not None and exchange.carries:
            rest = exchange.start(self._blocks.modules, [call.tree for call in self._calls])
            return Inputs(Carried(states, rest), tuple(self._calls), layout)
        return Inputs(states, tuple(self._calls), layout)
