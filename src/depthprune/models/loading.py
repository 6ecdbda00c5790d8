"""Loading a model to be searched: `dp.load`.

Missing weights are an error here; transformers would fill them with random numbers. A model larger
than memory is streamed (see `streaming`), one larger than a device is laid on several by
accelerate.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from depthprune.checkpoints.purpose import require_language_model
from depthprune.checkpoints.refusals import (
    Refusal,
    checkpoint_refusal,
    config_refusal,
)
from depthprune.errors import ModelError, first_line
from depthprune.models.auto_class import automatic_class_of, read_config
from depthprune.models.blocks.anatomy import Anatomy
from depthprune.models.blocks.find import find_anatomy
from depthprune.models.devices import (
    DTYPES,
    DeviceMap,
    check_placement,
    choose_device,
    first_device,
)
from depthprune.models.dtype_choice import choose_dtype
from depthprune.models.gguf.unpacked import (
    find_kept,
    forget,
    keep,
)
from depthprune.models.gguf.unpacking import quick_gguf
from depthprune.models.source import ModelSource, find_model
from depthprune.models.streaming.proof import prove_streamed
from depthprune.models.streaming.skeleton import (
    Streamed,
    build_skeleton,
    check_streamable,
    stream_into,
)
from depthprune.models.streaming.stream import Stream


@dataclass(frozen=True)
class Model:
    """A loaded causal language model whose blocks can be called one by one.

    Attributes:
        source: Where it came from.
        module: The model from transformers, in evaluation mode.
        tokenizer: Its tokenizer.
        anatomy: Its blocks and head.
        dtype: Name of the dtype it computes in.
        device: Where it computes.
        unexpected: Keys in its files that it has no place for, as `numberless` writes them.
        dtype_reason: What was measured to choose the dtype, if the user did not.
    """

    source: ModelSource
    module: nn.Module
    tokenizer: Any
    anatomy: Anatomy
    dtype: str
    device: str
    unexpected: frozenset[str] = frozenset()
    dtype_reason: str | None = None

    @property
    def streamed(self) -> bool:
        """Whether its blocks are read from disk whenever they run."""
        return self.anatomy.stream is not None

    @property
    def blocks(self) -> int:
        """Number of blocks."""
        return len(self.anatomy.blocks)

    @property
    def stream(self) -> Stream | None:
        """Where the blocks' weights come from, if they are not held."""
        return self.anatomy.stream

    @cached_property
    def refusal(self) -> Refusal:
        """Says of a sorted removed set why a checkpoint without it cannot be written, or None."""
        if self.source.checkpoint is not None:
            return checkpoint_refusal(self.source.checkpoint)
        module: Any = self.module
        return config_refusal(module.config.to_dict())

    @cached_property
    def learns_positions(self) -> bool:
        """Whether it has a table of positions, past whose end it reads nothing at all."""
        return any(
            isinstance(module, nn.Embedding) and ("wpe" in name or "position" in name)
            for name, module in self.module.named_modules()
        )

    @property
    def parameters(self) -> int:
        """Number of parameters, tied ones counted once."""
        return sum(p.numel() for p in self.module.parameters())


def load(
    name: str | Path | ModelSource,
    *,
    dtype: str = "auto",
    device: str = "auto",
    revision: str | None = None,
    trust_remote_code: bool = False,
    allow_pickle: bool = False,
    tokenizer: Any = None,
    stream: bool = False,
    device_map: DeviceMap | None = None,
) -> Model:
    """Load a model.

    Args:
        name: A folder, a hub id, a `.gguf` file, `demo`, or what `find_model` found.
        dtype: `auto`, `float32`, `bfloat16` or `float16`.
        device: `auto` (CUDA, else MPS, else the processor) or a torch device.
        revision: Branch, tag or commit, for a hub id.
        trust_remote_code: Let the model's own Python code run.
        allow_pickle: Accept pickled weights where there are no safetensors.
        tokenizer: A tokenizer already read, to save reading it again.
        stream: Do not hold the blocks; read each from the files when it is about to run.
        device_map: Lay the blocks on several devices, as transformers takes it: `auto`,
            `balanced`, or modules by name; needs accelerate.

    Raises:
        ModelError: If the model cannot be loaded whole, or its blocks cannot be found.
        UsageError: If `dtype`, `device` or `device_map` is unknown, or they exclude each other.
    """
    check_placement(device_map, device, stream)
    source = (
        name
        if isinstance(name, ModelSource)
        else find_model(
            name,
            revision=revision,
            trust_remote_code=trust_remote_code,
            allow_pickle=allow_pickle,
        )
    )
    require_language_model(source.name, source.checkpoint)
    place = choose_device(first_device(device_map) or device)
    choice = choose_dtype(dtype, source, place, held=not stream and device_map is None)
    kind = choice.name
    if stream:
        check_streamable(source)
    tokenizer = tokenizer if tokenizer is not None else source.tokenizer()
    if stream:
        module, filled = load_streamed(source, DTYPES[kind], place)
        anatomy = find_anatomy(module, filled.stream)
        unexpected = frozenset(map(numberless, filled.unexpected))
    else:
        module = load_module(source, DTYPES[kind], place, device_map)
        anatomy = find_anatomy(module)
        unexpected = getattr(module, _UNEXPECTED, frozenset())
    return Model(
        source, module, tokenizer, anatomy, kind, str(anatomy.device), unexpected, choice.why
    )


_UNEXPECTED = "_depthprune_unexpected_keys"
"""Where a loaded module keeps them: what transformers tells of its loading, it tells once."""


def numberless(key: str) -> str:
    """A tensor's name with its numbers put aside, the same before and after a cut."""
    return re.sub(r"(?<=\.)\d+(?=\.)", "*", key)


def load_module(
    source: ModelSource,
    dtype: torch.dtype,
    device: torch.device,
    device_map: DeviceMap | None = None,
) -> nn.Module:
    """The plain transformers model of a source, every weight in place.

    Args:
        source: The model's files.
        dtype: What it is to compute in.
        device: Where it is put, without a device map.
        device_map: What is put where, as `load` takes it.

    Raises:
        ModelError: If transformers cannot load it, or weights are missing or do not fit.
    """
    options: dict[str, Any] = {
        "dtype": dtype,
        "local_files_only": True,
        "trust_remote_code": source.trust_remote_code,
        "output_loading_info": True,
    }
    if device_map is not None:
        options["device_map"] = device_map if isinstance(device_map, str) else dict(device_map)
    if source.gguf is not None:
        module = _from_gguf(source, source.gguf, options)
    else:
        if not source.allow_pickle:
            options["use_safetensors"] = True
        module = _from_pretrained(source, source.folder, options)
    if device_map is None:
        module.to(device)
    elif any(parameter.is_meta for parameter in module.parameters()):
        raise ModelError(
            f"{source.name}: does not fit these devices, and parts of it would be moved for every "
            "call; give more devices, or --stream"
        )
    return module.eval()  # type: ignore[no-any-return]


def _from_pretrained(source: ModelSource, place: Path, options: dict[str, Any]) -> Any:
    """What transformers loads from a folder, or from a GGUF file in it."""
    try:
        with quiet_transformers():
            trust = {"trust_remote_code": source.trust_remote_code}
            loader = automatic_class_of(source.gguf or place, **trust)
            if "gguf_file" not in options:
                options = options | {"config": read_config(place, **trust)}
            module, info = loader.from_pretrained(str(place), **options)
    except Exception as error:
        raise ModelError(
            f"{source.name}: transformers cannot load it ({first_line(error, 300)})"
        ) from error
    _refuse_partial(source.name, info)
    keys = info.get("unexpected_keys") or ()
    setattr(module, _UNEXPECTED, frozenset(numberless(str(key)) for key in keys))
    return module


def _from_gguf(source: ModelSource, file: Path, options: dict[str, Any]) -> Any:
    """An unpacked GGUF, from where it is kept if it was unpacked before."""
    fingerprint, dtype = source.fingerprint() or "", str(options["dtype"]).removeprefix("torch.")
    place = find_kept(file, fingerprint, dtype)
    if place is not None:
        try:
            module = _from_pretrained(source, place, options | {"use_safetensors": True})
            module.config._name_or_path = str(source.folder)
            return module
        except ModelError:
            forget(place)
    with quick_gguf():
        module = _from_pretrained(source, source.folder, options | gguf_options(file))
    forget_quantization(module)
    if "device_map" not in options:
        with quiet_transformers():
            keep(file, fingerprint, dtype, module)
    return module


def load_streamed(
    source: ModelSource, dtype: torch.dtype, device: torch.device
) -> tuple[nn.Module, Streamed]:
    """The transformers model of a checkpoint, its blocks read when they are about to run.

    Args:
        source: The model's files.
        dtype: What it is to compute in.
        device: Where it computes.

    Returns:
        The model, and how its blocks are read.

    Raises:
        ModelError: If transformers cannot build it, weights are missing, or they are not stored
            as the model holds them.
    """
    checkpoint = check_streamable(source)
    try:
        with quiet_transformers():
            module = build_skeleton(source, dtype)
    except Exception as error:
        raise ModelError(
            f"{source.name}: transformers cannot build it ({first_line(error, 300)})"
        ) from error
    with quiet_transformers():
        filled = stream_into(source.name, module, checkpoint, device)
        _refuse_partial(source.name, {"missing_keys": filled.missing})
        fresh = build_skeleton(source, dtype)
        prove_streamed(source.name, module, fresh, filled.outside, filled.stream)
    return module, filled


def gguf_options(file: Path) -> dict[str, Any]:
    """How to have a GGUF's weights unpacked: newer transformers would keep them packed."""
    import transformers

    options: dict[str, Any] = {"gguf_file": file.name}
    if hasattr(transformers, "GgufConfig"):
        options["quantization_config"] = transformers.GgufConfig(dequantize=True)
    return options


def forget_quantization(module: Any) -> None:
    """An unpacked GGUF still calls itself quantized, and would refuse to be saved."""
    for config in (module.config, getattr(module.config, "text_config", None)):
        if config is not None and hasattr(config, "quantization_config"):
            del config.quantization_config
    for name in ("hf_quantizer", "quantization_method"):
        if hasattr(module, name):
            delattr(module, name)
    module.is_quantized = False


def _refuse_partial(name: str, info: dict[str, Any]) -> None:
    for key in ("missing_keys", "mismatched_keys"):
        found = sorted(str(k) for k in info.get(key) or ())
        if found:
            shown = ", ".join(found[:3]) + (", …" if len(found) > 3 else "")
            raise ModelError(
                f"{name}: {len(found)} {key.replace('_', ' ')} in its weights ({shown}); "
                "transformers would fill them with random numbers; repair the checkpoint"
            )


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Inside the context transformers logs errors only and draws no bars of its own."""
    from transformers.utils import logging as transformers_logging

    level = transformers_logging.get_verbosity()
    bars = transformers_logging.is_progress_bar_enabled()
    logger = logging.getLogger("transformers")
    try:
        transformers_logging.set_verbosity_error()
        transformers_logging.disable_progress_bar()
        yield
    finally:
        logger.setLevel(level)
        if bars:
            transformers_logging.enable_progress_bar()
