"""What each action does to the value of a field: the other half of the table in `fields`.

A value of another shape than its action means is left alone where the field allows for both (an
`intermediate_size` that is one number), and is refused where it can only be a mistake.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from depthprune.checkpoints.config.fields import (
    FIELDS,
    NESTED,
    NOT_PER_BLOCK,
    Action,
)
from depthprune.checkpoints.config.sections import Config
from depthprune.errors import CheckpointError, ModelError
from depthprune.untrusted import shown

_DIGITS = re.compile("[0-9]{1,9}")


def _speaks(name: str) -> bool:
    return any(word in name for word in ("layer", "block"))


@dataclass
class SectionCut:
    """One section of a config while it is rewritten.

    Attributes:
        section: The section; it is changed.
        blocks: How many blocks the model had.
        kept: Original numbers of the kept blocks, in order.
        notes: One line for each field that no rule knows and that looks as if it spoke of depth.
    """

    section: Config
    blocks: int
    kept: tuple[int, ...]
    notes: list[str] = field(default_factory=list)

    def whole_number(self, name: str, default: int) -> int:
        """The number of blocks that a field states, or the default where it is missing."""
        value = self.section.get(name)
        if value is None:
            return default
        if not isinstance(value, int) or value < 0:
            raise self._wrong(name, value, "a number of blocks")
        return value

    def rewrite_all(self) -> None:
        """Rewrite every field of the section by its rule."""
        # A period that is spelled out as a set of blocks must be so before sets are renumbered.
        periods = [name for name in self.section if FIELDS.get(name) == "sparse-step"]
        for name in periods:
            self._rewrite(name)
        for name in [name for name in self.section if name not in periods]:
            self._rewrite(name)

    def _rewrite(self, name: str) -> None:
        value = self.section[name]
        action = FIELDS.get(name)
        if action is not None:
            if value is not None:
                self.section[name] = _DO[action](self, name, value)
        elif name in NESTED and isinstance(value, dict):
            SectionCut(value, self.blocks, self.kept, self.notes).rewrite_all()
        elif isinstance(value, list) and name not in NOT_PER_BLOCK and not name.startswith("mtp_"):
            self._unknown_list(name, value)
        elif isinstance(value, dict) and value and _speaks(name):
            self._unknown_keys(name, value)

    def _unknown_keys(self, name: str, value: dict[str, Any]) -> None:
        """Settings by block number under a name that no rule has: renumbered like those of one."""
        if all(_DIGITS.fullmatch(str(key)) and int(key) < self.blocks for key in value):
            self.section[name] = self._remap_keys(name, value)
            self.notes.append(f"config.json: {name} is keyed by block numbers and was renumbered")

    def _unknown_list(self, name: str, value: list[Any]) -> None:
        speaks = _speaks(name)
        if speaks and len(value) == self.blocks:
            self.section[name] = self._slice(name, value)
            self.notes.append(f"config.json: {name} has one entry a block and was cut like them")
        elif (speaks and value) or len(value) == self.blocks:
            self.notes.append(f"config.json: {name} may speak of blocks and was left as it was")

    def _wrong(self, name: str, value: object, expected: str) -> CheckpointError:
        return CheckpointError(
            f"config.json: {name} is {shown(value, 80)}, expected {expected}; correct it"
        )

    def _slice(self, name: str, value: Any) -> Any:
        if not isinstance(value, (list, str)) or not value:
            return value
        if len(value) != self.blocks:
            raise CheckpointError(
                f"config.json: {name} has {len(value)} entries and the model {self.blocks} "
                "blocks; expected one entry a block; correct it"
            )
        kept = [value[block] for block in self.kept]
        return "".join(kept) if isinstance(value, str) else kept

    def _slice_longer(self, name: str, value: Any) -> Any:
        # What follows the blocks' entries is of layers that do not stay.
        head = value[: self.blocks] if isinstance(value, list) else value
        return self._slice(name, head)

    def _slice_matching(self, name: str, value: Any) -> Any:
        fits = isinstance(value, list) and len(value) == self.blocks
        return self._slice(name, value) if fits else value

    def _remap(self, name: str, value: Any, first: int = 0) -> Any:
        if not isinstance(value, list):
            return value
        renumbered = {block + first: new + first for new, block in enumerate(self.kept)}
        last = self.blocks - 1 + first
        if not all(isinstance(block, int) and first <= block <= last for block in value):
            raise self._wrong(name, value, f"block numbers from {first} to {last}")
        return [renumbered[block] for block in value if block in renumbered]

    def _remap_from_1(self, name: str, value: Any) -> Any:
        return self._remap(name, value, first=1)

    def _remap_keys(self, name: str, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        if not all(_DIGITS.fullmatch(str(key)) and int(key) < self.blocks for key in value):
            raise self._wrong(name, value, f"block numbers from 0 to {self.blocks - 1} as keys")
        if len({int(key) for key in value}) != len(value):
            raise self._wrong(name, value, "each block's number once")
        new = {block: number for number, block in enumerate(self.kept)}
        return {
            f"{new[int(key)]:0{len(str(key))}}": item
            for key, item in value.items()
            if int(key) in new
        }

    def _recount_shared(self, name: str, value: Any) -> Any:
        if not isinstance(value, int) or not 0 <= value < self.blocks:
            raise self._wrong(name, value, f"a number of blocks below {self.blocks}")
        return sum(block >= self.blocks - value for block in self.kept)

    def _recount(self, name: str, value: Any) -> Any:
        if not isinstance(value, int) or value < 0:
            raise self._wrong(name, value, "a number of blocks")
        return sum(block < value for block in self.kept)

    def _last(self, name: str, value: Any) -> Any:
        if value == -1:
            return value
        count = self._recount(name, value + 1 if isinstance(value, int) else value)
        # -1 would say "to the end", so an empty range must be said otherwise, and cannot.
        if count == 0:
            raise ModelError(
                f"config.json: no block of the range that {name} ends would be kept, which this "
                "config cannot express; keep one of them"
            )
        return count - 1

    def _repeat(self, name: str, value: Any) -> Any:
        if not isinstance(value, list) or not value:
            raise self._wrong(name, value, "a pattern of block types")
        return [value[block % len(value)] for block in self.kept]

    def _attention_types(self, name: str, value: Any) -> Any:
        try:
            if sum(times * len(pattern) for pattern, times in value) != self.blocks:
                raise ValueError("not one entry a block")
            spelled = [kind for pattern, times in value for _ in range(times) for kind in pattern]
        except (TypeError, ValueError) as error:
            raise self._wrong(name, value, "pairs of a pattern and its repeats") from error
        return [[self._slice(name, spelled), 1]]

    def _sparse_step(self, name: str, value: Any) -> Any:
        if not isinstance(value, int) or value < 1:
            raise self._wrong(name, value, "a whole number of at least 1")
        if value > 1:
            listed = self.section.get("mlp_only_layers") or []
            periodic = {block for block in range(self.blocks) if (block + 1) % value}
            self.section["mlp_only_layers"] = sorted(periodic | set(listed))
        return 1

    def _scale_depth(self, name: str, value: Any) -> Any:
        if not isinstance(value, (int, float)):
            raise self._wrong(name, value, "a number")
        if not isinstance(value, float) and abs(value) > 1 << 53:
            raise self._wrong(name, value, "a number")
        return value * (len(self.kept) / self.blocks) ** 0.5

    def _refuse_true(self, name: str, value: Any) -> Any:
        if value:
            raise ModelError(
                f"config.json: {name} is on, so each block computes with its own number, which "
                "changes when blocks go; this model cannot be depth-pruned"
            )
        return value

    def _refuse_above_1(self, name: str, value: Any) -> Any:
        if isinstance(value, list):
            return self._slice(name, value)
        if isinstance(value, int) and value <= 1:
            return value
        raise ModelError(
            f"config.json: {name} is {shown(value, 80)}, which ties blocks to their places in a "
            "way that no config of fewer blocks can express; this model cannot be depth-pruned"
        )


_DO: Mapping[Action, Callable[[SectionCut, str, Any], Any]] = {
    "slice": SectionCut._slice,
    "remap": SectionCut._remap,
    "remap-from-1": SectionCut._remap_from_1,
    "remap-keys": SectionCut._remap_keys,
    "slice-lent": SectionCut._slice,
    "slice-longer": SectionCut._slice_longer,
    "slice-matching": SectionCut._slice_matching,
    "recount": SectionCut._recount,
    "recount-shared": SectionCut._recount_shared,
    "last": SectionCut._last,
    "repeat": SectionCut._repeat,
    "attention-types": SectionCut._attention_types,
    "sparse-step": SectionCut._sparse_step,
    "scale-depth": SectionCut._scale_depth,
    "refuse-true": SectionCut._refuse_true,
    "refuse-above-1": SectionCut._refuse_above_1,
}
