"""Parity of what shows in no logit: how each kept block is set up.

Outputs of a short text are the same with a window of 4,096 tokens as with none.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from torch import nn

from depthprune.errors import ParityError
from depthprune.models.loading import Model


def check_settings(model: Model, module: nn.Module, removed: Sequence[int]) -> None:
    """Each kept block must be set up as it was.

    A wrong layer type may show in no logit of a short text: a window of 4,096 tokens is no window
    on 96. So lists of the config with an entry a block, and every plain attribute inside the
    blocks, are compared with those of the original. A number that follows the block's is its own,
    and so is one that follows how many there are.

    Args:
        model: The original.
        module: The checkpoint, reloaded.
        removed: The blocks that it lacks.

    Raises:
        ParityError: Naming the first that differs.
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
