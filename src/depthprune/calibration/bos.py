"""What stands before every window: the tokens that a model's own tokenizer puts before a text.

A model that was trained with BOS computes nonsense without it, and one that was not is disturbed by
it. No field of a tokenizer says reliably which it is, so the tokenizer is asked: a text is
tokenised with and without special tokens, and what only the first begins with is the lead. That is
BOS for most, several tokens for some, nothing for others.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from depthprune.errors import CalibrationError

Bos = Literal["auto"] | bool

_PROBE = "a b"


def bos_tokens_of(bos: Bos, tokenizer: Any, what: str) -> tuple[int, ...]:
    """The tokens that begin every window.

    Args:
        bos: `auto`: what the tokenizer itself adds; true: that, else its BOS token; false: none.
        tokenizer: A tokenizer from transformers.
        what: The calibration, for the message.

    Raises:
        CalibrationError: If BOS is asked for and the tokenizer has none, or none in its vocabulary.
    """
    if bos is False:
        return ()
    own = _own_lead(tokenizer)
    if own or bos == "auto":
        return own
    found, name = tokenizer.bos_token_id, getattr(tokenizer, "bos_token", None)
    if name is None and found is None:
        raise CalibrationError(
            f"{what}: bos=true, but the model's tokenizer has no BOS token; drop bos="
        )
    if found is None or tokenizer.convert_ids_to_tokens(found) != str(name):
        raise CalibrationError(
            f"{what}: bos=true, but the tokenizer's BOS token {str(name)!r:.60} is not in its "
            "vocabulary; drop bos=, or mend bos_token in tokenizer_config.json"
        )
    return (int(found),)


def with_bos(lead: Sequence[int], ids: Sequence[int]) -> list[int]:
    """Tokens behind their lead, which they may bring themselves (as chat templates do)."""
    if lead and list(ids[: len(lead)]) == list(lead):
        return list(ids)
    return [*lead, *ids]


def _own_lead(tokenizer: Any) -> tuple[int, ...]:
    """What a tokenizer puts before a text by itself."""
    whole, bare = (
        [int(i) for i in tokenizer(_PROBE, add_special_tokens=add, verbose=False)["input_ids"]]
        for add in (True, False)
    )
    for start in range(len(whole) - len(bare) + 1):
        if whole[start : start + len(bare)] == bare:
            return tuple(whole[:start])
    return ()
