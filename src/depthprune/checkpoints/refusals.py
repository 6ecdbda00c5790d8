"""Which blocks cannot go together, known before any set of them is scored.

Surgery refuses what no config can say of the kept blocks: a hybrid without attention, a block
without the one whose keys it reads. A search that ended in such a set would have been in vain, so
it is given what is here: for a set, the line with which surgery would refuse it, or None.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, TypeAlias

from depthprune.checkpoints.checkpoint import Checkpoint
from depthprune.checkpoints.config.cut import cut_config
from depthprune.checkpoints.config.module_names import ModuleNames, naming_fields
from depthprune.checkpoints.gguf.file import GgufFile
from depthprune.checkpoints.gguf.rules import check_ties
from depthprune.errors import CheckpointError, ModelError

Refusal: TypeAlias = Callable[[tuple[int, ...]], "str | None"]


def config_refusal(config: Mapping[str, Any]) -> Refusal:
    """What surgery on a checkpoint with this config refuses.

    Args:
        config: A whole `config.json`.

    Returns:
        A function of a sorted removed set; it raises a `CheckpointError` where the config is
        damaged.
    """
    return _asked_once(lambda removed: cut_config(dict(config), removed))


def checkpoint_refusal(checkpoint: Checkpoint) -> Refusal:
    """What surgery on a checkpoint refuses.

    Beside its config's own: a part of a larger model may be quantised by a pattern that speaks of
    blocks by number, which can stay for some sets and cannot be written out for others.

    Args:
        checkpoint: The original.
    """
    config, section = checkpoint.config, checkpoint.text_config
    parts = () if section is config else (config, section)
    if not parts:
        return config_refusal(config)
    whole = ModuleNames(checkpoint.tensors, checkpoint.block_prefix, range(checkpoint.blocks))
    naming = [(name, part[name]) for part in parts for name in naming_fields(part, whole)]
    if not naming:
        return config_refusal(config)

    def check(removed: tuple[int, ...]) -> None:
        cut_config(config, removed)
        kept = [block for block in range(checkpoint.blocks) if block not in removed]
        modules = ModuleNames(checkpoint.tensors, checkpoint.block_prefix, kept, nested=True)
        for name, value in naming:
            modules.rename(value, name, warn=False)

    return _asked_once(check)


def gguf_refusal(file: GgufFile) -> Refusal:
    """What a cut of this GGUF refuses for the blocks in it, of a file that can be searched.

    Args:
        file: The original.
    """
    return _asked_once(lambda removed: check_ties(file, removed))


def _asked_once(check: Callable[[tuple[int, ...]], object]) -> Refusal:
    @cache
    def refusal(removed: tuple[int, ...]) -> str | None:
        try:
            check(removed)
        except CheckpointError:
            raise  # damage is no property of the set
        except ModelError as error:
            return str(error)
        return None

    return refusal
