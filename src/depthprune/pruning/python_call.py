"""The call of a function as one would type it again, for the manifest of what it wrote.

What has its default is left out, so that the call stays readable and is still the same call.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from inspect import Parameter, signature
from pathlib import Path
from typing import Any

from depthprune.engine import Engine
from depthprune.evaluator.racing.settings import Racing
from depthprune.outputs import OutputTarget
from depthprune.searches import Budget

_NOT_SAID = {"command", "progress"}
"""Arguments that change nothing of what is written."""


def python_call(name: str, function: Callable[..., Any], given: Mapping[str, Any]) -> str:
    """The call `dp.NAME(…)`.

    Args:
        name: Of the function in `depthprune`.
        function: Whose parameters they are.
        given: All its arguments by name, those with their defaults too.
    """
    words, keyword = [], False
    for each in signature(function).parameters.values():
        keyword = keyword or each.kind is Parameter.KEYWORD_ONLY
        if each.name in _NOT_SAID:
            continue
        value = given[each.name]
        if type(value) is type(each.default) and value == each.default:
            keyword = True
            continue
        word = _word(value)
        words.append(f"{each.name}={word}" if keyword else word)
    return f"dp.{name}({', '.join(words)})"


def _word(value: Any) -> str:
    value = _plain(value)
    if isinstance(value, (Path, OutputTarget)):
        return repr(str(value))
    return f"dp.{value!r}" if isinstance(value, (Budget, Engine, Racing)) else repr(value)


def _plain(value: Any) -> Any:
    """The same without numpy's numbers and arrays, which repr as what the call would not know."""
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, (list, tuple, set)):
        return type(value)(map(_plain, value))
    return value
