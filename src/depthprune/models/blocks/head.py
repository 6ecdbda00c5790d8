"""The head: everything between the last block and the logits, as the model itself does it.

The general way runs the model's own forward with every block handing its input on and the last one
replaced by the given states; final norm, projection, soft-capping and scales are then the model's
own code. Most models only chain a norm and a projection, and calling those two directly saves the
embedding and the masks on every chunk. The chain is taken where it is shown, on the probe's
tokens, to give the same logits: to the bit, or else in float32. Where what is behind the norms is a
linear map, with no more than a scale and a cap behind it, losses are made of tiles of it (see
`projection`).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from depthprune.errors import ModelError
from depthprune.models.blocks.projection import Projection, as_they_are, learn_finish, splits
from depthprune.models.blocks.recording import Blocks, patched
from depthprune.models.blocks.replay import relative_difference
from depthprune.models.widening import FLOAT32_LIMIT, WIDER, wide, widened_around

_ROW = 16
"""Tokens of a row in the model's own forward; that of the probe, by which it is proved."""

_LOUD = 1024.0
"""What logits are multiplied by in a second comparison: a cap that bends large ones may leave the
small ones of a probe nearly as they are."""


@dataclass(frozen=True)
class Head:
    """Maps hidden states behind the last block to logits.

    Attributes:
        module: The whole model.
        blocks: Its blocks.
        chain: Modules whose composition is the head, or None where the model's own forward is
            run instead.
        projection: The same taken apart, where logits can be computed by tiles of the vocabulary.
    """

    module: nn.Module
    blocks: Blocks
    chain: tuple[nn.Module, ...] | None
    projection: Projection | None = None

    @torch.inference_mode()
    def __call__(self, states: Tensor) -> Tensor:
        """Logits, shape (batch, length, vocabulary), for states of shape (batch, length, width).

        The whole result is held: give a few hundred tokens at a time.
        """
        return self.with_gradient(states)

    def with_gradient(self, states: Tensor) -> Tensor:
        """The same where gradients are taken: outside of inference mode."""
        if self.chain is None:
            return self._through_the_model(states)
        for link in self.chain:
            states = link(states)
        return states

    def as_it_is(self, changed: Callable[[], AbstractContextManager[None]]) -> Head:
        """A head that goes on having the values that its parameters hold now.

        Args:
            changed: Gives a context in which they hold them, such as the one that is open; a head
                that is the model's own forward is run in it.
        """
        if self.chain is None:
            taken = None if self.projection is None else self.projection.as_it_is()
            return _Changed(self.module, self.blocks, None, taken, changed)
        own = as_they_are(self.chain)
        taken = self.projection
        if taken is not None:
            last = own[-1]
            assert isinstance(last, nn.Linear)
            taken = replace(taken, before=own[:-1], linear=last)
        return replace(self, chain=own, projection=taken)

    def _through_the_model(self, states: Tensor) -> Tensor:
        batch, length = states.shape[:2]
        if length <= _ROW:
            return self._given(states)
        # Tokens of many windows in one row may be more than the model has positions for.
        tokens = states.flatten(0, 1)
        rows = -(-len(tokens) // _ROW)
        filling = tokens[-1:].expand(rows * _ROW - len(tokens), *tokens.shape[1:])
        filled = torch.cat([tokens, filling]).reshape(rows, _ROW, *tokens.shape[1:])
        logits = self._given(filled).flatten(0, 1)[: len(tokens)]
        return logits.reshape(batch, length, -1)

    def _given(self, states: Tensor) -> Tensor:
        native = self.blocks.layout.native(states)

        def give(block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            return self.blocks.answer(block, native)

        device = next(self.module.get_input_embeddings().parameters()).device  # type: ignore[operator]
        tokens = torch.zeros(states.shape[:2], dtype=torch.long, device=device)
        with patched(dict.fromkeys(self.blocks.modules, give)):
            return self.module(input_ids=tokens, use_cache=False).logits  # type: ignore[no-any-return]


@dataclass(frozen=True)
class _Changed(Head):
    """A head that is run inside a context."""

    changed: Callable[[], AbstractContextManager[None]] = nullcontext

    @torch.inference_mode()
    def __call__(self, states: Tensor) -> Tensor:
        with self.changed():
            return self.with_gradient(states)


@torch.inference_mode()
def find_head(module: nn.Module, blocks: Blocks, last: Tensor, reference: Tensor) -> Head:
    """The head of a model, as a chain of modules where that is exact.

    Args:
        module: The whole model.
        blocks: Its blocks, in order.
        last: The last block's output for some tokens, shape (batch, length, width).
        reference: The model's own logits for them.
    """
    general = Head(module, blocks, None)
    links = _links(module, blocks, last)
    if not links:
        return general
    chain = Head(module, blocks, tuple(links))
    try:
        equal = _apart(chain(last), reference) == 0.0 or any(
            _equal_in(dtype, chain, general, last) for dtype in WIDER
        )
    except (TypeError, RuntimeError, ValueError, ModelError):
        equal = False
    if not splits(links[-1]):
        return chain if equal else general
    assert isinstance(links[-1], nn.Linear)
    taken = Projection(tuple(links[:-1]), links[-1], given=tuple(last.shape[2:]))
    if equal:
        return replace(chain, projection=taken)
    try:
        return replace(general, projection=_finished(taken, general, last))
    except (TypeError, RuntimeError, ValueError, LookupError, ModelError):
        return general


def _finished(taken: Projection, general: Head, last: Tensor) -> Projection | None:
    """With what the model does behind the product; None where that is not shown to be all."""
    states = wide(last)
    with widened_around(general.module, general.blocks.modules):
        finish = learn_finish(taken.linear, lambda: general(states))
        if finish is None:
            return None
        found = replace(taken, finish=finish)
        reference = general(states).flatten(0, 1)
        rows = found.rows(states.flatten(0, 1), reference.argmax(-1))
        logits = rows.logits(rows.product(0, found.vocabulary))
        equal = _apart(logits, reference) <= FLOAT32_LIMIT
    return found if equal else None


def _equal_in(dtype: torch.dtype, chain: Head, general: Head, last: Tensor) -> bool:
    def louder(link: nn.Module, args: Any, output: Tensor) -> Tensor:
        return output * _LOUD

    assert chain.chain is not None
    states = wide(last, dtype)
    with widened_around(chain.module, chain.blocks.modules, dtype):
        if not _apart(chain(states), general(states)) <= FLOAT32_LIMIT:
            return False
        handle = chain.chain[-1].register_forward_hook(louder)
        try:
            return _apart(chain(states), general(states)) <= FLOAT32_LIMIT
        finally:
            handle.remove()


def _apart(ours: Tensor, theirs: Tensor) -> float:
    """Relative; infinite where the shapes are not the same."""
    return relative_difference(ours, theirs) if ours.shape == theirs.shape else float("inf")


def _links(module: nn.Module, blocks: Blocks, last: Tensor) -> list[nn.Module]:
    """The outermost modules run after the last block, in order; no block is computed."""
    links: list[nn.Module] = []
    inside: list[nn.Module] = []
    behind: list[nn.Module] = []

    def enter(child: nn.Module, args: Any) -> None:
        if behind:
            if not inside:
                links.append(child)
            inside.append(child)

    def leave(child: nn.Module, args: Any, output: Any) -> None:
        if inside and inside[-1] is child:
            inside.pop()

    handles = []
    for child in module.modules():
        handles.append(child.register_forward_pre_hook(enter))
        handles.append(child.register_forward_hook(leave))
    handles.append(blocks.modules[-1].register_forward_hook(lambda child, *_: behind.append(child)))
    try:
        Head(module, blocks, None)(last)
    finally:
        for handle in handles:
            handle.remove()
    return links
