"""Where in a config the language model is described, and how many blocks it says there are."""

from __future__ import annotations

from typing import Any

from depthprune.checkpoints.architectures.table import find, require_prunable
from depthprune.checkpoints.config.fields import (
    COUNTS,
    DECODER_COUNTS,
    LISTED_COUNTS,
    SECTIONS,
)
from depthprune.errors import CheckpointError
from depthprune.untrusted import shown

Config = dict[str, Any]

_CONTEXT = ("max_position_embeddings", "n_positions", "max_seq_len")
_DEEPEST = 100_000
"""More blocks than any model has: a config that states more is damaged or hostile."""


def text_section(config: Config) -> Config:
    """The part of a config that describes the language model: a nested one, or all of it.

    Args:
        config: A whole `config.json`.
    """
    for name in SECTIONS:
        section = config.get(name)
        if isinstance(section, dict) and (counts(section) or not counts(config)):
            return section
    return config


def dotted(config: Config, path: str) -> Any:
    """What stands in a config under names joined by dots, each in the one before; None if nothing.

    Args:
        config: A whole config, or a part.
        path: The names.
    """
    found: Any = config
    for name in path.split("."):
        found = found.get(name) if isinstance(found, dict) else None
    return found


def context_length(config: Any) -> int | None:
    """Tokens of the longest sequence that a config says its model reads; None if it says nothing.

    Args:
        config: The language model's part, from a file or as transformers holds it.
    """
    for name in _CONTEXT:
        found = config.get(name) if isinstance(config, dict) else getattr(config, name, None)
        if isinstance(found, int) and not isinstance(found, bool) and found > 0:
            return found
    return None


def count_blocks(config: Config) -> int:
    """The number of blocks that a config states.

    Args:
        config: A whole `config.json`.

    Raises:
        CheckpointError: If it states none, one that is no positive number, or several that
            disagree.
        ModelError: If it states none because its type is refused.
    """
    section = text_section(config)
    stated = counts(section)
    row = find(str(section.get("model_type"))) or find(str(config.get("model_type")))
    if row is not None and row.count in stated:
        # The class reads a count by its common name too, except beside a decoder's, where that
        # may be the encoder's.
        names = {row.count} if row.count in DECODER_COUNTS else {row.count, COUNTS[0]}
        stated = {name: count for name, count in stated.items() if name in names}
    if not stated:
        stated = {n: len(section[n]) for n in LISTED_COUNTS if _is_list(section.get(n))}
    if not stated:
        _refuse_values(section)
        require_prunable(str(config.get("model_type") or ""))
        raise CheckpointError(
            f"config.json: expected the number of blocks under one of {', '.join(COUNTS)}, "
            "found none; is this a causal language model?"
        )
    if len(set(stated.values())) > 1:
        listed = ", ".join(f"{name}={shown(value)}" for name, value in stated.items())
        raise CheckpointError(f"config.json: the numbers of blocks disagree ({listed}); correct it")
    name, blocks = next(iter(stated.items()))
    if blocks > _DEEPEST:
        raise CheckpointError(
            f"config.json: {name} is {shown(blocks)}, expected at most {_DEEPEST}; correct it"
        )
    return blocks


def _refuse_values(section: Config) -> None:
    """Refuse a number of blocks that is there and is none."""
    for name in COUNTS:
        value = section.get(name)
        if value is not None:
            raise CheckpointError(
                f"config.json: {name} is {shown(value, 80)}, expected a whole number of at least "
                "1; correct it"
            )


def _is_list(value: object) -> bool:
    return isinstance(value, (list, str)) and len(value) > 0


def counts(section: Config) -> dict[str, int]:
    """Every number of blocks that a section states, by the name of its field."""
    return {
        name: section[name]
        for name in COUNTS
        if isinstance(section.get(name), int)
        and not isinstance(section[name], bool)
        and section[name] > 0
    }
