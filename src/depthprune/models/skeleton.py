"""A model without its weights: what is stored is empty, what is computed is there.

Every parameter is on the meta device and takes no memory; buffers that no checkpoint holds (rotary
frequencies) are computed as the model's own code computes them. Dtype, attention and the modules
that stay in float32 are what `from_pretrained` would choose, so that a filled skeleton computes
the same bits as the model loaded whole. What differs between releases of transformers is here.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from depthprune.models.checkpoint import Checkpoint
from depthprune.models.source import ModelSource


def build_skeleton(source: ModelSource, dtype: torch.dtype) -> nn.Module:
    """The transformers model of a source, in evaluation mode, its parameters on the meta device.

    Args:
        source: A checkpoint.
        dtype: What it is to compute in.
    """
    from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

    folder = str(source.folder)
    trust: dict[str, Any] = {"trust_remote_code": source.trust_remote_code}
    config = AutoConfig.from_pretrained(folder, local_files_only=True, **trust)
    with _parameters_on_meta():
        module: Any = AutoModelForCausalLM.from_config(config, dtype=dtype, **trust)
    _keep_in_float32(module, dtype)
    if module.can_generate() and (source.folder / "generation_config.json").is_file():
        module.generation_config = GenerationConfig.from_pretrained(folder, local_files_only=True)
    return module.eval()  # type: ignore[no-any-return]


@contextmanager
def _parameters_on_meta() -> Iterator[None]:
    """Inside the context, a parameter that a module registers is emptied at once.

    The device context of torch would empty the buffers too, and no file holds those.
    """
    register = nn.Module.register_parameter

    def register_empty(self: nn.Module, name: str, param: nn.Parameter | None) -> None:
        register(self, name, param)
        if param is not None and not param.is_meta:
            self._parameters[name] = nn.Parameter(param.detach().to("meta"), requires_grad=False)

    nn.Module.register_parameter = register_empty  # type: ignore[method-assign]
    try:
        yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]


def _keep_in_float32(module: Any, dtype: torch.dtype) -> None:
    """Widen the parameters that the model's type keeps in float32, as `from_pretrained` does."""
    kept: list[str] = []
    if dtype == torch.float16:
        kept += module._keep_in_fp32_modules or ()
    if dtype in (torch.float16, torch.bfloat16):
        kept += module._keep_in_fp32_modules_strict or ()
    if not kept:
        return
    wide = re.compile("|".join(rf"(?:^|\.){re.escape(name)}(?:$|\.)" for name in kept))
    for name, parameter in list(module.named_parameters()):
        if wide.search(name) and parameter.is_floating_point():
            parent, _, attribute = name.rpartition(".")
            owner = module.get_submodule(parent)
            owner._parameters[attribute] = nn.Parameter(parameter.float(), requires_grad=False)


def first_converted(module: Any, checkpoint: Checkpoint) -> str | None:
    """The first tensor that transformers would rename, fuse or reorder on loading, if any does.

    Before transformers 5 only names were changed, which shows in the names.
    """
    try:
        from transformers.conversion_mapping import get_model_conversion_mapping
        from transformers.core_model_loading import WeightConverter, rename_source_key
    except ImportError:
        return None
    mapping = get_model_conversion_mapping(module)
    converters = [entry for entry in mapping if isinstance(entry, WeightConverter)]
    renamings = [entry for entry in mapping if not isinstance(entry, WeightConverter)]
    known = module.state_dict()
    for name in checkpoint.tensors:
        renamed, pattern = rename_source_key(
            name, renamings, converters, module.base_model_prefix, known
        )
        if renamed in known and (pattern is not None or renamed != name):
            return name
    return None


def tie(module: Any, absent: set[str]) -> None:
    """Let tied parameters share one tensor, as loading does.

    Args:
        module: A module whose stored tensors are filled, the blocks' aside.
        absent: Names of the module that the checkpoint has no tensor for.
    """
    if "missing_keys" in inspect.signature(module.tie_weights).parameters:
        module.tie_weights(missing_keys=set(absent), recompute_mapping=False)
    else:
        module.tie_weights()


def may_be_absent(module: Any, name: str) -> bool:
    """Whether the model's type says that a checkpoint need not hold this tensor."""
    patterns = getattr(module, "_keys_to_ignore_on_load_missing", None) or ()
    return any(re.search(pattern, name) for pattern in patterns)
