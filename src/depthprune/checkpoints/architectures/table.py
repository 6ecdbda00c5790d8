"""Which architectures can be cut, and what is particular to each, as data.

A row is a model type. "Verified" means that a test builds a small model of the type, removes
blocks from its checkpoint, and finds the logits of the reloaded checkpoint equal to those of the
original with the blocks skipped in place. "Refused" means that depth enters the architecture in a
way that cannot be rewritten, with the reason. Any other type is unknown: surgery may well be
right for it, but only a comparison of logits can tell.
"""

from __future__ import annotations

from functools import cache

from depthprune.checkpoints.architectures.multimodal_rows import MULTIMODAL_ROWS
from depthprune.checkpoints.architectures.schema import Architecture
from depthprune.checkpoints.architectures.text_rows import ROWS
from depthprune.errors import ModelError


def architectures() -> tuple[Architecture, ...]:
    """Every model type the table knows, verified ones first, by name."""
    return tuple(
        sorted(_table().values(), key=lambda row: (row.status != "verified", row.model_type))
    )


def require_prunable(model_type: str, *, proved: bool = False) -> Architecture | None:
    """Refuse a model type that cannot be depth-pruned.

    Args:
        model_type: As in `config.json`.
        proved: Refuse a type without a row too.

    Returns:
        The type's row, or None where the table has none.

    Raises:
        ModelError: If the type is refused, or unknown where it must not be.
    """
    row = find(model_type)
    if row is None and proved:
        raise ModelError(
            f"model_type {model_type or 'missing'}: not on the list of verified architectures "
            "(depthprune architectures); pass --verify to compare the result with the original, "
            "which loads both"
        )
    if row is not None and row.status != "verified":
        raise ModelError(f"model_type {model_type}: cannot be depth-pruned; {row.why}")
    return row


def find(model_type: str) -> Architecture | None:
    """The row of a model type, or None where the table has none."""
    return _table().get(model_type)


@cache
def _table() -> dict[str, Architecture]:
    return {row.model_type: row for row in (*ROWS, *MULTIMODAL_ROWS)}
