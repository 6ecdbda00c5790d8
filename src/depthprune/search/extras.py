"""Libraries that single searches need, imported when such a search is asked for."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from depthprune.errors import UsageError


def needed(search: str, *modules: str) -> tuple[Any, ...]:
    """Import modules that come with the extra `search`.

    Args:
        search: Which search needs them.
        *modules: Their names.

    Raises:
        UsageError: If one is not installed.
    """
    try:
        return tuple(import_module(name) for name in modules)
    except ImportError as error:
        raise UsageError(
            f"search {search}: needs {modules[0].partition('.')[0]}, which is not installed; "
            "run: pip install 'depthprune[search]'"
        ) from error
