"""What a block adds to the residual stream last, and the weights that can map it.

Recovery maps the output of a block's MLP by a matrix T, and writes T into weights that are there
already. Which those are is found by running the block on a few tokens, in float32, and proved: no
architecture and no module is named. A *term* is a module whose output reaches the block's output
unchanged but for a constant factor (a perturbation of the one shows in the other, multiplied by
one number), and which works token by token, so that attention beside a parallel MLP is none. Its
*weights* are the parameters with which T commutes: mapping their output axis by T maps what they
contribute to the term. All of them together must map the whole term, or the block cannot take it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from depthprune.errors import first_line
from depthprune.models.blocks.anatomy import Anatomy
from depthprune.models.blocks.replay import hidden_of, relative_difference
from depthprune.models.devices import plain_products
from depthprune.recovery.linear.fold import Weight
from depthprune.recovery.linear.normal_equations import wide
from depthprune.recovery.linear.probe import BATCH, LENGTH, LIMIT, Probe, changed, copied, groups


class CannotFoldError(Exception):
    """Why a block cannot take a map; the run above it is left alone."""


@dataclass(frozen=True)
class FoldTarget:
    """How one block folds a map of what its MLP adds.

    Attributes:
        block: Original number.
        terms: Names of the modules, within the block, whose outputs are added.
        scale: What their sum is multiplied by before it is added.
        weights: The parameters that together make up the terms' outputs, by name in the block.
    """

    block: int
    terms: tuple[str, ...]
    scale: float
    weights: tuple[Weight, ...]

    @contextmanager
    def watching(self, block: nn.Module) -> Iterator[Callable[[], Tensor]]:
        """Inside the context, a call gives what the block's last run added by its terms.

        Args:
            block: The block itself.

        Yields:
            A function that returns float64 values, of the shape of the block's states.
        """
        seen: list[Tensor] = []

        def note(module: nn.Module, args: Any, output: Any) -> None:
            # Copied, since a block may go on to add to it in place.
            seen.append(wide(hidden_of(output)))

        def added() -> Tensor:
            total = torch.stack([value.flatten(0, -2) for value in seen]).sum(0)
            seen.clear()
            return total * self.scale

        handles = [block.get_submodule(name).register_forward_hook(note) for name in self.terms]
        try:
            yield added
        finally:
            for handle in handles:
                handle.remove()


def find_fold_target(anatomy: Anatomy, block: int) -> FoldTarget:
    """Find and prove how a block folds a map.

    Args:
        anatomy: Of the model; the block's weights must be in memory.
        block: Original number.

    Raises:
        CannotFoldError: If it cannot, saying why.
    """
    try:
        with plain_products():
            found = _Search(Probe(anatomy, block)).target()
    except (RuntimeError, TypeError, ValueError, KeyError, IndexError, AttributeError) as error:
        raise CannotFoldError(f"block {block} could not be probed ({first_line(error)})") from error
    _refuse_shared(anatomy, found)
    return found


def _refuse_shared(anatomy: Anatomy, found: FoldTarget) -> None:
    block = anatomy.blocks.modules[found.block]
    ours = {id(block.get_parameter(weight.name)) for weight in found.weights}
    holders = [
        name
        for name, parameter in anatomy.module.named_parameters(remove_duplicate=False)
        if id(parameter) in ours
    ]
    if len(holders) > len(ours):
        raise CannotFoldError(f"block {found.block} shares {holders[0]} with another module")


class _Search:
    """The terms and weights of one probed block."""

    def __init__(self, probe: Probe) -> None:
        self.probe = probe
        self.names = {module: name for name, module in probe.module.named_modules() if name}
        self.calls: dict[nn.Module, list[tuple[tuple[Any, ...], dict[str, Any], Any]]] = {}
        self.finished: list[nn.Module] = []

    @torch.inference_mode()
    def target(self) -> FoldTarget:
        base = self._observe()
        passing = {
            module: scale
            for module in self.finished
            if (scale := self.probe.response(module, self._first(module), base)) is not None
        }
        terms: dict[nn.Module, tuple[Weight, ...]] = {}
        for module in self._outermost(passing):
            terms |= self._terms(module, passing)
        if not terms:
            raise CannotFoldError(self._reason(passing))
        scales = [passing[module] for module in terms]
        if max(scales) - min(scales) > LIMIT * max(map(abs, scales)):
            raise CannotFoldError(
                f"block {self.probe.number} adds several terms by different factors"
            )
        return FoldTarget(
            block=self.probe.number,
            terms=tuple(self.names[module] for module in terms),
            scale=scales[0],
            weights=tuple(weight for weights in terms.values() for weight in weights),
        )

    def _observe(self) -> Tensor:
        """Run the block, noting the modules that give states, in the order in which they end."""
        tokens = BATCH * LENGTH

        def note(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            self.calls.setdefault(module, []).append((args, kwargs, copied(output)))
            self.finished.append(module)

        handles = [m.register_forward_hook(note, with_kwargs=True) for m in self.names]
        try:
            base = self.probe.run()
        finally:
            for handle in handles:
                handle.remove()

        def gives_states(module: nn.Module) -> bool:
            if len(self.calls[module]) != 1 or not any(True for _ in module.parameters()):
                return False
            output = self.calls[module][0][2]
            value = output[0] if isinstance(output, tuple) and output else output
            return (
                isinstance(value, Tensor)
                and value.shape[-1:] == (self.probe.width,)
                and (value.numel() == tokens * self.probe.width)
            )

        self.last = self.finished[-1] if self.finished else None
        self.finished = [module for module in self.finished if gives_states(module)]
        return base

    def _first(self, module: nn.Module) -> Tensor:
        """What a module gave when it was observed, or the first of that."""
        return hidden_of(self.calls[module][0][2])

    def _outermost(self, passing: Mapping[nn.Module, float]) -> list[nn.Module]:
        inside = {child for module in passing for child in _below(module)}
        return [module for module in passing if module not in inside]

    def _terms(
        self, module: nn.Module, passing: Mapping[nn.Module, float]
    ) -> dict[nn.Module, tuple[Weight, ...]]:
        """The module, if T can be written into it, else those inside that pass."""
        if not self._tokenwise(module):
            return {}
        weights = self._weights(module)
        if weights:
            return {module: weights}
        found: dict[nn.Module, tuple[Weight, ...]] = {}
        below = set(_below(module))
        inner = {m: s for m, s in passing.items() if m in below}
        for child in self._outermost(inner):
            found |= self._terms(child, inner)
        return found

    def _tokenwise(self, module: nn.Module) -> bool:
        """Whether changing the first token's input leaves the others' output as it was."""
        args, kwargs, output = self.calls[module][0]
        size = hidden_of(output).numel()

        def change(value: Any) -> Any:
            if isinstance(value, Tensor) and value.is_floating_point() and value.numel() == size:
                moved = value.clone()
                moved.view(BATCH, LENGTH, -1)[:, 0] += 1.0
                return moved
            return value

        again = module(*map(change, args), **{k: change(v) for k, v in kwargs.items()})
        before, after = (
            hidden_of(each).reshape(BATCH, LENGTH, -1)[:, 1:] for each in (output, again)
        )
        return relative_difference(after, before) <= LIMIT

    def _weights(self, module: nn.Module) -> tuple[Weight, ...]:
        """The parameters that carry the module's output; empty if they do not carry all of it."""
        turn = torch.eye(self.probe.width, device=self.probe.device)
        turn += 0.5 * self.probe.random(*turn.shape) / self.probe.width**0.5
        base = self._call(module)
        found: list[Weight] = []
        for group in groups(module):
            whole = self._carried(module, group, base, turn)
            if whole is None and len(group) > 1:
                for name in group:
                    found += self._carried(module, [name], base, turn) or []
            found += whole or []
        with changed(module, {w.name: w.axis for w in found}, turn):
            if not found or relative_difference(self._call(module), base @ turn.T) > LIMIT:
                return ()
        prefix = self.names[module]
        return tuple(Weight(f"{prefix}.{weight.name}", weight.axis) for weight in found)

    def _carried(
        self, module: nn.Module, names: Sequence[str], base: Tensor, turn: Tensor
    ) -> list[Weight] | None:
        """The parameters with the axis of their outputs, if mapping that maps their share."""
        with changed(module, dict.fromkeys(names), turn):
            without = self._call(module)
        share = base - without
        if not share.isfinite().all() or relative_difference(without, base) == 0.0:
            return None
        shape = module.get_parameter(names[0]).shape
        for axis in (a for a, size in enumerate(shape) if size == self.probe.width):
            with changed(module, dict.fromkeys(names, axis), turn):
                turned = self._call(module)
            if relative_difference(turned - without, share @ turn.T) <= LIMIT:
                return [Weight(name, axis) for name in names]
        return None

    def _call(self, module: nn.Module) -> Tensor:
        args, kwargs, _ = self.calls[module][0]
        return hidden_of(module(*args, **kwargs))

    def _reason(self, passing: Mapping[nn.Module, float]) -> str:
        number = self.probe.number
        last = [*passing][-1] if passing else self.last
        if last is not None and all(p.dim() < 2 for p in last.parameters()):
            name = self.names[last]
            return f"in block {number} a norm ({name}) follows the MLP, and no map can pass it"
        if last is not None and last in passing and not self._first(last).any():
            return (
                f"the MLP of block {number} adds nothing, so the system is singular and there is "
                "nothing to map"
            )
        if passing:
            return f"what block {number} adds last is no linear map, so none can be written into it"
        return f"block {number} adds nothing linear to its input last"


def _below(module: nn.Module) -> list[nn.Module]:
    return [child for child in module.modules() if child is not module]
