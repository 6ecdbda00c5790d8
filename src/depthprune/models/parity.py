"""Parity: the written checkpoint computes exactly what the masked model did.

The checkpoint is reloaded with plain `from_pretrained`, as its users will. Three things must hold:
no key is missing, unexpected or of another shape; its logits equal the masked model's; greedy
generation with a cache equals generation without. What does not agree to the bit is decided in
float32, or where that leaves a doubt in float64 (see `widening`); how far a dtype of few bits was
off is measured and reported, and decides nothing.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Collection, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from depthprune.checkpoints.purpose import other_head
from depthprune.errors import ModelError, ParityError, first_line
from depthprune.manifest import ParityRecord
from depthprune.models.auto_class import automatic_class_of, read_config
from depthprune.models.blocks.anatomy import Anatomy
from depthprune.models.blocks.replay import relative_difference
from depthprune.models.devices import DTYPES, DeviceMap, plain_products
from depthprune.models.free_memory import out_of_memory
from depthprune.models.generation_proof import check_cache
from depthprune.models.gguf.unpacking import quick_gguf
from depthprune.models.loading import (
    Model,
    forget_quantization,
    gguf_options,
    load,
    load_streamed,
    numberless,
    quiet_transformers,
)
from depthprune.models.parity_of_heads import verify_headed
from depthprune.models.probe_tokens import probe_tokens
from depthprune.models.source import find_model
from depthprune.models.turns import put_on, taking_turns
from depthprune.models.widening import CANNOT, FLOAT32_LIMIT, cannot_run, is_narrow, widened
from depthprune.progress import SILENT, Progress

_WINDOWS, _LENGTH = 2, 96
_SHORTEST = 2
"""Tokens, whatever a config says of the context: most types run beyond it."""
_PROMPT, _NEW = 16, 16
_NEW_STREAMED = 4
"""Each token of a streamed model reads all of its weights."""


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


def reload_like(
    model: Model, place: Path, *, stream: bool = False, device_map: DeviceMap | None = None
) -> nn.Module:
    """Load a checkpoint under what its original was loaded with, and ask no more of it.

    Args:
        model: The original.
        place: See `reload`.
        stream: See `reload`.
        device_map: See `reload`.

    Raises:
        ParityError: As `reload`, but for keys that its original has no place for either.
    """
    return reload(
        place,
        model.dtype,
        model.device,
        stream=stream,
        device_map=device_map,
        trust_remote_code=model.source.trust_remote_code,
        tolerated=model.unexpected,
    )


_NO_TOKENIZER = object()
"""Parity compares token ids, so an original without a tokenizer is loaded all the same."""


def verify(
    model: Model, module: nn.Module, removed: Sequence[int], *, progress: Progress = SILENT
) -> ParityRecord:
    """Check a reloaded checkpoint against the masked form of a loaded model.

    Args:
        model: The original.
        module: The checkpoint, as `reload` gave it.
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
        _check_settings(model, module, removed)
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


def reload(
    place: Path,
    dtype: str,
    device: str,
    *,
    stream: bool = False,
    device_map: DeviceMap | None = None,
    trust_remote_code: bool = False,
    tolerated: Collection[str] = (),
) -> nn.Module:
    """Load a checkpoint as its users will, and refuse one that does not fit its config.

    Args:
        place: A checkpoint folder, or a GGUF file, whose weights are unpacked.
        dtype: Name of the dtype it computes in.
        device: Where it computes.
        stream: Read its blocks when they are about to run, for a model larger than memory.
        device_map: Lay it on several devices instead, as `load` takes it.
        trust_remote_code: Let the model's own Python code run.
        tolerated: Unexpected keys that its original has too, as `numberless` writes them.

    Raises:
        ParityError: If it cannot be loaded, or a key is missing, unexpected or mismatched.
    """
    try:
        if stream:
            module, info = _streamed(place, DTYPES[dtype], device, trust_remote_code)
        else:
            module, info = _whole(place, DTYPES[dtype], device, device_map, trust_remote_code)
    except Exception as error:
        raise ParityError(
            f"the written checkpoint does not load ({first_line(error, 300)})"
        ) from error
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        keys = sorted(str(key) for key in info.get(kind) or ())
        if kind == "unexpected_keys":
            keys = [key for key in keys if numberless(key) not in tolerated]
        if keys:
            raise ParityError(
                f"the written checkpoint has {len(keys)} {kind.replace('_', ' ')}, such as "
                f"{keys[0]}; nothing was kept"
            )
    return module.eval()


def _whole(
    place: Path,
    dtype: torch.dtype,
    device: str,
    device_map: DeviceMap | None,
    trust_remote_code: bool,
) -> tuple[nn.Module, dict[str, Any]]:
    trust: dict[str, Any] = {"trust_remote_code": trust_remote_code}
    folder, options = place, {}
    if place.is_file():
        folder, options = place.parent, gguf_options(place)
    else:
        options["config"] = read_config(place, **trust)
    if device_map is not None:
        options["device_map"] = device_map
    with quiet_transformers(), quick_gguf() if place.is_file() else nullcontext():
        module, info = automatic_class_of(place, **trust).from_pretrained(
            str(folder),
            dtype=dtype,
            local_files_only=True,
            output_loading_info=True,
            **options,
            **trust,
        )
    if place.is_file():
        forget_quantization(module)
    return (put_on(module, device) if device_map is None else module), info


def _streamed(
    folder: Path, dtype: torch.dtype, device: str, trust_remote_code: bool
) -> tuple[nn.Module, dict[str, Any]]:
    source = find_model(folder, trust_remote_code=trust_remote_code)
    module, filled = load_streamed(source, dtype, torch.device(device))
    return module, {"unexpected_keys": filled.unexpected}


def _probe(anatomy: Anatomy) -> Tensor:
    config: Any = anatomy.module.config
    context = getattr(config.get_text_config(), "max_position_embeddings", None) or 0
    # Some types say -1, and have no limit.
    context = int(context) if context > 0 else _LENGTH + _NEW
    vocabulary = anatomy.module.get_input_embeddings().weight.shape[0]  # type: ignore[operator]
    shape = (_WINDOWS, max(_SHORTEST, min(_LENGTH, context - _NEW)))
    first = min(3, vocabulary - 1)
    return probe_tokens(anatomy.module, shape, seed=0, first=first).to(anatomy.device)


@torch.inference_mode()
def _logits(module: nn.Module, tokens: Tensor) -> Tensor:
    return module(input_ids=tokens, use_cache=False).logits  # type: ignore[no-any-return]


def _masked_logits(anatomy: Anatomy, removed: Sequence[int], tokens: Tensor) -> Tensor:
    with anatomy.masked(removed) as module:
        return _logits(module, tokens)


def _check_settings(model: Model, module: nn.Module, removed: Sequence[int]) -> None:
    """Each kept block must be set up as it was.

    A wrong layer type may show in no logit of a short text: a window of 4,096 tokens is no window
    on 96. So lists of the config with an entry a block, and every plain attribute inside the
    blocks, are compared with those of the original. A number that follows the block's is its own,
    and so is one that follows how many there are.
    """
    blocks = model.anatomy.blocks
    kept = [index for index in range(len(blocks)) if index not in set(removed)]
    new = module.get_submodule(blocks.path)
    if len(list(new.children())) != len(kept):
        raise ParityError(f"the written checkpoint has {len(list(new.children()))} blocks")
    before, after = (
        _block_lists(each, n) for each, n in ((model.module, len(blocks)), (module, len(kept)))
    )
    for name in before.keys() & after.keys():
        expected = [before[name][index] for index in kept]
        numbers = _renumbered(before[name], kept)
        if after[name] not in (expected, numbers):
            raise _set_otherwise(f"config.{name}", expected, after[name])
    for place, (index, block) in enumerate(zip(kept, new.children(), strict=True)):
        theirs, ours = dict(_settings(blocks.modules[index])), dict(_settings(block))
        for name in theirs.keys() & ours.keys():
            pair = (theirs[name], ours[name])
            follows = _follows(*pair, index, place) or pair == (len(blocks), len(kept))
            if not follows and not _alike(*pair):
                raise _set_otherwise(f"{blocks.path}.{place}.{name}", theirs[name], ours[name])


def _renumbered(listed: Sequence[object], kept: Sequence[int]) -> list[int] | None:
    """What a list of block numbers is in the cut; None where a list is none."""
    numbers = [each for each in listed if type(each) is int]
    if len(numbers) < len(listed) or len(set(numbers)) < len(numbers):
        return None
    return [kept.index(number) for number in numbers if number in kept]


def _follows(before: object, after: object, index: int, place: int) -> bool:
    """Whether a number counts what each block has one or more of, through all blocks."""
    if type(before) is not int or type(after) is not int or index == place:
        return False
    each, rest = divmod(before - after, index - place)
    return each > 0 and rest == 0 and (before // each, after // each) == (index, place)


def _alike(before: object, after: object) -> bool:
    """Equal; a scale that the depth enters is rewritten, and may be another in its last place."""
    if isinstance(before, float) and isinstance(after, float):
        return math.isclose(before, after, rel_tol=1e-12)
    return before == after


def _block_lists(module: Any, count: int) -> dict[str, list[Any]]:
    config = module.config.get_text_config().to_dict()
    return {k: v for k, v in config.items() if isinstance(v, list) and len(v) == count}


def _settings(block: nn.Module) -> Iterator[tuple[str, Any]]:
    for path, module in block.named_modules():
        for name, value in vars(module).items():
            if value is None or isinstance(value, (bool, int, float, str)):
                yield f"{path}.{name}".lstrip("."), value


def _set_otherwise(name: str, expected: object, got: object) -> ParityError:
    return ParityError(
        f"the written checkpoint sets up a block otherwise: {name} is {got!r}, and was "
        f"{expected!r}; nothing was kept"
    )


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
