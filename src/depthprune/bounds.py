"""Bounds of parameters, declared beside the field as pydantic's constraints.

A dataclass whose field is `Annotated[int, Field(ge=1)]` says so once; whoever makes one, from a
text or from Python, is refused by the same line.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any, Literal, get_args, get_origin, get_type_hints

from pydantic import TypeAdapter, ValidationError

from depthprune.errors import UsageError

MOST_SEED = 2**32 - 1
"""The highest that every generator of random numbers takes."""


def whole(flag: str, value: Any) -> int:
    """A whole number as Python's own, of numpy's too.

    Args:
        flag: The flag or argument that it came from, named in messages.
        value: What was given.

    Raises:
        UsageError: If it is none.
    """
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise UsageError(f"{flag}: expected a whole number, got {value!r}")
    return int(value.__index__())


def check_bounds(where: str, thing: Any) -> None:
    """Check every field of a dataclass that is made against what its type allows.

    A number of numpy's becomes Python's.

    Args:
        where: Whose parameters they are, such as `search beam`.
        thing: An instance of a dataclass.

    Raises:
        UsageError: Naming the first field that is out of bounds, with the bounds.
    """
    hints = get_type_hints(type(thing), include_extras=True)
    for field in fields(thing):
        value = getattr(thing, field.name)
        if hasattr(value, "item"):  # numpy's numbers
            value = value.item()
            object.__setattr__(thing, field.name, value)
        try:
            TypeAdapter(hints[field.name]).validate_python(value, strict=True)
        except ValidationError as error:
            expected = _expected(hints[field.name])
            shown = f"{value:g}" if isinstance(value, float) else repr(value)
            raise UsageError(f"{where}: {field.name}: expected {expected}, got {shown}") from error


def _expected(hint: Any) -> str:
    """What a type allows, in words: its constraint's description, or else its limits."""
    if get_origin(hint) is Literal:
        return " or ".join(map(str, get_args(hint)))
    kind, *rest = get_args(hint) or (hint,)
    for described in filter(None, (getattr(info, "description", None) for info in rest)):
        return str(described)
    limits = {
        name: getattr(limit, name)
        for info in rest
        for limit in getattr(info, "metadata", ())
        for name in ("ge", "gt", "le", "lt")
        if hasattr(limit, name)
    }
    low = limits.get("ge", limits.get("gt"))
    high = limits.get("le", limits.get("lt"))
    if low is None or high is None:
        number = "a whole number" if kind is int else "a number"
        if low is None:
            return number
        return f"{low:g} or more" if "ge" in limits else f"{number} above {low:g}"
    if "gt" in limits:
        return f"a number above {low:g}, at most {high:g}"
    return f"{low:g} to {high:g}"
