"""How many tokens a model has positions for, where a table of them ends.

Rotary and other computed positions go on past what a model was made for, and are never refused.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from depthprune.checkpoints.config.sections import context_length
from depthprune.errors import UsageError


def learns_positions(module: nn.Module) -> bool:
    """Whether a model has a table of positions, past whose end it reads nothing at all."""
    return any(
        isinstance(each, nn.Embedding) and ("wpe" in name or "position" in name)
        for name, each in module.named_modules()
    )


def require_room(module: Any, prompt_tokens: int, new_tokens: int) -> None:
    """Refuse a prompt and an answer that go past a model's table of positions.

    Raises:
        UsageError: If they do.
    """
    if not learns_positions(module):
        return
    most = context_length(module.config.get_text_config())
    if most is not None and prompt_tokens + new_tokens > most:
        raise UsageError(
            f"a prompt of {prompt_tokens:,} tokens and {new_tokens:,} new ones are more than the "
            f"{most:,} positions that the model has; ask for fewer"
        )
