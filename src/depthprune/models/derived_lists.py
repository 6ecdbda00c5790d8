"""Writing out the lists that a config class would derive from a block's number.

A checkpoint may rely on its class to make every fourth block one of full attention. Once blocks
go, the class would count anew and give the kept blocks other kinds than they were trained as. So
the list is written out before it is cut; one that cannot be derived here must be in the file.
"""

from __future__ import annotations

from depthprune.errors import CheckpointError, ModelError
from depthprune.models.architectures import Architecture, Cycle, Need, Pattern, Prefix
from depthprune.models.config_values import Cut


def apply_row(cut: Cut, row: Architecture) -> None:
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
        if not cut.section.get(pattern.field):
            _spell_out(cut, pattern)
    types = cut.section.get("layer_types")
    if isinstance(types, list) and types and any(p.forced and p.end == "last" for p in row.places):
        types[-1] = next(place.entry for place in row.places if place.forced)


def _check_need(cut: Cut, need: Need) -> None:
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


def _spell_out(cut: Cut, pattern: Pattern | Prefix | Cycle) -> None:
    """Write out a list that the config class would otherwise derive from the block's number."""
    section = cut.section
    if isinstance(pattern, Cycle):
        length = len(pattern.entries)
        section[pattern.field] = [pattern.entries[block % length] for block in range(cut.blocks)]
        return
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
