"""Rewriting a config for fewer blocks.

A stale config is the silent failure of depth pruning: nothing complains when `layer_types` still
describes the old blocks, and the wrong mask is used. So every list, set, count and period that
speaks of depth is rewritten, lists that a config class would derive from a block's position are
written out first, and what cannot be said about the kept blocks is refused.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from depthprune.errors import CheckpointError, ModelError
from depthprune.models.architectures import (
    Architecture,
    Need,
    Pattern,
    Prefix,
    find,
    require_prunable,
)
from depthprune.models.config_checks import check_kept
from depthprune.models.config_fields import (
    COPIED_COUNTS,
    COUNTS,
    FIELDS,
    NESTED,
    NOT_PER_BLOCK,
    Action,
)
from depthprune.models.config_sections import Config, count_blocks, counts, text_section
from depthprune.models.removal import check_removed


@dataclass(frozen=True)
class ConfigCut:
    """A rewritten config.

    Attributes:
        config: The new config; the old one is untouched.
        notes: One line for each field that no rule knows and that looks as if it spoke of depth,
            saying what was done with it.
    """

    config: Config
    notes: tuple[str, ...]


def prune_config(config: Config, removed: Iterable[int]) -> Config:
    """The config of the model without the removed blocks. See `cut_config`."""
    return cut_config(config, removed).config


def cut_config(config: Config, removed: Iterable[int]) -> ConfigCut:
    """Rewrite a config for fewer blocks.

    Args:
        config: A whole `config.json`; it is not changed.
        removed: Original block numbers.

    Returns:
        The new config, with notes on fields that no rule knows.

    Raises:
        CheckpointError: If a list with one entry a block disagrees with the number of blocks, or
            a field has a value that its rule cannot read.
        ModelError: If what remains cannot be expressed in this architecture's config.
        UsageError: If the removed set does not fit the model.
    """
    blocks = count_blocks(config)
    gone = frozenset(check_removed(removed, blocks))
    new = copy.deepcopy(config)
    section = text_section(new)
    cut = _Cut(section, blocks, tuple(b for b in range(blocks) if b not in gone))
    row = row_of(new)
    if row is not None:
        _apply_row(cut, row)
    before = copy.deepcopy(section)
    cut.rewrite_all()
    check_kept(before, cut.kept, row)
    for part in (section, new):
        stated = counts(part) | {n: part[n] for n in COPIED_COUNTS if n in part}
        # Beside a count of its own name, a decoder's config may state its encoder's.
        own = row is not None and row.count in section and row.count not in COUNTS[:1]
        for name, count in stated.items():
            if count == blocks and (not own or row is None or name == row.count):
                part[name] = len(cut.kept)
    return ConfigCut(new, tuple(cut.notes))


def _apply_row(cut: _Cut, row: Architecture) -> None:
    for block in row.keep:
        if block % cut.blocks not in cut.kept:
            raise ModelError(
                f"model_type {row.model_type}: block {block % cut.blocks} must stay; {row.why}"
            )
    for name, count in row.defaults.items():
        if cut.section.get(name) is None:
            cut.section[name] = count
    for need in row.needs:
        _check_need(cut, need)
    for pattern in row.patterns:
        if not cut.section.get(pattern.field):
            _spell_out(cut, pattern)
    types = cut.section.get("layer_types")
    if isinstance(types, list) and types and any(p.forced and p.end == "last" for p in row.places):
        types[-1] = next(place.entry for place in row.places if place.forced)


def _check_need(cut: _Cut, need: Need) -> None:
    flag = cut.section.get(need.when)
    alike = not flag if flag is None or isinstance(flag, bool) else flag in (0, 1)
    if cut.section.get(need.field) or (need.when and alike):
        return
    if need.unless and cut.section.get(need.unless):
        return
    raise ModelError(
        f"config.json: expected {need.field} with one entry a block, found none, and it cannot be "
        "derived for the kept blocks; load the config in transformers and save it again"
    )


def _spell_out(cut: _Cut, pattern: Pattern | Prefix) -> None:
    """Write out a list that the config class would otherwise derive from the block's number."""
    section = cut.section
    if isinstance(pattern, Prefix):
        count = pattern.count
        if isinstance(count, str):
            count = cut.whole_number(count, pattern.default)
        first = min(count, cut.blocks)
        rest = cut.blocks - first
        section[pattern.field] = [pattern.first] * first + [pattern.rest] * rest
        return
    if (pattern.when and not section.get(pattern.when)) or section.get(pattern.unless):
        return
    period = section.get(pattern.period) if isinstance(pattern.period, str) else pattern.period
    period = pattern.default if period is None else period
    if not isinstance(period, int) or period < 1:
        raise CheckpointError(
            f"config.json: {pattern.period} is {period!r}, expected a whole number; write out "
            f"{pattern.field} instead"
        )
    special = [
        (block + pattern.offset) % period == 0 or block in pattern.also
        for block in range(cut.blocks)
    ]
    if pattern.indices:
        section[pattern.field] = [block for block in range(cut.blocks) if special[block]]
    else:
        section[pattern.field] = [pattern.special if s else pattern.usual for s in special]


def row_of(config: Config) -> Architecture | None:
    """The row that says how a config's language model is cut, None where there is none.

    Args:
        config: A whole `config.json`.

    Raises:
        ModelError: If the type of the model, or that of its language model, is refused.
    """
    types = [str(part.get("model_type")) for part in (text_section(config), config)]
    rows = list(filter(None, map(require_prunable, dict.fromkeys(types))))
    return next((find(row.tower) or row for row in rows), None)


@dataclass
class _Cut:
    section: Config
    blocks: int
    kept: tuple[int, ...]
    notes: list[str] = field(default_factory=list)

    def whole_number(self, name: str, default: int) -> int:
        value = self.section.get(name)
        if value is None:
            return default
        if not isinstance(value, int) or value < 0:
            raise self.wrong(name, value, "a number of blocks")
        return value

    def rewrite_all(self) -> None:
        # A period that is spelled out as a set of blocks must be so before sets are renumbered.
        for name in sorted(self.section, key=lambda name: FIELDS.get(name) != "sparse-step"):
            self.rewrite(name)

    def rewrite(self, name: str) -> None:
        value = self.section[name]
        action = FIELDS.get(name)
        if action is not None:
            if value is not None:
                self.section[name] = _DO[action](self, name, value)
        elif name in NESTED and isinstance(value, dict):
            _Cut(value, self.blocks, self.kept, self.notes).rewrite_all()
        elif isinstance(value, list) and name not in NOT_PER_BLOCK and not name.startswith("mtp_"):
            self._unknown_list(name, value)

    def _unknown_list(self, name: str, value: list[Any]) -> None:
        speaks = any(word in name for word in ("layer", "block"))
        if speaks and len(value) == self.blocks:
            self.section[name] = self.slice(name, value)
            self.notes.append(f"config.json: {name} has one entry a block and was cut like them")
        elif (speaks and value) or len(value) == self.blocks:
            self.notes.append(f"config.json: {name} may speak of blocks and was left as it was")

    def wrong(self, name: str, value: object, expected: str) -> CheckpointError:
        shown = repr(value) if len(repr(value)) <= 80 else f"{repr(value)[:77]}..."
        return CheckpointError(f"config.json: {name} is {shown}, expected {expected}; correct it")

    def slice(self, name: str, value: Any) -> Any:
        if not isinstance(value, (list, str)) or not value:
            return value
        if len(value) != self.blocks:
            raise CheckpointError(
                f"config.json: {name} has {len(value)} entries and the model {self.blocks} "
                "blocks; expected one entry a block; correct it"
            )
        kept = [value[block] for block in self.kept]
        return "".join(kept) if isinstance(value, str) else kept

    def slice_longer(self, name: str, value: Any) -> Any:
        # What follows the blocks' entries is of layers that do not stay.
        head = value[: self.blocks] if isinstance(value, list) else value
        return self.slice(name, head)

    def remap(self, name: str, value: Any, first: int = 0) -> Any:
        if not isinstance(value, list):
            return value
        renumbered = {block + first: new + first for new, block in enumerate(self.kept)}
        last = self.blocks - 1 + first
        if not all(isinstance(block, int) and first <= block <= last for block in value):
            raise self.wrong(name, value, f"block numbers from {first} to {last}")
        return [renumbered[block] for block in value if block in renumbered]

    def remap_from_1(self, name: str, value: Any) -> Any:
        return self.remap(name, value, first=1)

    def remap_keys(self, name: str, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        if not all(str(key).isdigit() and int(key) < self.blocks for key in value):
            raise self.wrong(name, value, f"block numbers from 0 to {self.blocks - 1} as keys")
        new = {block: number for number, block in enumerate(self.kept)}
        return {
            f"{new[int(key)]:0{len(str(key))}}": item
            for key, item in value.items()
            if int(key) in new
        }

    def recount_shared(self, name: str, value: Any) -> Any:
        if not isinstance(value, int) or not 0 <= value < self.blocks:
            raise self.wrong(name, value, f"a number of blocks below {self.blocks}")
        return sum(block >= self.blocks - value for block in self.kept)

    def recount(self, name: str, value: Any) -> Any:
        if not isinstance(value, int) or value < 0:
            raise self.wrong(name, value, "a number of blocks")
        return sum(block < value for block in self.kept)

    def last(self, name: str, value: Any) -> Any:
        if value == -1:
            return value
        count = self.recount(name, value + 1 if isinstance(value, int) else value)
        # -1 would say "to the end", so an empty range must be said otherwise, and cannot.
        if count == 0:
            raise ModelError(
                f"config.json: no block of the range that {name} ends would be kept, which this "
                "config cannot express; keep one of them"
            )
        return count - 1

    def repeat(self, name: str, value: Any) -> Any:
        if not isinstance(value, list) or not value:
            raise self.wrong(name, value, "a pattern of block types")
        return [value[block % len(value)] for block in self.kept]

    def attention_types(self, name: str, value: Any) -> Any:
        try:
            spelled = [kind for pattern, times in value for _ in range(times) for kind in pattern]
        except (TypeError, ValueError) as error:
            raise self.wrong(name, value, "pairs of a pattern and its repeats") from error
        return [[self.slice(name, spelled), 1]]

    def sparse_step(self, name: str, value: Any) -> Any:
        if not isinstance(value, int) or value < 1:
            raise self.wrong(name, value, "a whole number of at least 1")
        if value > 1:
            listed = self.section.get("mlp_only_layers") or []
            periodic = {block for block in range(self.blocks) if (block + 1) % value}
            self.section["mlp_only_layers"] = sorted(periodic | set(listed))
        return 1

    def scale_depth(self, name: str, value: Any) -> Any:
        if not isinstance(value, (int, float)):
            raise self.wrong(name, value, "a number")
        return value * (len(self.kept) / self.blocks) ** 0.5

    def refuse_true(self, name: str, value: Any) -> Any:
        if value:
            raise ModelError(
                f"config.json: {name} is on, so each block computes with its own number, which "
                "changes when blocks go; this model cannot be depth-pruned"
            )
        return value

    def refuse_above_1(self, name: str, value: Any) -> Any:
        if isinstance(value, list):
            return self.slice(name, value)
        if isinstance(value, int) and value <= 1:
            return value
        raise ModelError(
            f"config.json: {name} is {value!r}, which ties blocks to their places in a way that "
            "no config of fewer blocks can express; this model cannot be depth-pruned"
        )


_DO: Mapping[Action, Callable[[_Cut, str, Any], Any]] = {
    "slice": _Cut.slice,
    "remap": _Cut.remap,
    "remap-from-1": _Cut.remap_from_1,
    "remap-keys": _Cut.remap_keys,
    "slice-lent": _Cut.slice,
    "slice-longer": _Cut.slice_longer,
    "recount": _Cut.recount,
    "recount-shared": _Cut.recount_shared,
    "last": _Cut.last,
    "repeat": _Cut.repeat,
    "attention-types": _Cut.attention_types,
    "sparse-step": _Cut.sparse_step,
    "scale-depth": _Cut.scale_depth,
    "refuse-true": _Cut.refuse_true,
    "refuse-above-1": _Cut.refuse_above_1,
}
