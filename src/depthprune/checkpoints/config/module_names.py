r"""Names of modules inside a config: a quantisation config lists which were left unquantised.

Such a list speaks of blocks by number (`model.layers.0.mlp.gate`), so it goes stale in silence
when blocks go. Names are renumbered like tensors, and names of removed blocks vanish. A pattern
(`re:.*layers\.[0-3]\..*`) is tried on the checkpoint's own modules: where it means the same ones
under their new names it stays, else the modules that it meant are written out in its place.
"""

from __future__ import annotations

import fnmatch
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import regex  # unlike re, it can be told when to stop

from depthprune.checkpoints.checkpoint import OTHER_TOWERS, split_name
from depthprune.checkpoints.config.fields import (
    FIELDS,
    NAMING_MODULES,
    SECTIONS,
)
from depthprune.errors import ModelError

_SIGNS = ("re:", "+:", "-:")
"""What marks a regular expression: compressed-tensors' lists, and GPTQModel's `dynamic`."""

_REGULAR = ("dynamic",)
"""Dictionaries whose keys are regular expressions, marked or not: GPTQModel's rules by module."""

_PATIENCE = 2.0
"""Seconds for one pattern on one name, which takes microseconds; backtracking may take for ever."""

_LONGEST_NAME = 1_000
"""Characters of a name or a pattern. Longer ones are texts."""

_SPECIAL = re.compile(r"[\\*+?^$|(){}\[\]]")


def naming_fields(section: Mapping[str, Any], modules: ModuleNames) -> list[str]:
    """The fields of a config's section that may list modules by name.

    Those of quantisation are known, and their patterns are read as such. But every tool has its own
    key (MLX keeps `quantization` beside `quantization_config`), so any other field counts as well
    that names a block by its number.

    Args:
        section: The section.
        modules: The checkpoint's modules.
    """
    apart = {*SECTIONS, *FIELDS, "auto_map", "_name_or_path", "architectures"}
    return [
        name
        for name, value in section.items()
        if value and (name in NAMING_MODULES or (name not in apart and modules.speaks_in(value)))
    ]


class ModuleNames:
    """The modules of a checkpoint before and after a cut, for parts of a config that name them.

    Attributes:
        warnings: One line for each part that names modules which the checkpoint does not have.
    """

    def __init__(
        self,
        tensors: Iterable[str],
        prefix: str,
        kept: Sequence[int],
        *,
        nested: bool = False,
        pattern: str = "{}",
    ) -> None:
        """Take note of the names.

        Args:
            tensors: Names of all tensors of the original checkpoint.
            prefix: What the names of the blocks' tensors begin with, such as `"model.layers."`.
            kept: Original numbers of the kept blocks, in order.
            nested: The language model is a part of a larger one, whose modules may be called
                otherwise once they are loaded, so that a pattern cannot be written out.
            pattern: The regular expression that a pattern is put into before it is matched from
                a name's start.
        """
        self.warnings: list[str] = []
        self._tensors = tuple(tensors)
        self._prefix = prefix
        self._new = {block: number for number, block in enumerate(kept)}
        self._nested = nested
        self._frame = pattern
        # The list is called the same with and without the model's own prefix.
        stem = self._stem = prefix.rstrip(".").split(".")[-1]
        self._speaking = re.compile(
            rf"(?:^|[^A-Za-z0-9_]|\\[.bAd]){re.escape(stem)}\\?\.\D{{0,3}}\d"
        )
        self._name = re.compile(rf"((?:[\w]+\.)*?{re.escape(stem)}\.)([0-9]{{1,9}})(?=\.|$)")

    def may_speak_in(self, raw: bytes) -> bool:
        """Whether a file's bytes hold what any name of a block would, told without parsing it."""
        return self._stem.encode() in raw

    def speaks_in(self, value: Any) -> bool:
        """Whether any key or text in a value names a block by its number.

        Args:
            value: Any JSON value.
        """
        if isinstance(value, str):
            return len(value) <= _LONGEST_NAME and bool(self._speaking.search(value))
        if isinstance(value, dict):
            return any(self.speaks_in(key) or self.speaks_in(item) for key, item in value.items())
        return isinstance(value, list) and any(map(self.speaks_in, value))

    def rename(self, value: Any, field: str, *, warn: bool = True) -> Any:
        """Renumber the modules named anywhere in a part of a config.

        Args:
            value: The part: any JSON value; it is not changed.
            field: The part's name, for messages.
            warn: Look for names that the checkpoint does not have, among all that it has.

        Returns:
            The same value with names renumbered, and those of removed blocks left out.

        Raises:
            ModelError: If a pattern speaks of blocks by number and cannot be written out.
        """
        walk = _Walk(self, field, warn)
        renamed = walk.any(value)
        if walk.unknown:
            more = f" and {len(walk.unknown) - 1} more" if len(walk.unknown) > 1 else ""
            self.warnings.append(
                f"{field} names the module {walk.unknown[0]}{more}, which the checkpoint does not "
                "have"
            )
        return renamed

    @cached_property
    def _modules(self) -> dict[str, str | None]:
        """Every module that holds a tensor of a block, with its new name; None of a removed one.

        A tensor may lie below its module by more than one name (bitsandbytes' `weight.absmax`);
        what matters is that every module is there.
        """
        found: dict[str, str | None] = {}
        for name in self._tensors:
            if name.startswith(self._prefix):
                module = name.rpartition(".")[0]
                while len(module) > len(self._prefix) and module not in found:
                    found[module] = self._renumber(module)
                    module = module.rpartition(".")[0]
        return found

    @cached_property
    def _leaves(self) -> frozenset[str]:
        return frozenset(name.rpartition(".")[0] for name in self._tensors)

    @cached_property
    def _inside(self) -> frozenset[str]:
        """Every module and tensor in a list of that name, told from the list's own name on.

        What stands before it may differ once the model is loaded.
        """
        found = set()
        for name in self._tensors:
            parts = name.split(".")
            for first in (at for at, part in enumerate(parts) if part == self._stem):
                found |= {".".join(parts[first:end]) for end in range(first + 2, len(parts) + 1)}
        return frozenset(found)

    def _renumber(self, name: str) -> str | None:
        match = self._name.match(name)
        if match is None:
            return name
        number = self._new.get(int(match[2]))
        return None if number is None else f"{match[1]}{number}{name[match.end() :]}"

    def entry(self, name: str, field: str, *, regular: bool = False) -> Iterator[str]:
        """What stands in the place of one entry: one name, several, or none.

        Args:
            name: The entry.
            field: The part of the config that it stands in, for messages.
            regular: It is a regular expression, whatever it looks like.
        """
        match = self._name.match(name)
        if match is not None and self._is_ours(match[1]) and "|" not in name:
            new = self._renumber(name)
            if new is not None:
                yield new
            return
        sign = next((sign for sign in _SIGNS if name.startswith(sign)), "")
        if not sign and not _SPECIAL.search(name):
            yield name
            return
        yield from self._pattern(name, sign, field, regular)

    def has(self, name: str) -> bool:
        """Whether an entry that is no pattern may name something: all but a name of a block's."""
        match = self._name.match(name)
        if match is None or not self._is_ours(match[1]) or _SPECIAL.search(name):
            return True
        return f"{self._stem}.{name[match.end(1) :].rstrip('.')}" in self._inside

    def _is_ours(self, found: str) -> bool:
        if found == self._prefix or found in self._others:
            return found == self._prefix
        return (
            found.endswith(self._prefix)
            or self._prefix.endswith(found)
            or not OTHER_TOWERS.search(found)
        )

    @cached_property
    def _others(self) -> frozenset[str]:
        """What the names of other numbered lists than the blocks' begin with."""
        numbered = filter(None, map(split_name, self._tensors))
        return frozenset(prefix for prefix, _, _ in numbered) - {self._prefix}

    def _pattern(self, name: str, sign: str, field: str, regular: bool) -> Iterator[str]:
        matches = self._matcher(name, sign, field, regular)
        meant = {old: new for old, new in self._modules.items() if matches(old)}
        kept = {old: new for old, new in meant.items() if new is not None}
        now = {new for new in self._modules.values() if new is not None and matches(new)}
        if now == set(kept.values()) and (kept or not meant):
            yield name
            return
        if self._nested:
            raise _stale(name, field)
        leaves = {old: new for old, new in kept.items() if old in self._leaves}
        for new in (leaves or kept).values():
            yield f"{sign}^{re.escape(new)}$" if regular or sign in ("+:", "-:") else new

    def _matcher(self, name: str, sign: str, field: str, regular: bool) -> Callable[[str], object]:
        """What an entry's pattern matches, as the libraries that read it would say.

        Compressed-tensors, GPTQModel, PEFT and transformers match regular expressions from a
        name's start; ModelOpt and Quark write shell patterns, in which a star alone stands for
        anything.
        """
        pattern = name.removeprefix(sign)
        regular = regular or bool(sign) or self._frame != "{}"
        if not regular and set(_SPECIAL.findall(pattern)) == {"*"}:
            return re.compile(fnmatch.translate(re.sub(r"\*+", "*", pattern))).match
        framed = self._frame.replace("{}", pattern)
        try:
            if len(pattern) > _LONGEST_NAME:
                raise re.error("too long")
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                re.compile(framed)
                compiled = regex.compile(framed)
        except (re.error, regex.error, OverflowError, RecursionError) as error:
            raise _stale(name, field) from error

        def matches(module: str) -> object:
            try:
                return compiled.match(module, timeout=_PATIENCE)
            except TimeoutError as error:
                raise ModelError(
                    f"config.json: {field} has the pattern {name!r:.80}, which does not come to an "
                    f"end on {module:.80}; list the modules by name"
                ) from error

        return matches


def _stale(name: str, field: str) -> ModelError:
    return ModelError(
        f"config.json: {field} has the pattern {name!r:.200}, which speaks of blocks by number and "
        "cannot be renumbered; list the modules by name"
    )


class _Walk:
    """One pass over a part of a config."""

    def __init__(self, names: ModuleNames, field: str, warn: bool) -> None:
        self._names = names
        self._field = field
        self._warn = warn
        self.unknown: list[str] = []

    def any(self, value: Any, regular: bool = False) -> Any:
        if isinstance(value, dict):
            # A group whose every target went has nothing left to say.
            return {
                new: walked
                for key, item in value.items()
                for new in self._entries(key, regular)
                if not _emptied(item, walked := self.any(item, key in _REGULAR))
            }
        if isinstance(value, list):
            found: list[Any] = []
            for item in value:
                found.extend(self._entries(item) if isinstance(item, str) else [self.any(item)])
            return found
        return value

    def _entries(self, name: str, regular: bool = False) -> list[str]:
        if self._warn and not self._names.has(name):
            self.unknown.append(name)
        return list(self._names.entry(name, self._field, regular=regular))


def _emptied(before: Any, after: Any) -> bool:
    return isinstance(before, dict) and bool(before.get("targets")) and not after.get("targets")
