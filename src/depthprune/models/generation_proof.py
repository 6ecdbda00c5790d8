"""A written checkpoint generates with a cache what it generates without one.

Tokens are whole numbers, but two that are nearly as likely change places by rounding, since a
cache changes the shapes of products. So where the tokens differ, the model is widened and asked
again (see `widening`), and a tie within the rounding of float32 ends the comparison. A type that
picks among equal scores (a sparse attention, say) may leave its own generation even so; no more is
asked of a cut than its original does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from depthprune.errors import ParityError, first_line
from depthprune.models.free_memory import out_of_memory
from depthprune.models.loading import Model, quiet_transformers
from depthprune.models.widening import FLOAT32_LIMIT, widened


def check_cache(model: Model, module: nn.Module, prompt: Tensor, new: int) -> int:
    """Compare greedy generation with a cache and without one.

    Args:
        model: The original.
        module: The reloaded checkpoint.
        prompt: Token ids, shape (1, length).
        new: How many tokens are generated.

    Returns:
        How many tokens were the same: all, or those before a tie.

    Raises:
        ParityError: If the checkpoint does not generate, or generates something else with a cache.
    """
    try:
        same = _in_common(*_both(module, prompt, new))
    except Exception as error:
        if out_of_memory(error):
            raise
        raise ParityError(
            f"the written checkpoint does not generate ({first_line(error, 300)}); nothing was kept"
        ) from error
    if same == new:
        return new
    path = model.anatomy.blocks.path
    same, sound = _widened_agreement(
        module, list(module.get_submodule(path).children()), prompt, new
    )
    if not sound:
        _, sound = _widened_agreement(model.module, model.anatomy.blocks.modules, prompt, new)
        if sound:
            raise ParityError(
                f"the written checkpoint's greedy generation with a cache leaves that without one "
                f"after {same} tokens, and the original's does not; nothing was kept"
            )
    return same


def _widened_agreement(
    module: nn.Module, blocks: Sequence[nn.Module], prompt: Tensor, new: int
) -> tuple[int, bool]:
    """How many tokens agree in float32, and whether they all do, up to a tie."""
    with widened(module, blocks):
        with_cache, without = _both(module, prompt, new)
        same = _in_common(with_cache, without)
        return same, same == new or _tied(module, prompt, with_cache, without)


def _both(module: nn.Module, prompt: Tensor, new: int) -> tuple[Tensor, Tensor]:
    """The new tokens with a cache and without, each of shape (new,)."""
    place = module.get_input_embeddings().weight.device  # type: ignore[operator]
    found = [_continue(module, prompt.to(place), new, use_cache=flag) for flag in (True, False)]
    return found[0][0, prompt.shape[1] :], found[1][0, prompt.shape[1] :]


def _in_common(ours: Tensor, theirs: Tensor) -> int:
    """How many tokens at the beginning are the same."""
    length = min(len(ours), len(theirs))
    return int((ours[:length] == theirs[:length]).long().cumprod(-1).sum())


@torch.inference_mode()
def _tied(module: Any, prompt: Tensor, ours: Tensor, theirs: Tensor) -> bool:
    """Whether the first tokens that differ are equally likely but for rounding in float32."""
    at = _in_common(ours, theirs)
    if at >= min(len(ours), len(theirs)):
        return False
    before = torch.cat([prompt.to(theirs.device), theirs[None, :at]], dim=1)
    logits = module(input_ids=before, use_cache=False).logits[0, -1]
    scale = logits[logits.isfinite()].abs().max()
    apart = (logits[theirs[at]] - logits[ours[at]]).abs()
    return bool(apart <= 2 * FLOAT32_LIMIT * scale)  # each of the two may be off by the limit


@torch.inference_mode()
def _continue(module: Any, prompt: Tensor, new: int, *, use_cache: bool) -> Tensor:
    """Greedy continuation by exactly `new` tokens."""
    with quiet_transformers():
        return module.generate(  # type: ignore[no-any-return]
            prompt,
            attention_mask=torch.ones_like(prompt),
            do_sample=False,
            min_new_tokens=new,
            max_new_tokens=new,
            use_cache=use_cache,
            pad_token_id=0,
        )
