"""Reloads a written checkpoint with plain `from_pretrained`, as its users will.

No key may be missing, unexpected or of another shape.
"""

from __future__ import annotations

from collections.abc import Collection
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import nn

from depthprune.errors import ParityError, first_line
from depthprune.models.auto_class import automatic_class_of, read_config
from depthprune.models.devices import DTYPES, DeviceMap
from depthprune.models.gguf.unpacking import quick_gguf
from depthprune.models.gguf.written_dtype import round_weights
from depthprune.models.loading import Model
from depthprune.models.pretrained import (
    forget_quantization,
    gguf_options,
    in_one_dtype,
    load_streamed,
    numberless,
    quiet_transformers,
)
from depthprune.models.source import find_model
from depthprune.models.turns import put_on


def reload_like(
    model: Model, place: Path, *, stream: bool = False, device_map: DeviceMap | None = None
) -> nn.Module:
    """Load a checkpoint under what its original was loaded with, and ask no more of it.

    Args:
        model: The original.
        place: See `reload`.
        stream: See `reload`.
        device_map: See `reload`.

    Raises:
        ParityError: As `reload`, but for keys that its original has no place for either.
    """
    return reload(
        place,
        model.dtype,
        model.device,
        stream=stream,
        device_map=device_map,
        trust_remote_code=model.source.trust_remote_code,
        tolerated=model.unexpected,
    )


def reload(
    place: Path,
    dtype: str,
    device: str,
    *,
    stream: bool = False,
    device_map: DeviceMap | None = None,
    trust_remote_code: bool = False,
    tolerated: Collection[str] = (),
) -> nn.Module:
    """Load a checkpoint as its users will, and refuse one that does not fit its config.

    Args:
        place: A checkpoint folder, or a GGUF file, whose weights are unpacked.
        dtype: Name of the dtype it computes in.
        device: Where it computes.
        stream: Read its blocks when they are about to run, for a model larger than memory.
        device_map: Lay it on several devices instead, as `load` takes it.
        trust_remote_code: Let the model's own Python code run.
        tolerated: Unexpected keys that its original has too, as `numberless` writes them.

    Raises:
        ParityError: If it cannot be loaded, or a key is missing, unexpected or mismatched.
    """
    try:
        if stream:
            module, info = _streamed(place, DTYPES[dtype], device, trust_remote_code)
        else:
            module, info = _whole(place, DTYPES[dtype], device, device_map, trust_remote_code)
    except Exception as error:
        raise ParityError(
            f"the written checkpoint does not load ({first_line(error, 300)})"
        ) from error
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        keys = sorted(str(key) for key in info.get(kind) or ())
        if kind == "unexpected_keys":
            keys = [key for key in keys if numberless(key) not in tolerated]
        if keys:
            raise ParityError(
                f"the written checkpoint has {len(keys)} {kind.replace('_', ' ')}, such as "
                f"{keys[0]}; nothing was kept"
            )
    return module.eval()


def _whole(
    place: Path,
    dtype: torch.dtype,
    device: str,
    device_map: DeviceMap | None,
    trust_remote_code: bool,
) -> tuple[nn.Module, dict[str, Any]]:
    trust: dict[str, Any] = {"trust_remote_code": trust_remote_code}
    folder, options = place, {}
    if place.is_file():
        folder, options = place.parent, gguf_options(place)
    else:
        options["config"] = read_config(place, **trust)
    if device_map is not None:
        options["device_map"] = device_map
    with quiet_transformers(), quick_gguf() if place.is_file() else nullcontext():
        module, info = automatic_class_of(place, **trust).from_pretrained(
            str(folder),
            dtype=dtype,
            local_files_only=True,
            output_loading_info=True,
            **options,
            **trust,
        )
    in_one_dtype(module, dtype)
    if place.is_file():
        forget_quantization(module)
        round_weights(module, place, dtype)
    return (put_on(module, device) if device_map is None else module), info


def _streamed(
    folder: Path, dtype: torch.dtype, device: str, trust_remote_code: bool
) -> tuple[nn.Module, dict[str, Any]]:
    source = find_model(folder, trust_remote_code=trust_remote_code)
    module, filled = load_streamed(source, dtype, torch.device(device))
    return module, {"unexpected_keys": filled.unexpected}
