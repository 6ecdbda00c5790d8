"""A written checkpoint generates with a cache what it generates without one.

Tokens are whole numbers, but two that are nearly as likely change places by rounding, since a
cache changes the shapes of products. So where the tokens differ, the model is widened and asked
again (see `widening`), and its logits decide. A type that picks among scores (a sparse attention,
say) may compute something else with a cache even so; no more is asked of a cut than its original
does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from depthprune.errors import ParityError, first_line
from depthprune.models.blocks.replay import relative_difference
from depthprune.models.free_memory import out_of_memory
from depthprune.models.loading import Model
from depthprune.models.plain_generation import plain_generation
from depthprune.models.pretrained import quiet_transformers
from depthprune.models.widening import FLOAT32_LIMIT, settled, widened


def check_cache(model: Model, module: nn.Module, prompt: Tensor, new: int) -> int:
    """Compare greedy generation with a cache and without one.

    Args:
        model: The original.
        module: The reloaded checkpoint.
        prompt: Token ids, shape (1, length).
        new: How many tokens are generated.

    Returns:
        How many tokens were the same: all, or those before two that are as likely.

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
    blocks = list(module.get_submodule(path).children())
    with widened(module, blocks):
        same = _in_common(*_both(module, prompt, new))
    if (
        same < new
        and _costs(module, blocks, prompt, new)
        and not _costs(model.module, model.anatomy.blocks.modules, prompt, new)
    ):
        raise ParityError(
            f"the written checkpoint's greedy generation with a cache leaves that without one "
            f"after {same} tokens, and the original's does not; nothing was kept"
        )
    return same


def _costs(module: nn.Module, blocks: Sequence[nn.Module], prompt: Tensor, new: int) -> bool:
    """Whether a cache changes what a model computes, by more than rounding."""
    apart, _ = settled(module, blocks, lambda: _cache_costs(module, prompt, new))
    return not apart <= FLOAT32_LIMIT


@torch.inference_mode()
def _cache_costs(module: Any, prompt: Tensor, new: int) -> float:
    """How far logits with a cache are from those without, along what is generated."""
    written = _continue(module, _near(module, prompt), new, use_cache=True, output_logits=True)
    ours = torch.stack(written.logits, dim=1)
    theirs = module(input_ids=written.sequences[:, :-1], use_cache=False).logits
    return relative_difference(ours, theirs[:, prompt.shape[1] - 1 :])


def _near(module: Any, prompt: Tensor) -> Tensor:
    return prompt.to(module.get_input_embeddings().weight.device)


def _both(module: nn.Module, prompt: Tensor, new: int) -> tuple[Tensor, Tensor]:
    """The new tokens with a cache and without, each of shape (new,)."""
    place = _near(module, prompt)
    found = [_continue(module, place, new, use_cache=flag) for flag in (True, False)]
    return found[0][0, prompt.shape[1] :], found[1][0, prompt.shape[1] :]


def _in_common(ours: Tensor, theirs: Tensor) -> int:
    """How many tokens at the beginning are the same."""
    length = min(len(ours), len(theirs))
    return int((ours[:length] == theirs[:length]).long().cumprod(-1).sum())


@torch.inference_mode()
def _continue(module: Any, prompt: Tensor, new: int, *, use_cache: bool, **more: Any) -> Any:
    """Greedy continuation by exactly `new` tokens."""
    with quiet_transformers(), plain_generation(module):
        return module.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            do_sample=False,
            max_new_tokens=new,
            use_cache=use_cache,
            return_dict_in_generate=bool(more),
            **more,
        )
