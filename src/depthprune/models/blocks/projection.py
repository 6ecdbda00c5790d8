"""The head's last product by tiles of the vocabulary, where a model's head is known to be one.

Logits of a few hundred tokens over a whole vocabulary are hundreds of megabytes, written and read
several times over by what makes losses of them. A tile of some columns stays in a processor's cache
from the product to the sum. For that the head must be a chain of modules that ends in a linear map,
and what the model makes of the map's output a scale and a soft cap at most. Neither is read off a
config: numbers are put in the place of the map's output, the model's own code is run on them, and a
scale and a cap are fitted to what comes out; any other function, or one that is not the same for
every token of the vocabulary, is left to the model itself.

Products are those of the model's dtype and sum in float32; what is rounded to few bits is widened
after it, and scaled and capped in float32. The logit of a row's own target, which weighs most in a
loss, is computed besides, from its one row of weights, in float32.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

_ROWS = 16
"""A product's rows are filled up to a multiple: 511 took a third longer than 512 on AMX."""

_SMALL, _HUGE = 2.0**-12, 1e30
"""What shows the slope at nothing, and whether there is a cap."""

_AGREES = 1e-5
"""Of a number: how exactly a fitted scale and cap must give what the model's own code does."""


@dataclass(frozen=True)
class Finish:
    """What a model makes of its last product: cap · tanh(scale · x / cap), or scale · x.

    Attributes:
        scale: Factor of a small logit.
        cap: What no logit exceeds, if there is one.
    """

    scale: float = 1.0
    cap: float | None = None

    def __call__(self, logits: Tensor) -> Tensor:
        """Scaled and capped; changes what it is given, which is float32."""
        if self.cap is None:
            return logits if self.scale == 1.0 else logits.mul_(self.scale)
        return logits.mul_(self.scale / self.cap).tanh_().mul_(self.cap)


@dataclass(frozen=True)
class Projection:
    """A head taken apart.

    Attributes:
        before: Modules that are run on the states first: norms, what joins several streams.
        linear: The map to the vocabulary.
        finish: What is made of its output.
        given: Shape of a token's state as the head is given it; None where it is as wide as what
            the map takes.
    """

    before: tuple[nn.Module, ...]
    linear: nn.Linear
    finish: Finish = Finish()
    given: tuple[int, ...] | None = None

    @property
    def vocabulary(self) -> int:
        """How many columns there are."""
        return self.linear.out_features

    def as_it_is(self) -> Projection:
        """One that goes on having the values that the parameters hold now."""
        *before, linear = as_they_are((*self.before, self.linear))
        return replace(self, before=tuple(before), linear=linear)

    def rows(self, states: Tensor, targets: Tensor) -> ProjectedRows:
        """Prepare some tokens' logits.

        Args:
            states: Behind the last block, shape (n, *given).
            targets: A token of the vocabulary for each, shape (n,), int64.
        """
        states = states.unsqueeze(0)
        for link in self.before:
            states = link(states)
        # Some models keep their states in float32, and give the map its own dtype.
        states = states[0].to(self.linear.weight.device, self.linear.weight.dtype)
        targets = targets.to(states.device)
        own = (states.float() * self.linear.weight[targets].float()).sum(-1)
        if self.linear.bias is not None:
            own += self.linear.bias[targets].float()
        filling = states.new_zeros(-len(states) % _ROWS, states.shape[1])
        return ProjectedRows(self, torch.cat([states, filling]), targets, self.finish(own))


def as_they_are(links: tuple[nn.Module, ...]) -> tuple[Any, ...]:
    """Copies of modules that hold what these hold now, whatever these are given later.

    No values are copied: where a parameter's tensor is replaced, the copy keeps the one it had.
    """
    memo: dict[int, Any] = {}
    for link in links:
        for parameter in link.parameters():
            memo[id(parameter)] = nn.Parameter(parameter.data, requires_grad=False)
        for buffer in link.buffers():
            memo[id(buffer)] = buffer
    return tuple(copy.deepcopy(link, memo) for link in links)


class ProjectedRows:
    """Logits of some tokens, given by tiles.

    Args:
        projection: Gives them.
        states: Behind the norms, filled up to whole rows of the matrix unit.
        targets: A token of the vocabulary for each, shape (n,).
        exact: Its logit, computed apart, shape (n,), float32.

    Attributes:
        exact: As given.
    """

    def __init__(
        self, projection: Projection, states: Tensor, targets: Tensor, exact: Tensor
    ) -> None:
        self.exact = exact
        self._projection = projection
        self._states = states
        self._targets = targets
        self._seen = torch.zeros_like(exact)

    def product(self, first: int, last: int) -> Tensor:
        """Of the tokens `first` to before `last`, shape (n, last − first), in the model's dtype."""
        linear = self._projection.linear
        bias = None if linear.bias is None else linear.bias[first:last]
        found = functional.linear(self._states, linear.weight[first:last], bias)
        found = found[: len(self._targets)]
        columns = (self._targets - first).clamp(0, last - first - 1)[:, None]
        inside = (self._targets >= first) & (self._targets < last)
        self._seen = torch.where(inside, found.gather(1, columns)[:, 0].float(), self._seen)
        return found

    def logits(self, product: Tensor) -> Tensor:
        """What the model makes of some rows of a product, in float32, in memory of its own."""
        return self._projection.finish(product.to(torch.float32, copy=True))

    @property
    def seen(self) -> Tensor:
        """The targets' logits as they came in their tiles, when all have come; shape (n,)."""
        return self._projection.finish(self._seen.clone())


def splits(link: nn.Module) -> bool:
    """Whether a module is a linear map whose columns can be computed apart from one another."""
    return (
        type(link) is nn.Linear
        and not link.weight.is_meta
        and link.weight.is_floating_point()
        and not link._forward_hooks
        and not link._forward_pre_hooks
    )


def learn_finish(linear: nn.Linear, run: Callable[[], Tensor]) -> Finish | None:
    """What a model makes of a map's output, if it is a scale and a cap.

    Args:
        linear: The map.
        run: Runs the head by the model's own code, in float32, on any tokens; its logits.
    """
    given: list[Tensor] = []

    def instead(link: nn.Module, args: object, output: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        rows, columns = output[..., 0].numel(), output.shape[-1]
        sizes = torch.logspace(-3, 4, rows)[:, None]
        drawn = torch.randn(rows, columns, generator=generator) * sizes
        drawn[0], drawn[1], drawn[2] = _SMALL, _HUGE, -_HUGE
        given.append(drawn.to(output.device, output.dtype).reshape(output.shape))
        return given[-1]

    handle = linear.register_forward_hook(instead)
    try:
        came = run()
    finally:
        handle.remove()
    if len(given) != 1 or came.shape != given[0].shape:
        return None
    return _fitted(given[0].flatten(0, -2).float(), came.flatten(0, -2).float())


def _fitted(given: Tensor, came: Tensor) -> Finish | None:
    scale = float(came[0, 0]) / _SMALL
    huge = float(came[1, 0])
    if not scale > 0:
        return None
    finish = Finish(scale, None if huge > 1e-3 * scale * _HUGE else huge)
    found = finish(given.clone())
    equal = torch.isclose(found, came, rtol=_AGREES, atol=0.0)
    return finish if bool(equal.all()) else None
