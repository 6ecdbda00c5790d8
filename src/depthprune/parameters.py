"""Things asked for by name with parameters: `kl:direction=reverse,top=64`, `beam:width=8`.

The parameters are the fields of the dataclass that the name stands for, and their types say how a
text is read, so that a new field needs no parser.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from depthprune.errors import DepthpruneError, UsageError, first_line
from depthprune.plugins import Registry

T = TypeVar("T")


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
            return kind(text)
        except ValueError as error:
            what = "a whole number" if kind is int else "a number"
            raise UsageError(f"{where}: expected {what}, got {text!r}") from error
    return text
