"""What comes with an extra: imported where it is needed, or refused in one line."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Any

from depthprune.errors import DepthpruneError, UsageError


def require_extra(
    what: str, extra: str, *modules: str, error: type[DepthpruneError] = UsageError
) -> tuple[Any, ...]:
    """Import modules that come with an extra.

    Args:
        what: What needs them, as the user named it: a flag, a source or a file.
        extra: The extra of this package that brings them.
        *modules: Their names.
        error: What is raised.

    Returns:
        The modules, in order.

    Raises:
        DepthpruneError: If one is not installed, naming it and the command that installs it.
    """
    found = []
    for name in modules:
        try:
            found.append(import_module(name))
        except ImportError as failure:
            raise _missing(what, extra, name, error) from failure
    return tuple(found)


def check_extra(what: str, extra: str, *modules: str) -> None:
    """The same without importing them, where that would take long.

    Raises:
        UsageError: If one is not installed.
    """
    for name in modules:
        if find_spec(name) is None:
            raise _missing(what, extra, name, UsageError)


def _missing(what: str, extra: str, module: str, error: type[DepthpruneError]) -> DepthpruneError:
    package = module.partition(".")[0].replace("_", "-")
    return error(
        f"{what}: needs {package}, which is not installed; run: pip install 'depthprune[{extra}]'"
    )
