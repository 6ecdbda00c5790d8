"""Names of modules inside a config: a quantisation config lists which were left unquantised.

Such a list speaks of blocks by number (`model.layers.0.mlp.gate`), so it goes stale in silence
when blocks go. Names are renumbered like tensors; names of removed blocks vanish; a regular
expression that mentions a block's number cannot be rewritten safely and is refused.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from depthprune.errors import ModelError


def rename_modules(value: Any, prefix: str, kept: Sequence[int], field: str) -> Any:
    """Renumber the modules named anywhere in a part of a config.

    Args:
        value: The part: any JSON value.
        prefix: What the names of the blocks' tensors begin with, such as `"model.layers."`.
        kept: Original numbers of the kept blocks, in order.
        field: The part's name, for messages.

    Returns:
        The same value with names renumbered, and those of removed blocks left out.

    Raises:
        ModelError: If a regular expression speaks of a block by its number.
    """
    return _Renamer(prefix, kept, field).walk(value)


class _Renamer:
    def __init__(self, prefix: str, kept: Sequence[int], field: str) -> None:
        # The list is called the same with and without the model's own prefix.
        stem = prefix.rstrip(".").split(".")[-1]
        self.name = re.compile(rf"((?:[\w]+\.)*?{re.escape(stem)}\.)(\d+)(?=\.|$)")
        self.pattern = re.compile(rf"{re.escape(stem)}(?:\\\.|\.|\[\.\])\(?\[?\d")
        self.prefix = prefix
        self.new = {block: number for number, block in enumerate(kept)}
        self.field = field

    def walk(self, value: Any) -> Any:
        if isinstance(value, dict):
            pairs = ((self.rename(key), item) for key, item in value.items())
            return {key: self.walk(item) for key, item in pairs if key is not None}
        if isinstance(value, list):
            renamed = (
                self.rename(item) if isinstance(item, str) else self.walk(item) for item in value
            )
            return [
                new
                for new, old in zip(renamed, value, strict=True)
                if new is not None or old is None
            ]
        return value

    def rename(self, name: str) -> str | None:
        """The new name, or None for a module of a removed block."""
        match = self.name.match(name)
        if match is not None and self._is_ours(match[1]):
            number = int(match[2])
            if number not in self.new:
                return None
            return f"{match[1]}{self.new[number]}{name[match.end() :]}"
        if match is None and self.pattern.search(name):
            raise ModelError(
                f"config.json: {self.field} has the pattern {name!r}, which speaks of blocks by "
                "number and cannot be renumbered; list the modules by name"
            )
        return name

    def _is_ours(self, found: str) -> bool:
        return (
            found.endswith(self.prefix)
            or self.prefix.endswith(found)
            or not re.search(r"vision|visual|image|audio|speech|encoder|mtp", found)
        )
