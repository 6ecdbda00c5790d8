"""What transformers makes of a model's files: the plain module, every weight in place.

Missing weights are an error here; transformers would fill them with random numbers.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from depthprune.errors import ModelError, first_line
from depthprune.models.auto_class import automatic_class_of, read_config
from depthprune.models.devices import DTYPES, DeviceMap
from depthprune.models.free_memory import out_of_memory
from depthprune.models.gguf.config import config_of, require_all
from depthprune.models.gguf.unpacked import find_kept, forget, keep
from depthprune.models.gguf.unpacking import quick_gguf
from depthprune.models.gguf.written_dtype import round_weights
from depthprune.models.source import ModelSource
from depthprune.models.streaming.proof import prove_streamed
from depthprune.models.streaming.skeleton import (
    Streamed,
    build_skeleton,
    check_streamable,
    stream_into,
)
from depthprune.models.widening import is_narrow

_UNEXPECTED = "_depthprune_unexpected_keys"
"""Where a loaded module keeps them: what transformers tells of its loading, it tells once."""


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
        with _memory_told(source.name, device):
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
    in_one_dtype(module, options["dtype"])
    keys = info.get("unexpected_keys") or ()
    setattr(module, _UNEXPECTED, frozenset(numberless(str(key)) for key in keys))
    return module


def _from_gguf(source: ModelSource, file: Path, options: dict[str, Any]) -> Any:
    """An unpacked GGUF, from where it is kept if it was unpacked before."""
    fingerprint, dtype = source.fingerprint() or "", str(options["dtype"]).removeprefix("torch.")
    module = _from_kept(source, find_kept(file, fingerprint, dtype), options)
    if module is not None:
        return module
    with quick_gguf():
        module = _from_pretrained(source, source.folder, options | gguf_options(file))
    forget_quantization(module)
    require_all(file, module)
    round_weights(module, file, options["dtype"])
    if "device_map" not in options:
        with quiet_transformers():
            keep(file, fingerprint, dtype, module)
        # As it will be read from now on: a product may round by where its matrix lies in memory.
        kept = _from_kept(source, find_kept(file, fingerprint, dtype), options)
        module = module if kept is None else kept
    return module


def _from_kept(source: ModelSource, place: Path | None, options: dict[str, Any]) -> Any:
    """What was unpacked before; None where nothing was, or it cannot be read."""
    if place is None:
        return None
    try:
        module = _from_pretrained(source, place, options | {"use_safetensors": True})
    except ModelError:
        forget(place)
        return None
    module.config._name_or_path = str(source.folder)
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
    with quiet_transformers(), _memory_told(source.name, device):
        filled = stream_into(source.name, module, checkpoint, device)
        _refuse_partial(source.name, {"missing_keys": filled.missing})
        fresh = build_skeleton(source, dtype)
        prove_streamed(source.name, fresh, filled.outside, filled.stream)
    return module, filled


def gguf_options(file: Path) -> dict[str, Any]:
    """How to have a GGUF's weights unpacked: newer transformers would keep them packed.

    Args:
        file: The GGUF.

    Raises:
        ModelError: If transformers makes no config of it that says what the file does.
    """
    import transformers

    options: dict[str, Any] = {"gguf_file": file.name, "config": config_of(file)}
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


def in_one_dtype(module: nn.Module, dtype: torch.dtype) -> None:
    """Give unpacked weights the dtype of the others.

    What transformers unpacks because the device has no kernel for it (eight-bit floats on a
    processor) it may leave in bfloat16, whatever was asked for.

    Args:
        module: As transformers loaded it; one that is still packed stays as it is.
        dtype: What it is to compute in.
    """
    held = list(module.parameters())
    if all(each.dtype in (*DTYPES.values(), torch.float64) for each in held):
        for parameter in held:
            if is_narrow(parameter.dtype) and parameter.dtype != dtype:
                parameter.data = parameter.data.to(dtype)


def unexpected_keys(module: nn.Module) -> frozenset[str]:
    """Keys in the files of a module from `load_module` that it has no place for."""
    found: frozenset[str] = getattr(module, _UNEXPECTED, frozenset())
    return found


def numberless(key: str) -> str:
    """A tensor's name with its numbers put aside, the same before and after a cut."""
    return re.sub(r"(?<=\.)\d+(?=\.)", "*", key)


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
def _memory_told(name: str, device: torch.device) -> Iterator[None]:
    """Inside the context a model's weights are put on a device, which may have no room for them."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        raise ModelError(
            f"{name}: memory ran out on {device} while its weights were put there "
            f"({first_line(error)}); close other programs, or take --stream, --dtype bfloat16, "
            "--device-map auto or --device cpu"
        ) from error


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
