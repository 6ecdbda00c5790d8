"""Names of a package that are imported when they are first asked for.

Some modules need torch and take a second; whoever asks such a package for another name does not
wait for them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def lazily(package: str, places: Mapping[str, str]) -> Callable[[str], Any]:
    """A package's `__getattr__`.

    Args:
        package: Its name.
        places: Its public names, and the module of the package that each is in.
    """

    def get(name: str) -> Any:
        if name not in places:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(import_module(f"{package}.{places[name]}"), name)
        vars(sys.modules[package])[name] = value
        return value

    return get
