"""Several devices: what a device map may be, and what it excludes.

transformers and accelerate do the placing. A part that fits no device would be moved there for
every call; such a model is streamed instead.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from typing import TypeAlias

from depthprune.errors import UsageError

DEVICE_MAPS = ("auto", "balanced", "balanced_low_0", "sequential")

DeviceMap: TypeAlias = str | Mapping[str, str | int]
"""Which module stands on which device: a way of choosing, or names of modules and devices."""


def check_placement(device_map: DeviceMap | None, device: str, stream: bool) -> None:
    """Refuse a device map that is unknown, excluded by another flag, or cannot be had here.

    Raises:
        UsageError: Saying which.
    """
    if device_map is None:
        return
    if stream or device != "auto":
        other = "--stream" if stream else f"--device {device}"
        raise UsageError(f"--device-map: cannot be combined with {other}; give one of them")
    if isinstance(device_map, str) and device_map not in DEVICE_MAPS:
        raise UsageError(
            f"--device-map: expected {', '.join(DEVICE_MAPS)} or modules by name, "
            f"got {device_map!r}"
        )
    if importlib.util.find_spec("accelerate") is None:
        raise UsageError("--device-map: needs accelerate; run: pip install accelerate")


def first_device(device_map: DeviceMap | None) -> str | None:
    """The first device that a map names; None where the map leaves the choice to accelerate."""
    if device_map is None or isinstance(device_map, str):
        return None
    first = next(iter(device_map.values()), None)
    return f"cuda:{first}" if isinstance(first, int) else first
