"""The written checkpoint computes exactly what the masked model did.

The checkpoint is reloaded as its users will (`reloading`); its logits must equal the masked
model's, each kept block must be set up as it was (`block_settings`), and greedy generation with a
cache must equal generation without (`generation`). What does not agree to the bit is decided in
float32, or where that leaves a doubt in float64 (see `widening`); how far a dtype of few bits was
off is measured and reported, and decides nothing.
"""

from __future__ import annotations

import gc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from depthprune.checkpoints.config.sections import context_length
from depthprune.checkpoints.purpose import other_head
from depthprune.errors import ModelError, ParityError, first_line
from depthprune.manifest import ParityRecord
from depthprune.models.blocks.anatomy import Anatomy
from depthprune.models.blocks.replay import relative_difference
from depthprune.models.devices import DTYPES, plain_products
from depthprune.models.free_memory import out_of_memory
from depthprune.models.loading import Model, load
from depthprune.models.parity.block_settings import check_settings
from depthprune.models.parity.generation import check_cache
from depthprune.models.parity.heads import verify_headed
from depthprune.models.parity.reloading import reload_like
from depthprune.models.probe_tokens import probe_tokens
from depthprune.models.source import find_model
from depthprune.models.turns import taking_turns
from depthprune.models.widening import CANNOT, FLOAT32_LIMIT, cannot_run, is_narrow, widened
from depthprune.progress import SILENT, Progress

_WINDOWS, _LENGTH = 2, 96
_SHORTEST = 2
"""Tokens, whatever a config says of the context: most types run beyond it."""
_PROMPT, _NEW = 16, 16
_NEW_STREAMED = 4
"""Each token of a streamed model reads all of its weights."""

_NO_TOKENIZER = object()
"""Parity compares token ids, so an original without a tokenizer is loaded all the same."""


def verify_checkpoint(
    original: Path,
    pruned: Path,
    removed: Sequence[int],
    *,
    dtype: str = "auto",
    device: str = "auto",
    trust_remote_code: bool = False,
    progress: Progress = SILENT,
) -> ParityRecord:
    """Load an original and check a pruned checkpoint against it, each by its own head.

    Raises:
        ParityError: If they differ, saying in what.
    """
    source = find_model(original, trust_remote_code=trust_remote_code)
    if source.checkpoint is not None and other_head(source.checkpoint) is not None:
        prefix = source.checkpoint.block_prefix
        return verify_headed(original, pruned, removed, prefix, trust_remote_code=trust_remote_code)
    model = load(source, dtype=dtype, device=device, tokenizer=_NO_TOKENIZER)
    return verify(model, reload_like(model, pruned), removed, progress=progress)


def verify(
    model: Model, module: nn.Module, removed: Sequence[int], *, progress: Progress = SILENT
) -> ParityRecord:
    """Check a reloaded checkpoint against the masked form of a loaded model.

    Args:
        model: The original.
        module: The checkpoint, as `reload_like` gave it.
        removed: The blocks that it lacks.
        progress: Where the work shows itself.

    Returns:
        What was compared, and how far apart it was.

    Raises:
        ParityError: If they differ, saying in what, or one cannot be run.
        ModelError: If memory does not hold what the comparison takes.
    """
    try:
        with plain_products():
            return _verify(model, module, removed, progress)
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            why = cannot_run(model.module, DTYPES[model.dtype], error)
            raise ParityError(f"parity: {why}; nothing was kept") from error
        raise ModelError(
            f"parity: memory ran out on {model.device} while the written checkpoint was compared "
            f"with the masked model ({first_line(error)}); nothing was kept; close other programs, "
            "or take --stream or --device cpu"
        ) from error


def _verify(
    model: Model, module: nn.Module, removed: Sequence[int], progress: Progress
) -> ParityRecord:
    with progress.step("parity: the saved model against the measured one", 3, "checks") as step:
        tokens = _probe(model.anatomy)
        theirs = _masked_logits(model.anatomy, removed, tokens)
        with taking_turns(module, model.module):
            ours = _logits(module, tokens)
        # Behind a run of each, since some types set up their blocks while they run.
        check_settings(model, module, removed)
        difference = relative_difference(ours, theirs)
        in_float32, in_float64 = _decided(model, module, removed, tokens, difference)
        step.advance()
        with taking_turns(module, model.module):
            new = _NEW if model.stream is None else _NEW_STREAMED
            generated = check_cache(model, module, tokens[:1, :_PROMPT], new)
        step.advance()
    scale = theirs[theirs.isfinite()].abs().max().item()
    return ParityRecord(
        dtype=model.dtype,
        tokens=tokens.numel(),
        logits_scale=scale,
        logits_difference=difference * scale,
        bitwise=difference == 0.0,
        float32_difference=in_float32,
        float64_difference=in_float64,
        generated_tokens=generated,
    )


def _probe(anatomy: Anatomy) -> Tensor:
    config: Any = anatomy.module.config
    context = context_length(config.get_text_config()) or _LENGTH + _NEW
    shape = (_WINDOWS, max(_SHORTEST, min(_LENGTH, context - _NEW)))
    return probe_tokens(anatomy.module, shape, seed=0).to(anatomy.device)


@torch.inference_mode()
def _logits(module: nn.Module, tokens: Tensor) -> Tensor:
    return module(input_ids=tokens, use_cache=False).logits  # type: ignore[no-any-return]


def _masked_logits(anatomy: Anatomy, removed: Sequence[int], tokens: Tensor) -> Tensor:
    with anatomy.masked(removed) as module:
        return _logits(module, tokens)


def _decided(
    model: Model, module: nn.Module, removed: Sequence[int], tokens: Tensor, difference: float
) -> tuple[float | None, float | None]:
    """The difference in float32 and in float64, each where it had to decide.

    Raises:
        ParityError: If it is none of rounding.
    """
    asked = (model, module, removed, tokens)
    narrow = difference != 0.0 and is_narrow(DTYPES[model.dtype])
    exact = _wide_difference(*asked, torch.float32) if narrow else difference
    in_float32 = exact if narrow else None
    if exact <= FLOAT32_LIMIT:
        return in_float32, None
    try:
        finer = _wide_difference(*asked, torch.float64)
    except CANNOT:
        raise _differs(exact, "float32") from None
    if not finer <= FLOAT32_LIMIT:
        raise _differs(finer, "float64")
    return in_float32, finer


def _wide_difference(
    model: Model, module: nn.Module, removed: Sequence[int], tokens: Tensor, dtype: torch.dtype
) -> float:
    """The same comparison with both models widened, one after the other."""
    with widened(model.module, model.anatomy.blocks.modules, dtype):
        near = tokens.to(model.anatomy.device)
        theirs = _masked_logits(model.anatomy, removed, near)
    gc.collect()
    blocks = list(module.get_submodule(model.anatomy.blocks.path).children())
    with taking_turns(module, model.module), widened(module, blocks, dtype):
        return relative_difference(_logits(module, near), theirs)


def _differs(difference: float, dtype: str) -> ParityError:
    return ParityError(
        f"the written checkpoint's logits differ from the masked model's by {difference:.1e} of "
        f"their scale in {dtype} (limit {FLOAT32_LIMIT:.0e}); nothing was kept"
    )
