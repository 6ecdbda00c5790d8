"""A block's linear layers in the order in which they run, and what each may be refitted to.

Layers that read the same values (queries, keys and values; gate and up) make a *stage*, and are
refitted together. A stage is a *writer* if its output reaches the block's output unchanged but for
a constant factor, while what comes later adds nothing: it can be fitted to what the state behind
the block lacks. A writer may also have an RMS norm behind it, which then bends what it is fitted
to. Any other is a *reader*, fitted to what it gives in the dense model. All of that is found by
running a float32 copy of the block on a few tokens, and no architecture is named. A layer that
does not see every token once (experts), or shares its weight with another module, is in no stage.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from depthprune.models.blocks.anatomy import Anatomy
from depthprune.models.blocks.replay import hidden_of, relative_difference
from depthprune.models.devices import plain_products
from depthprune.recovery.linear.normal_equations import wide
from depthprune.recovery.linear.probe import BATCH, LENGTH, LIMIT, Probe
from depthprune.recovery.parameters import holders


@dataclass(frozen=True)
class Layer:
    """A linear layer of a block.

    Attributes:
        module: Its dotted name in the block.
        outputs: How many values it gives.
        inputs: How many it is given.
        turned: Whether its weight is kept as (inputs, outputs), as GPT-2 does.
    """

    module: str
    outputs: int
    inputs: int
    turned: bool

    @property
    def weight(self) -> str:
        """Dotted name of its weight in the block."""
        return f"{self.module}.weight"


@dataclass(frozen=True)
class Norm:
    """An RMS norm between a writer and the residual stream.

    Attributes:
        module: Its dotted name in the block.
        gain: What each channel is multiplied by, shape (width,), float64.
    """

    module: str
    gain: Tensor


@dataclass(frozen=True)
class Stage:
    """Layers that are given the same values, and are refitted together.

    Attributes:
        layers: One or more; a writer stands alone.
        scale: What a writer's share is multiplied by before it is added; None for readers.
        norm: What bends a writer's output, if anything.
    """

    layers: tuple[Layer, ...]
    scale: float | None = None
    norm: Norm | None = None

    @property
    def weights(self) -> list[str]:
        """The parameters that refitting it changes, dotted in the block."""
        own = [layer.weight for layer in self.layers]
        return own if self.norm is None else [*own, f"{self.norm.module}.weight"]

    def without(self, weights: Collection[str]) -> Stage | None:
        """Without the layers of some weights: itself if it has none, None if none is left."""
        if self.norm is not None and f"{self.norm.module}.weight" in weights:
            return None
        layers = tuple(layer for layer in self.layers if layer.weight not in weights)
        if len(layers) == len(self.layers):
            return self
        return replace(self, layers=layers) if layers else None


def find_stages(anatomy: Anatomy, block: int, terms: Sequence[str] = ()) -> tuple[Stage, ...]:
    """The stages of a block, in the order in which they run; none where it cannot be probed.

    Args:
        anatomy: Of the model; the block's weights must be in memory.
        block: Original number.
        terms: Modules that are known to write last, such as a mixture of experts.
    """
    if not anatomy.blocks.layout.is_usual:
        return ()
    try:
        with plain_products(), torch.inference_mode():
            found = _Order(Probe(anatomy, block)).stages(terms)
    except (RuntimeError, TypeError, ValueError, KeyError, IndexError, AttributeError):
        return ()
    shared = _shared(anatomy, block)
    return tuple(left for stage in found if (left := stage.without(shared)) is not None)


def _shared(anatomy: Anatomy, block: int) -> set[str]:
    """Parameters of a block that are another module's too."""
    held = holders(anatomy.module)
    own = anatomy.blocks.modules[block].named_parameters(remove_duplicate=False)
    return {name for name, parameter in own if held[id(parameter)] > 1}


@dataclass
class _Seen:
    """One call of a module."""

    given: Tensor
    output: Tensor


class _Order:
    """What one run of a probed block shows of its layers."""

    def __init__(self, probe: Probe) -> None:
        self.probe = probe
        self.names = {module: name for name, module in probe.module.named_modules() if name}
        self.seen: dict[nn.Module, list[_Seen]] = {}

    def stages(self, terms: Sequence[str]) -> list[Stage]:
        self._observe()
        layers = {m: layer for m in self.seen if (layer := self._layer(m)) is not None}
        written: dict[nn.Module, tuple[float, Norm | None]] = {}
        silent = [self.probe.module.get_submodule(name) for name in terms]
        norms = self._norms(layers)
        for module, layer in reversed(layers.items()):
            last = norms.get(module, module)
            if layer.outputs != self.probe.width:
                continue
            with self._silenced([s for s in silent if not _holds(s, module)]):
                scale = self.probe.response(last, self.seen[last][0].output, self.probe.run())
            gain = self._gain(last) if scale is not None and last is not module else None
            if scale is None or (last is not module and gain is None):
                continue
            norm = None if gain is None else Norm(self.names[last], gain)
            written[module] = (scale, norm)
            silent.append(last)
        return self._grouped(layers, written)

    def _observe(self) -> None:
        def note(module: nn.Module, args: Any, output: Any) -> None:
            given = args[0] if args and isinstance(args[0], Tensor) else None
            if given is not None and isinstance(output, Tensor):
                self.seen.setdefault(module, []).append(_Seen(given, output))

        with ExitStack() as stack:
            for module in self.names:
                stack.callback(module.register_forward_hook(note).remove)
            self.probe.run()

    def _layer(self, module: nn.Module) -> Layer | None:
        """The module as a linear layer that sees every token once, if it is one."""
        name, weight = self.names[module], getattr(module, "weight", None)
        parameters = {each for each, _ in module.named_parameters()}
        if len(self.seen[module]) != 1 or not {"weight"} <= parameters <= {"weight", "bias"}:
            return None
        # A member of a list beside others (an expert) sees all of these tokens only by chance.
        listed = any(part.isdigit() for part in name.split("."))
        if listed or not isinstance(weight, Tensor) or weight.dim() != 2:
            return None
        call = self.seen[module][0]
        tokens = BATCH * LENGTH
        inputs, outputs = call.given.shape[-1], call.output.shape[-1]
        if (call.given.numel(), call.output.numel()) != (tokens * inputs, tokens * outputs):
            return None
        bias = getattr(module, "bias", None)
        for turned, shape in ((False, (outputs, inputs)), (True, (inputs, outputs))):
            if tuple(weight.shape) == shape:
                product = call.given @ (weight if turned else weight.T)
                product = product if bias is None else product + bias
                if relative_difference(product, call.output) <= LIMIT:
                    return Layer(name, outputs, inputs, turned)
        return None

    def _norms(self, layers: dict[nn.Module, Layer]) -> dict[nn.Module, nn.Module]:
        """For a layer whose output a norm is given, that norm."""
        made = {id(self.seen[m][0].output): m for m in layers}
        found = {}
        for module, calls in self.seen.items():
            small = all(p.dim() == 1 for p in module.parameters())
            before = made.get(id(calls[0].given)) if len(calls) == 1 else None
            if before is not None and small and any(True for _ in module.parameters()):
                found[before] = module
        return found

    def _gain(self, norm: nn.Module) -> Tensor | None:
        """What an RMS norm multiplies each channel by; None if the module is no such norm."""
        given = self.probe.random(BATCH * LENGTH, self.probe.width)
        unit = given / given.pow(2).mean(-1, keepdim=True).sqrt()
        output = norm(given)
        gain: Tensor = (output * unit).sum(0) / unit.pow(2).sum(0)
        if relative_difference(gain * unit, output) > LIMIT or not gain.any():
            return None
        return wide(gain)

    @contextmanager
    def _silenced(self, modules: Sequence[nn.Module]) -> Iterator[None]:
        """Inside the context these modules give zeros."""

        def nothing(module: nn.Module, args: Any, output: Any) -> Any:
            zeros = torch.zeros_like(hidden_of(output))
            return zeros if isinstance(output, Tensor) else (zeros, *output[1:])

        with ExitStack() as stack:
            for module in modules:
                stack.callback(module.register_forward_hook(nothing).remove)
            yield

    def _grouped(
        self,
        layers: dict[nn.Module, Layer],
        written: dict[nn.Module, tuple[float, Norm | None]],
    ) -> list[Stage]:
        stages: list[Stage] = []
        given: Tensor | None = None
        for module, layer in layers.items():
            reads = self.seen[module][0].given
            if module in written:
                stages.append(Stage((layer,), *written[module]))
                given = None
            elif given is reads:
                stages[-1] = Stage((*stages[-1].layers, layer))
            else:
                stages.append(Stage((layer,)))
                given = reads
        return stages


def _holds(outer: nn.Module, inner: nn.Module) -> bool:
    return any(each is inner for each in outer.modules())
