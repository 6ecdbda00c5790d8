"""Which stored tensors make a tensor of the model, by transformers' own rules.

A tensor is stored as the model holds it, or under another name, or is joined, split or turned from
several as it loads. Names are changed by the very functions that `from_pretrained` calls, and
tensors by its converters, tried here on tensors without content. Before transformers 5 only names
of the model's prefix were changed, which shows in the names.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from depthprune.checkpoints.safetensors import Tensor as Stored


def converts() -> bool:
    """Whether this transformers has rules by which tensors are converted as they load."""
    return importlib.util.find_spec("transformers.core_model_loading") is not None


@dataclass(frozen=True)
class JoinedTensor:
    """Stored tensors that make tensors of the model together.

    Attributes:
        first: Name of the first of the tensors that are made.
        patterns: For each stored tensor the pattern of its name, by which it is told apart.
        sources: The stored tensors, in the order in which transformers reads them.
    """

    first: str
    patterns: tuple[str, ...]
    sources: tuple[Stored, ...]
    _converter: Any
    _model: Any

    def made(self, tensors: list[torch.Tensor]) -> dict[str, torch.Tensor]:
        """What the content of the stored tensors becomes, by name in the model."""
        converter = deepcopy(self._converter)
        for pattern, source, tensor in zip(self.patterns, self.sources, tensors, strict=True):
            converter.add_tensor(self.first, source.name, pattern, tensor)
        found = converter.convert(self.first, model=self._model, config=self._model.config)
        return {
            name: value[0] if isinstance(value, list) else value for name, value in found.items()
        }

    def shapes(self, dtype: torch.dtype) -> dict[str, torch.Size]:
        """The shapes of what is made, by name.

        Raises:
            Exception: Whatever the converter does not like about these tensors.
        """
        empty = [torch.empty(each.shape, dtype=dtype, device="meta") for each in self.sources]
        return {name: tensor.shape for name, tensor in self.made(empty).items()}


@dataclass(frozen=True)
class Sources:
    """Where a model's tensors come from.

    Attributes:
        single: By name in the model, the stored tensor that is it.
        joins: What is made of several, or is changed.
        unused: Names of stored tensors that the model has no use for.
    """

    single: Mapping[str, Stored]
    joins: tuple[JoinedTensor, ...]
    unused: tuple[str, ...]


def sources_of(module: nn.Module, tensors: Mapping[str, Stored]) -> Sources:
    """Where each tensor of a model comes from.

    Args:
        module: A model from transformers, filled or not.
        tensors: Everything that is stored, by name.
    """
    known = module.state_dict()
    if not converts():
        single = {name: stored for name, stored in tensors.items() if name in known}
        return Sources(single, (), tuple(name for name in tensors if name not in known))
    rename, converters = _renaming(module, known)
    single, unused = {}, []
    parts: dict[str, list[tuple[str, Stored]]] = {}
    for name in sorted(tensors, key=_natural()):
        target, pattern = rename(name)
        if target not in known:
            unused.append(name)
        elif pattern is None:
            single[target] = tensors[name]
        else:
            parts.setdefault(target, []).append((pattern, tensors[name]))
    joins = [
        JoinedTensor(
            first=target,
            patterns=tuple(pattern for pattern, _ in found),
            sources=tuple(stored for _, stored in found),
            _converter=converters[found[0][0]],
            _model=module,
        )
        for target, found in parts.items()
    ]
    return Sources(single, tuple(joins), tuple(unused))


def _natural() -> Any:
    from transformers.core_model_loading import dot_natural_key

    return dot_natural_key


def _renaming(module: Any, known: Mapping[str, torch.Tensor]) -> tuple[Any, dict[str, Any]]:
    """A function that gives a stored name's name in the model, and its converter's pattern."""
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter, rename_source_key

    mapping = get_model_conversion_mapping(module)
    converters = [entry for entry in mapping if isinstance(entry, WeightConverter)]
    renamings = [entry for entry in mapping if not isinstance(entry, WeightConverter)]
    prefix = module.base_model_prefix

    def rename(name: str) -> tuple[str, str | None]:
        renamed, pattern = rename_source_key(name, renamings, converters, prefix, known)
        if renamed not in known and name in known:
            renamed, pattern = rename_source_key(name, [], [], prefix, known)
        return renamed, pattern

    return rename, {source: each for each in converters for source in each.source_patterns}
