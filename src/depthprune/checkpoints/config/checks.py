"""What must stay for the kept blocks to make a model, beyond what fields can be rewritten to say.

A block may read what another computed, and a model may count its tokens in its attention: where
that would go, a cut is refused before it is made, with the block that has to stay.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from depthprune.checkpoints.architectures.schema import Architecture
from depthprune.checkpoints.config.fields import (
    ATTENTION,
    ATTENTION_SETS,
    FIELDS,
    NESTED,
    WITHOUT_TOKENS,
)
from depthprune.checkpoints.config.sections import Config, dotted
from depthprune.errors import ModelError


def check_kept(section: Config, kept: Sequence[int], row: Architecture | None) -> None:
    """Refuse a cut that leaves out what the kept blocks need.

    Args:
        section: The language model's section of the uncut config, its lists written out.
        kept: Original numbers of the kept blocks, in order.
        row: The row of its type, if it has one.

    Raises:
        ModelError: If a needed block would go.
    """
    for name, value in section.items():
        action = FIELDS.get(name)
        if action in ("slice", "repeat") and isinstance(value, (list, str)):
            check_attention(name, value, kept)
        elif action == "slice-lent" and isinstance(value, (list, str)):
            _check_lenders(name, value, kept)
        elif action == "recount-shared" and isinstance(value, int) and value:
            _check_shared(section, value, kept)
    for part in (section, *(section[n] for n in NESTED if isinstance(section.get(n), dict))):
        for name, first in ATTENTION_SETS.items():
            if isinstance(found := part.get(name), list) and found:
                last = max(*kept, *(block - first for block in found))
                kinds = ["attention" if b + first in found else "mamba" for b in range(last + 1)]
                check_attention(name, kinds, kept)
    types = section.get("layer_types")
    if row is not None and isinstance(types, list) and types:
        _check_places(row, types, kept)


def check_lead(config: Config, row: Architecture, kept: Sequence[int]) -> None:
    """Refuse a cut of the blocks at the start that are given something by number.

    Args:
        config: A whole config.
        row: The row of its own type, or of its language model's.
        kept: Original numbers of the kept blocks, in order.

    Raises:
        ModelError: If one of them would go.
    """
    if row.lead is None:
        return
    found = dotted(config, row.lead.field)
    first = len(found) if isinstance(found, (list, tuple)) else row.lead.default
    if list(kept[:first]) != list(range(first)):
        raise ModelError(
            f"model_type {row.model_type}: the first {first} blocks must stay; {row.lead.why}"
        )


def check_attention(name: str, types: Sequence[Any], kept: Sequence[int]) -> None:
    """Refuse a cut without attention: a model that mixes the two counts its tokens in it.

    Args:
        name: The field that says which block is of which kind.
        types: The kind of each block of the uncut model, or a pattern of kinds that is repeated.
        kept: Original numbers of the kept blocks, in order.

    Raises:
        ModelError: If there was attention, and none would be left.
    """
    known = [item if isinstance(item, str) else "" for item in types]
    chosen = {known[block % len(known)] for block in kept} if known else set()
    if ATTENTION.intersection(known) and chosen & WITHOUT_TOKENS and not chosen & ATTENTION:
        last = max(len(known) - 1, *kept)
        which = ", ".join(str(b) for b in range(last + 1) if known[b % len(known)] in ATTENTION)
        raise ModelError(
            f"config.json: by {name} no attention block would be left, and the model could not "
            f"generate; keep one of {which}"
        )


def _check_lenders(name: str, types: Sequence[Any], kept: Sequence[int]) -> None:
    lender = None
    for block, item in enumerate(types):
        if item not in ("shared", "S"):
            lender = block
        elif block in kept and lender not in kept:
            raise ModelError(
                f"config.json: by {name}, block {block} uses what block {lender} computed, so that "
                f"one must stay while the other does"
            )


def _check_shared(section: Config, shared: int, kept: Sequence[int]) -> None:
    """The last blocks read the keys and values of the last block of their type before them."""
    types = section.get("layer_types")
    if not isinstance(types, list):
        raise ModelError(
            "config.json: expected layer_types with one entry a block, found none, so the blocks "
            "that num_kv_shared_layers ties cannot be told; load the config in transformers and "
            "save it again"
        )
    first = len(types) - shared
    for block in [block for block in kept if block >= first]:
        lender = max((b for b in range(first) if types[b] == types[block]), default=None)
        if lender is not None and lender not in kept:
            raise ModelError(
                f"config.json: block {block} reads the keys and values of block {lender} "
                f"(num_kv_shared_layers is {shared}), so that one must stay while the other does"
            )


def _check_places(row: Architecture, types: list[Any], kept: Sequence[int]) -> None:
    for place in row.places:
        if place.end == "some":
            if place.entry in types and place.entry not in {types[block] for block in kept}:
                raise ModelError(
                    f"model_type {row.model_type}: no block of type {place.entry} would be kept; "
                    f"{place.why}"
                )
            continue
        new, old = (kept[0], 0) if place.end == "first" else (kept[-1], len(types) - 1)
        # A model that was already like that is no worse for being cut.
        if types[new] != place.entry and types[old] == place.entry:
            raise ModelError(
                f"model_type {row.model_type}: the {place.end} kept block would be of type "
                f"{types[new]}, expected {place.entry}; {place.why}"
            )
