"""Generation by what the caller says alone, whatever a checkpoint's own settings hold.

A `generation_config.json` may end texts at strings that need a tokenizer, draft by looking the
prompt up, return several sequences or an object instead of tokens, or penalise and forbid. What is
compared, measured or shown here asks for tokens, and every model must give them in the same way.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_IDS = ("bos_token_id", "decoder_start_token_id", "forced_bos_token_id")
"""What a model needs to begin with."""


@contextmanager
def plain_generation(module: Any, *, ends: Any = None) -> Iterator[None]:
    """Inside the context a model's generation settings are transformers' defaults.

    Args:
        module: A transformers model; its own settings come back afterwards.
        ends: The id, or ids, of tokens that end a text; None where nothing does.
    """
    from transformers import GenerationConfig

    own = module.generation_config
    begin = {name: getattr(own, name, None) for name in _IDS}
    # A model that drafts is given no mask, and takes what is said to be padding for it.
    padding = None if ends is None else 0
    plain = GenerationConfig(pad_token_id=padding, eos_token_id=ends, **begin)
    module.generation_config = plain
    try:
        yield
    finally:
        module.generation_config = own
