"""What a `generation_config.json` says of single blocks.

Most of it is about sampling. Whisper keeps there which heads of which blocks show when a word is
said, and LayerSkip after which block it drafts; under the old numbers they would name other blocks
or none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from depthprune.errors import CheckpointError
from depthprune.untrusted import shown

NAME = "generation_config.json"

HEADS = "alignment_heads"
"""Pairs of a block and one of its heads."""

EXIT = "assistant_early_exit"
"""How many blocks draft."""

FIELDS = (HEADS, EXIT)


def cut_settings(settings: dict[str, Any], kept: Sequence[int], blocks: int) -> dict[str, Any]:
    """Generation settings of the model without the removed blocks.

    Args:
        settings: A whole `generation_config.json`; it is not changed.
        kept: Original numbers of the kept blocks, in order.
        blocks: How many blocks there were.

    Returns:
        The new settings, without a field of which nothing is left.

    Raises:
        CheckpointError: If a field names blocks that there are not.
    """
    new = dict(settings)
    if settings.get(HEADS) is not None:
        new[HEADS] = _heads(settings[HEADS], kept, blocks)
    if settings.get(EXIT) is not None:
        new[EXIT] = sum(block < _exit(settings[EXIT], blocks) for block in kept)
    return {k: v for k, v in new.items() if k not in FIELDS or v or settings[k] is None}


def _heads(pairs: Any, kept: Sequence[int], blocks: int) -> list[list[int]]:
    fits = isinstance(pairs, list) and all(
        isinstance(pair, list)
        and len(pair) == 2
        and all(isinstance(number, int) for number in pair)
        and 0 <= pair[0] < blocks
        for pair in pairs
    )
    if not fits:
        raise _wrong(HEADS, pairs, f"pairs of a block from 0 to {blocks - 1} and a head")
    place = {block: number for number, block in enumerate(kept)}
    return [[place[block], head] for block, head in pairs if block in place]


def _exit(value: Any, blocks: int) -> int:
    if not isinstance(value, int) or not 0 < value <= blocks:
        raise _wrong(EXIT, value, f"a number of blocks from 1 to {blocks}")
    return value


def _wrong(name: str, value: object, expected: str) -> CheckpointError:
    return CheckpointError(f"{NAME}: {name} is {shown(value, 80)}, expected {expected}; correct it")
