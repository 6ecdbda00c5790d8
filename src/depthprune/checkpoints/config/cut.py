"""Rewriting a config for fewer blocks.

A stale config is the silent failure of depth pruning: nothing complains when `layer_types` still
describes the old blocks, and the wrong mask is used. So every list, set, count and period that
speaks of depth is rewritten, lists that a config class would derive from a block's position are
written out first, and what cannot be said about the kept blocks is refused.

Writing out the lists that a config class would derive from a block's number.

A checkpoint may rely on its class to make every fourth block one of full attention. Once blocks
go, the class would count anew and give the kept blocks other kinds than they were trained as. So
the list is written out before it is cut; one that cannot be derived here must be in the file.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass

from depthprune.checkpoints.architectures.schema import (
    Architecture,
    Cycle,
    Pattern,
    Prefix,
    RequiredList,
)
from depthprune.checkpoints.architectures.table import find, require_prunable
from depthprune.checkpoints.config.actions import SectionCut
from depthprune.checkpoints.config.checks import check_attention, check_kept, check_lead
from depthprune.checkpoints.config.fields import (
    COPIED_COUNTS,
    DECODER_COUNTS,
    FIELDS,
)
from depthprune.checkpoints.config.phases import kinds, refit
from depthprune.checkpoints.config.sections import (
    Config,
    count_blocks,
    counts,
    dotted,
    text_section,
)
from depthprune.errors import CheckpointError, ModelError
from depthprune.removed_sets import check_removed


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
    cut = SectionCut(section, blocks, tuple(b for b in range(blocks) if b not in gone))
    for each in rows_of(new):
        check_lead(config, each, cut.kept)
    row = row_of(new)
    if row is not None:
        apply_row(cut, row)
    before = copy.deepcopy(section)
    cut.rewrite_all()
    if section is not new:
        _cut_copies(new, cut)
    check_kept(before, cut.kept, row)
    for part in (section, new):
        stated = counts(part) | {n: part[n] for n in COPIED_COUNTS if n in part}
        # Beside a count of its own name, a decoder's config may state its encoder's.
        own = row is not None and row.count in section and row.count in DECODER_COUNTS
        for name, count in stated.items():
            if count == blocks and (not own or row is None or name == row.count):
                part[name] = len(cut.kept)
    return ConfigCut(new, tuple(cut.notes))


def _cut_copies(config: Config, cut: SectionCut) -> None:
    """Rewrite what a config repeats of its language model's section, as transformers 4 wrote it."""
    types = config.get("layer_types")
    speaks = isinstance(types, list) and len(types) == cut.blocks
    if not speaks and cut.blocks not in counts(config).values():
        return
    copies = {name: config[name] for name in FIELDS if name in config}
    SectionCut(copies, cut.blocks, cut.kept).rewrite_all()
    config.update(copies)


def rows_of(config: Config, *, proved: bool = False) -> tuple[Architecture, ...]:
    """The rows of a model and of its language model, that of the language model first.

    Args:
        config: A whole `config.json`.
        proved: Refuse a type without a row too.

    Raises:
        ModelError: If the type of the model, or that of its language model, is refused, or
            unknown where it must not be.
    """
    own = _type(config)
    types = [found for found in (_type(text_section(config)), own) if found] or [own]
    rows = [require_prunable(name, proved=proved) for name in dict.fromkeys(types)]
    return tuple(row for row in rows if row is not None)


def _type(section: Config) -> str:
    found = section.get("model_type")
    return found if isinstance(found, str) else ""


def row_of(config: Config) -> Architecture | None:
    """The row that says how a config's language model is cut, None where there is none.

    Args:
        config: A whole `config.json`.

    Raises:
        ModelError: If the type of the model, or that of its language model, is refused.
    """
    row = next(iter(rows_of(config)), None)
    if row is None or not row.tower:
        return row
    # A language model of an unknown type is cut by fields alone, and not by its wrapper's row.
    own = _type(text_section(config))
    return (find(row.tower) or row) if own in ("", row.model_type) else None


def apply_row(cut: SectionCut, row: Architecture) -> None:
    """Write out what the type's config class would derive, and refuse what must not go.

    Args:
        cut: The language model's section, not yet cut; it is changed.
        row: The row of its type.

    Raises:
        CheckpointError: If a period is no whole number.
        ModelError: If a block that must stay would go, or a list is missing that cannot be derived.
    """
    for block in row.keep:
        if block % cut.blocks not in cut.kept:
            raise ModelError(
                f"model_type {row.model_type}: block {block % cut.blocks} must stay; {row.why}"
            )
    for name, value in row.defaults.items():
        # A null is something else: MiniCPM3's class then makes its scale follow the depth.
        cut.section.setdefault(name, value)
    for need in row.needs:
        _check_need(cut, need)
    for pattern in row.patterns:
        found = cut.section.get(pattern.field)
        # An empty set says that no block is special; an empty list says nothing.
        empty_set = found == [] and not isinstance(pattern, Cycle) and pattern.indices
        if not found and not empty_set:
            _spell_out(cut, pattern)
    for phase in row.phases:
        check_attention(phase.period, kinds(cut, phase), cut.kept)
        refit(cut, phase)
    types = cut.section.get("layer_types")
    if isinstance(types, list) and types and any(p.forced and p.end == "last" for p in row.places):
        types[-1] = next(place.entry for place in row.places if place.forced)


def _check_need(cut: SectionCut, need: RequiredList) -> None:
    flag = cut.section.get(need.when)
    alike = not flag if flag is None or isinstance(flag, bool) else flag in (0, 1)
    if cut.section.get(need.field) or (need.when and alike):
        return
    if need.unless and dotted(cut.section, need.unless):
        return
    raise ModelError(
        f"config.json: expected {need.field} with one entry a block, found none, and it cannot be "
        "derived for the kept blocks; load the config in transformers and save it again"
    )


def _spell_out(cut: SectionCut, pattern: Pattern | Prefix | Cycle) -> None:
    """Write out a list that the config class would otherwise derive from the block's number."""
    section = cut.section
    if isinstance(pattern, Cycle):
        length = len(pattern.entries)
        section[pattern.field] = [pattern.entries[block % length] for block in range(cut.blocks)]
        return
    if isinstance(pattern, Prefix):
        _spell_out_prefix(cut, pattern)
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


def _spell_out_prefix(cut: SectionCut, pattern: Prefix) -> None:
    count = pattern.count
    if isinstance(count, str):
        count = cut.whole_number(count, pattern.default)
    flags = cut.section.get(pattern.flags)
    off = [b for b, flag in enumerate(flags) if not flag] if isinstance(flags, list) else []
    first = [block for block in range(cut.blocks) if block < count or block in off]
    entries = [pattern.first if b in first else pattern.rest for b in range(cut.blocks)]
    cut.section[pattern.field] = first if pattern.indices else entries
