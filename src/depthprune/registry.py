"""Named things that other packages can add: searches, objectives, sources of text.

A registry holds what this package brings and, on first use, what installed packages declare under
its entry-point group. A plug-in may add a name; it may not take one that exists.

Things asked for by name with parameters: `kl:direction=reverse,top=64`, `beam:width=8`.

The parameters are the fields of the dataclass that the name stands for, and their types say how a
text is read, so that a new field needs no parser.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, Literal, TypeVar, get_args, get_origin, get_type_hints

from depthprune.errors import DepthpruneError, UsageError, first_line, unknown

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


MOST = 1_000_000
"""Of a parameter that counts something, which is done or held so many times; seeds aside."""


def build(registry: Registry[Callable[..., T]], text: str, parts: Sequence[str]) -> T:
    """Make what a text such as `name:key=value,key=value` asks for.

    Args:
        registry: What the name is looked up in; what it stands for is called with the parameters.
        text: A name, and after a colon its parameters.
        parts: Attributes that what is made must have, as a plug-in's may not.

    Raises:
        UsageError: If the name is unknown, or a parameter is, or its value is of another type; or
            if a plug-in cannot be made, or makes something else.
    """
    name, _, rest = text.strip().partition(":")
    make = registry.get(name.strip())
    try:
        made = make(**_parameters(registry.kind, name, make, rest)) if rest else make()
    except DepthpruneError:
        raise
    except Exception as error:
        raise UsageError(
            f"{registry.kind} {text!r}: its plug-in cannot be made ({type(error).__name__}: "
            f"{first_line(error)}); repair or remove that package"
        ) from error
    missing = [part for part in parts if not hasattr(made, part)]
    if missing:
        raise UsageError(
            f"{registry.kind} {text!r}: its plug-in gives a {type(made).__name__} without "
            f"{' and '.join(missing)}; repair or remove that package"
        )
    return made


def spell(name: str, thing: Any) -> str:
    """The text by which `build` makes a thing again: a name and the parameters not the defaults.

    Args:
        name: What it is registered as.
        thing: An instance of a dataclass; of anything else the name is all there is.
    """
    if not is_dataclass(thing):
        return name
    chosen = [
        f"{field.name}={_spelled(getattr(thing, field.name))}"
        for field in fields(thing)
        if field.init and (field.default is MISSING or getattr(thing, field.name) != field.default)
    ]
    return f"{name}:{','.join(chosen)}" if chosen else name


def _spelled(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _parameters(kind: str, name: str, make: Any, rest: str) -> dict[str, Any]:
    known = _fields(make)
    values: dict[str, Any] = {}
    for part in rest.split(","):
        key, equals, value = (word.strip() for word in part.partition("="))
        expected = f"expected {' or '.join(f'{k}=' for k in known)}" if known else "it takes none"
        if not equals or key not in known:
            raise UsageError(f"{kind} {name}: unknown parameter {part.strip()!r}; {expected}")
        if key in values:
            raise UsageError(f"{kind} {name}: {key} is given twice; give it once")
        values[key] = _read(f"{kind} {name}: {key}", known[key], value)
    return values


def _fields(make: Any) -> dict[str, Any]:
    if not is_dataclass(make):
        return {}
    types = get_type_hints(make)
    return {field.name: types[field.name] for field in fields(make) if field.init}


def _read(where: str, kind: Any, text: str) -> Any:
    if get_origin(kind) is Literal:
        if text in get_args(kind):
            return text
        raise UsageError(f"{where}: expected {' or '.join(get_args(kind))}, got {text!r}")
    if kind is bool:
        if text in ("true", "false"):
            return text == "true"
        raise UsageError(f"{where}: expected true or false, got {text!r}")
    if kind in (int, float):
        try:
            value = kind(text)
            if kind is int and not where.endswith(": seed") and abs(value) > MOST:
                raise UsageError(f"{where}: expected at most {MOST:,}, got {text:.40}")
            return value
        except ValueError as error:
            what = "a whole number" if kind is int else "a number"
            raise UsageError(f"{where}: expected {what}, got {text!r}") from error
    return text
