"""Named things that other packages can add: searches, objectives, sources of text.

A registry holds what this package brings and, on first use, what installed packages declare under
its entry-point group. A plug-in may add a name; it may not take one that exists.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Generic, TypeVar

from depthprune.errors import UsageError, first_line, unknown

T = TypeVar("T")


class Registry(Generic[T]):
    """Names and what they stand for, with the plug-ins of one entry-point group.

    Args:
        kind: What is named, for messages, such as `"search"`.
        group: Entry-point group, such as `"depthprune.searches"`.
        builtin: What this package brings.
        of: What a plug-in must be an instance of, if of anything.
    """

    def __init__(
        self, kind: str, group: str, builtin: Mapping[str, T], of: type[T] | None = None
    ) -> None:
        self.kind = kind
        self._of = of
        self._group = group
        self._builtin = dict(builtin)
        self._plugins: dict[str, EntryPoint] | None = None

    def names(self) -> list[str]:
        """Every known name, this package's own first."""
        return [*self._builtin, *sorted(self._found())]

    def get(self, name: str) -> T:
        """What a name stands for.

        Raises:
            UsageError: If the name is unknown, its plug-in cannot be imported, or a plug-in takes
                a name that exists: whoever installed it may mean either.
        """
        found = self._found()
        if name in self._builtin:
            return self._builtin[name]
        if name not in found:
            raise unknown(self.kind, name, self.names())
        entry = found[name]
        try:
            thing: T = entry.load()
        except Exception as error:
            raise UsageError(
                f"{self.kind} {name!r}: its plug-in {entry.value} failed to load "
                f"({type(error).__name__}: {first_line(error)}); repair or remove that package"
            ) from error
        if self._of is not None and not isinstance(thing, self._of):
            raise UsageError(
                f"{self.kind} {name!r}: its plug-in {entry.value} is a {type(thing).__name__}, "
                f"and a {self._of.__name__} was expected; repair or remove that package"
            )
        return thing

    def describe(self, line: Callable[[T], str]) -> dict[str, str]:
        """Each name with a line about it."""
        return {name: line(self.get(name)) for name in self.names()}

    def _found(self) -> dict[str, EntryPoint]:
        if self._plugins is None:
            plugins: dict[str, EntryPoint] = {}
            for entry in entry_points(group=self._group):
                if entry.name in self._builtin or entry.name in plugins:
                    raise UsageError(
                        f"{self.kind} {entry.name!r}: the plug-in {entry.value} names one that "
                        "exists already; remove that package"
                    )
                plugins[entry.name] = entry
            self._plugins = plugins
        return self._plugins
