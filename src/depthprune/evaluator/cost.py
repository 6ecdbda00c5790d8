"""Cost, counted and never guessed: block-tokens and head-tokens.

A block-token is one token through one block, a head-token one token through the head. Both are the
same on every machine, which seconds are not.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from depthprune.calibration import Window


@dataclass(frozen=True)
class Cost:
    """What an evaluator has spent so far.

    Attributes:
        evaluations: Removed sets that were asked for, a set on half of the windows counting half;
            the dense model is not counted.
        block_tokens: Tokens times blocks that were run.
        head_tokens: Tokens whose logits were computed.
        plain_block_tokens: Block-tokens that one plain forward pass for each scored set, the dense
            model included, would have cost.
        recalled: Losses (of one set on one window) that a memo gave.
        asked_block_tokens: Block-tokens of all that was asked for, whoever computed it: what it
            takes where nothing is known before, so it is the same on a second run.
        seconds: Wall time inside the evaluator.
    """

    evaluations: float = 0.0
    block_tokens: int = 0
    head_tokens: int = 0
    plain_block_tokens: int = 0
    recalled: int = 0
    asked_block_tokens: int = 0
    seconds: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        """Both together."""
        return Cost(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(Cost)))

    def __sub__(self, other: Cost) -> Cost:
        """What was spent since `other`."""
        return Cost(*(getattr(self, f.name) - getattr(other, f.name) for f in fields(Cost)))


def plain_tokens(window: Window) -> int:
    """Tokens of a window in plain forwards: of an item, its prompt once for each option."""
    if window.item is None:
        return len(window.tokens)
    prompt = window.item.spans[0][0]
    return len(window.tokens) + prompt * (len(window.item.spans) - 1)
