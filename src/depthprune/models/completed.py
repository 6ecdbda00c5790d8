"""The config of a type that has no row, with what its class would derive written out.

The table says which lists a known class derives from the blocks' numbers. Of a type that is newer
than the table, the class itself is asked: every field that some rule speaks of, and that the file
leaves out, is written down as the class has it, before it is cut. So a new type works as long as
its fields mean what they mean elsewhere, which the comparison of logits then shows.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

from depthprune.checkpoints.checkpoint import Checkpoint
from depthprune.checkpoints.config.cut import row_of
from depthprune.checkpoints.config.fields import FIELDS
from depthprune.checkpoints.config.sections import text_section
from depthprune.errors import ModelError, first_line


def completed(
    checkpoint: Checkpoint, loaded: Any = None, *, trust_remote_code: bool = False
) -> Checkpoint:
    """A checkpoint whose config can be cut; one with a row as it is.

    Args:
        checkpoint: The original.
        loaded: Its config as transformers loaded it; read from its folder where None.
        trust_remote_code: Let the config's own Python code run, where it is read.

    Raises:
        ModelError: If its type is refused, or transformers cannot read its config.
    """
    if row_of(checkpoint.config) is not None:
        return checkpoint
    known = (loaded or _read(checkpoint, trust_remote_code)).get_text_config().to_dict()
    config = copy.deepcopy(checkpoint.config)
    section = text_section(config)
    for name in FIELDS:
        if section.get(name) is None and known.get(name) is not None:
            section[name] = copy.deepcopy(known[name])
    return replace(checkpoint, config=config)


def _read(checkpoint: Checkpoint, trust_remote_code: bool) -> Any:
    from depthprune.models.auto_class import read_config

    try:
        return read_config(checkpoint.folder, trust_remote_code=trust_remote_code)
    except Exception as error:
        raise ModelError(
            f"{checkpoint.folder}: transformers cannot read its config ({first_line(error)})"
        ) from error
