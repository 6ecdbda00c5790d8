"""What computed the figures: this package, Python, and the libraries."""

from __future__ import annotations

import platform
from importlib import metadata

from depthprune.manifest.record import Record

_PACKAGES = ("torch", "transformers", "tokenizers", "safetensors", "numpy", "gguf", "peft")


class Versions(Record):
    """What computed the figures."""

    depthprune: str
    python: str
    platform: str
    packages: dict[str, str]


def versions() -> Versions:
    """The versions of this package, Python and the libraries that compute, without importing them.

    Where this package is run from a source tree that was never installed, its version is
    `"unknown"`.
    """
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    try:
        own = metadata.version("depthprune")
    except metadata.PackageNotFoundError:
        own = "unknown"
    return Versions(
        depthprune=own,
        python=platform.python_version(),
        platform=platform.platform(),
        packages=found,
    )
