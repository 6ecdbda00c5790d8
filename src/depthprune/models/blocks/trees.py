"""Nested containers of tensors: what blocks are called with, and what they pass on.

Tuples, lists and mappings are gone into; objects that keep tensors in attributes (caches) only
where it is asked for, since most objects among a block's arguments are none of this project's
business. A tree is never changed: what differs is a copy, down to the tensors.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from typing import Any

from torch import Tensor, nn

Path = tuple[Any, ...]
"""Keys, places and attribute names that lead from a tree to something in it."""


def leaves(value: Any, path: str = "", *, objects: bool = False) -> Iterator[tuple[str, Tensor]]:
    """The tensors inside a tree, each with its path in words.

    Args:
        value: The tree.
        path: What paths begin with.
        objects: Whether attributes of objects belong to it.
    """
    if isinstance(value, Tensor):
        yield path, value
        return
    for key, item in _children(value, objects):
        yield from leaves(item, f"{path}.{key}", objects=objects)


def nodes(value: Any, path: Path = (), *, objects: bool = False) -> Iterator[tuple[Path, Any]]:
    """Everything below a tree's root, containers before what is in them."""
    for key, item in _children(value, objects):
        yield (*path, key), item
        yield from nodes(item, (*path, key), objects=objects)


def mapped(
    value: Any,
    change: Callable[[str, Any], Any],
    path: str = "",
    *,
    objects: bool = False,
    kind: type = Tensor,
) -> Any:
    """A copy of a tree with every tensor changed, given its path as in `leaves`.

    Args:
        value: The tree.
        change: Gives what takes the place of a leaf.
        path: What paths begin with.
        objects: Whether attributes of objects belong to it.
        kind: What its leaves are.
    """

    def inner(key: Any, item: Any) -> Any:
        return mapped(item, change, f"{path}.{key}", objects=objects, kind=kind)

    if isinstance(value, kind):
        return change(path, value)
    if type(value) in (dict, list, tuple):
        if isinstance(value, dict):
            return {key: inner(key, item) for key, item in value.items()}
        return type(value)(inner(place, item) for place, item in enumerate(value))
    new = {key: inner(key, item) for key, item in _children(value, objects)}
    return _with(value, new) if new or isinstance(value, MutableMapping) else value


def at(value: Any, path: Path) -> Any:
    """What stands at a path.

    Raises:
        LookupError: If the tree does not go there.
    """
    for key in path:
        if isinstance(value, (Mapping, tuple, list)):
            value = value[key]
        elif key in getattr(value, "__dict__", {}):
            value = value.__dict__[key]
        else:
            raise KeyError(key)
    return value


def placed(value: Any, path: Path, new: Any) -> Any:
    """A copy of a tree with something else at a path."""
    if not path:
        return new
    key, *rest = path
    inside = at(value, (key,)) if rest else None
    return _with(value, {key: placed(inside, tuple(rest), new)})


def _children(value: Any, objects: bool) -> Iterator[tuple[Any, Any]]:
    if isinstance(value, Mapping):
        yield from value.items()
    elif isinstance(value, (tuple, list)):
        yield from enumerate(value)
    elif objects and keeps_attributes(value):
        yield from vars(value).items()


def keeps_attributes(value: Any) -> bool:
    """Whether something is an object that may keep tensors in its attributes, such as a cache."""
    container = isinstance(value, (Tensor, nn.Module, Mapping, tuple, list))
    return hasattr(value, "__dict__") and not container and not callable(value)


def _with(value: Any, new: dict[Any, Any]) -> Any:
    """A copy of one container with some of its items replaced."""
    if isinstance(value, tuple):
        items = [new.get(place, item) for place, item in enumerate(value)]
        if all(a is b for a, b in zip(items, value, strict=True)):
            return value
        return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
    made = copy.copy(value)
    if isinstance(value, (MutableMapping, list)):
        for key, item in new.items():
            made[key] = item
    elif isinstance(value, Mapping):
        return value if all(value[key] is item for key, item in new.items()) else dict(new)
    else:
        made.__dict__.update(new)
    return made
