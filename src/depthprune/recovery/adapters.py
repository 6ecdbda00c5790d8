"""LoRA adapters on the linear projections of the kept blocks, by PEFT, and the way back.

No architecture is named: every `nn.Linear` of a kept block (and GPT-2's `Conv1D`) is adapted, but
for one that other modules share. Adapters are in float32 whatever the model, since steps of their
weights are lost in bfloat16. When the context ends every module, attribute and gradient flag is
what it was.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from depthprune.errors import ModelError, UsageError, first_line
from depthprune.models.anatomy import Anatomy
from depthprune.recovery.low_rank import LowRank
from depthprune.recovery.methods import LoRA

_NAME = "default"
_PEFT_ATTRIBUTES = ("peft_config", "base_model_tp_plan")


class Adapters:
    """The adapters in a model.

    Args:
        layers: PEFT's layers by the names of the modules that they stand for.
    """

    def __init__(self, layers: dict[str, Any]) -> None:
        self.layers = layers

    @property
    def parameters(self) -> list[nn.Parameter]:
        """What is trained, in a fixed order."""
        return [
            part[_NAME].weight
            for layer in self.layers.values()
            for part in (layer.lora_A, layer.lora_B)
        ]

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

    def low_rank(self) -> dict[str, LowRank]:
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


def targets(anatomy: Anatomy, kept: Sequence[int]) -> dict[str, nn.Module]:
    """The modules that are adapted, by their names in the model.

    Raises:
        ModelError: If the kept blocks have none.
    """
    from transformers.pytorch_utils import Conv1D

    module, path = anatomy.module, anatomy.blocks.path
    modules = Counter(id(m) for _, m in module.named_modules(remove_duplicate=False))
    weights = Counter(id(p) for _, p in module.named_parameters(remove_duplicate=False))
    found: dict[str, nn.Module] = {}
    for block in kept:
        for name, child in anatomy.blocks.modules[block].named_modules():
            if not (name and isinstance(child, (nn.Linear, Conv1D))):
                continue
            alone = modules[id(child)] == 1 and weights[id(child.weight)] == 1
            if alone and child.weight.is_floating_point():
                found[f"{path}.{block}.{name}"] = child
    if not found:
        raise ModelError(
            f"{type(module).__name__}: --recover lora: expected linear projections in the kept "
            "blocks, found none that PEFT adapts; take --recover linear"
        )
    return found


@contextmanager
def adapted(anatomy: Anatomy, kept: Sequence[int], settings: LoRA) -> Iterator[Adapters]:
    """Inside the context the kept blocks have adapters that add nothing yet.

    Args:
        anatomy: Of the model.
        kept: Original block numbers.
        settings: Rank, alpha and seed are read.

    Raises:
        ModelError: If PEFT cannot adapt a module.
        UsageError: If the rank is above a module's size.
    """
    module = anatomy.module
    chosen = targets(anatomy, kept)
    narrow = min(min(m.weight.shape) for m in chosen.values())  # type: ignore[union-attr, arg-type]
    if settings.rank > narrow:
        raise UsageError(
            f"--recover lora: rank: expected at most {narrow}, the least size of a projection, got "
            f"{settings.rank}"
        )
    flags = [(p, p.requires_grad) for p in module.parameters()]
    before = {name: module.__dict__[name] for name in _PEFT_ATTRIBUTES if name in module.__dict__}
    try:
        yield Adapters(_inject(module, list(chosen), settings))
    finally:
        for name, original in chosen.items():
            parent, _, leaf = name.rpartition(".")
            module.get_submodule(parent)._modules[leaf] = original
        for name in _PEFT_ATTRIBUTES:
            module.__dict__.pop(name, None)
        module.__dict__.update(before)
        for parameter, flag in flags:
            parameter.requires_grad_(flag)


def _inject(module: nn.Module, names: list[str], settings: LoRA) -> dict[str, Any]:
    from peft import LoraConfig, inject_adapter_in_model

    config = LoraConfig(
        r=settings.rank, lora_alpha=settings.alpha, lora_dropout=0.0, bias="none",
        target_modules=names,
    )  # fmt: skip
    devices = {p.device for p in module.parameters() if p.device.type == "cuda"}
    # PEFT warns of GPT-2's layout, which it then sets right itself.
    with warnings.catch_warnings(), torch.random.fork_rng(sorted(devices, key=str)):
        warnings.simplefilter("ignore")
        torch.manual_seed(settings.seed)
        try:
            inject_adapter_in_model(config, module, adapter_name=_NAME)
        except (ValueError, TypeError, RuntimeError) as error:
            raise ModelError(
                f"{type(module).__name__}: --recover lora: PEFT cannot adapt it "
                f"({first_line(error)}); take --recover linear"
            ) from error
    layers = {name: module.get_submodule(name) for name in names}
    for layer in layers.values():
        for part in (layer.lora_A, layer.lora_B):  # type: ignore[union-attr]
            part[_NAME].float().requires_grad_(True)  # type: ignore[index, operator]
    return layers
