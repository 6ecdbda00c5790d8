"""LoRA adapters on the linear projections of the kept blocks, by PEFT, and the way back.

No architecture is named: every `nn.Linear` of a kept block (and GPT-2's `Conv1D`) is adapted, but
for one that other modules share or that the model's files do not hold as it is. Adapters are in
float32 whatever the model, since steps of their weights are lost in bfloat16. When the context ends
every module, attribute and gradient flag is what it was.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from depthprune.errors import ModelError, UsageError, first_line
from depthprune.models.blocks.anatomy import Anatomy
from depthprune.recovery.delta import LowRank
from depthprune.recovery.methods import LoRA
from depthprune.recovery.parameters import frozen, holders

_NAME = "default"


class Adapters:
    """The adapters in a model.

    Args:
        layers: PEFT's layers by the names of the modules that they stand for.
        first: The lowest block that has any.
    """

    def __init__(self, layers: dict[str, Any], first: int = 0) -> None:
        self.layers = layers
        self.first = first

    @property
    def parameters(self) -> list[nn.Parameter]:
        """What is trained, in a fixed order."""
        return [
            part[_NAME].weight
            for layer in self.layers.values()
            for part in (layer.lora_A, layer.lora_B)
        ]

    @property
    def head(self) -> Mapping[str, Tensor]:
        """What is trained of the head: nothing."""
        return {}

    def in_place(self, block: int) -> AbstractContextManager[None]:
        """Inside the context a block has its adapters, as it has outside."""
        return nullcontext()

    @contextmanager
    def off(self) -> Iterator[None]:
        """Inside the context the model computes as if it had no adapters."""
        try:
            for layer in self.layers.values():
                layer.enable_adapters(False)
            yield
        finally:
            for layer in self.layers.values():
                layer.enable_adapters(True)

    def changes(self) -> dict[str, LowRank]:
        """What they add, by the names of the weights in the model."""
        return {
            f"{name}.weight": LowRank(
                down=layer.lora_A[_NAME].weight.detach().float().cpu().clone(),
                up=layer.lora_B[_NAME].weight.detach().float().cpu().clone(),
                scale=float(layer.scaling[_NAME]),
                turned=bool(getattr(layer, "fan_in_fan_out", False)),
            )
            for name, layer in self.layers.items()
        }


def targets(
    anatomy: Anatomy, kept: Sequence[int], unwritten: Collection[str] = ()
) -> dict[str, nn.Module]:
    """The modules that are adapted, by their names in the model.

    Args:
        anatomy: Of the model.
        kept: Original block numbers.
        unwritten: Weights, by their names in the model, that no checkpoint could be given.

    Raises:
        ModelError: If the kept blocks have none.
    """
    from transformers.pytorch_utils import Conv1D

    module, path = anatomy.module, anatomy.blocks.path
    modules = Counter(id(m) for _, m in module.named_modules(remove_duplicate=False))
    weights = holders(module)
    found: dict[str, nn.Module] = {}
    for block in kept:
        for name, child in anatomy.blocks.modules[block].named_modules():
            if not (name and isinstance(child, (nn.Linear, Conv1D))):
                continue
            alone = modules[id(child)] == 1 and weights[id(child.weight)] == 1
            full = f"{path}.{block}.{name}"
            written = f"{full}.weight" not in unwritten
            if alone and written and child.weight.is_floating_point():
                found[full] = child
    if not found:
        raise ModelError(
            f"{type(module).__name__}: --recover lora: expected linear projections in the kept "
            "blocks, found none that PEFT adapts; take --recover linear"
        )
    return found


def require_rank(chosen: Iterable[nn.Module], settings: LoRA) -> None:
    """Refuse a rank above every module's size.

    Raises:
        UsageError: With the highest that one has.
    """
    # Of a few outputs, such as the gate of a shared expert, a higher rank costs next to nothing.
    full = max(min(each.get_parameter("weight").shape) for each in chosen)
    if settings.rank > full:
        raise UsageError(
            f"--recover lora: rank: expected at most {full}, the full rank of a projection, got "
            f"{settings.rank}"
        )


@contextmanager
def adapted(
    anatomy: Anatomy, kept: Sequence[int], settings: LoRA, unwritten: Collection[str] = ()
) -> Iterator[Adapters]:
    """Inside the context the kept blocks have adapters that add nothing yet.

    Args:
        anatomy: Of the model.
        kept: Original block numbers.
        settings: Rank, alpha and seed are read.
        unwritten: As `targets` takes it.

    Raises:
        ModelError: If PEFT cannot adapt a module.
        UsageError: If the rank is above every module's size.
    """
    module, path = anatomy.module, f"{anatomy.blocks.path}."
    chosen = targets(anatomy, kept, unwritten)
    require_rank(chosen.values(), settings)
    with frozen(module):
        try:
            # Of a whole model PEFT would know the type, and for some move targets to other names.
            blocks = nn.ModuleDict({str(b): anatomy.blocks.modules[b] for b in kept})
            found = _inject(blocks, [name.removeprefix(path) for name in chosen], settings)
            yield Adapters({f"{path}{name}": layer for name, layer in found.items()}, kept[0])
        finally:
            for name, original in chosen.items():
                parent, _, leaf = name.rpartition(".")
                module.get_submodule(parent)._modules[leaf] = original


def _inject(blocks: nn.ModuleDict, names: list[str], settings: LoRA) -> dict[str, Any]:
    """PEFT's layers in place of the named modules, by name."""
    from peft import LoraConfig, inject_adapter_in_model

    alpha: Any = settings.alpha  # PEFT divides by the rank, whatever its type says
    config = LoraConfig(
        r=settings.rank, lora_alpha=alpha, lora_dropout=0.0, bias="none", target_modules=names
    )
    devices = {p.device for p in blocks.parameters() if p.device.type == "cuda"}
    # PEFT warns of GPT-2's layout, which it then sets right itself.
    with warnings.catch_warnings(), torch.random.fork_rng(sorted(devices, key=str)):
        warnings.simplefilter("ignore")
        torch.manual_seed(settings.seed)
        try:
            inject_adapter_in_model(config, blocks, adapter_name=_NAME)
        except (ValueError, TypeError, RuntimeError) as error:
            raise _cannot(first_line(error)) from error
    layers: dict[str, Any] = {
        name: child for name, child in blocks.named_modules() if hasattr(child, "lora_A")
    }
    if set(layers) != set(names):
        differing = sorted(set(layers) ^ set(names))
        raise _cannot(f"it adapts other modules than asked for, such as {differing[0]}")
    for layer in layers.values():
        for part in (layer.lora_A, layer.lora_B):
            part[_NAME].float().requires_grad_(True)
    return layers


def _cannot(reason: str) -> ModelError:
    return ModelError(
        f"--recover lora: PEFT cannot adapt this model ({reason}); take --recover linear"
    )
