"""A GGUF for a trainer that looks for a `config.json` before it reads weights, as TRL does.

A GGUF's folder has none, so beside a hand-off's configs stands a folder with the config that
transformers makes of the file's header, and a link to the file. No weight is read.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from depthprune.models.gguf.config import config_of


def write_teacher(folder: Path, file: Path, architectures: list[str]) -> None:
    """Make a folder that transformers loads with `gguf_file=` and a config read first.

    Args:
        folder: Is made.
        file: The GGUF.
        architectures: The classes in transformers that the model is of; a GGUF names none.

    Raises:
        ModelError: If transformers makes no config of the file.
    """
    config = config_of(file)
    folder.mkdir()
    told = {**config.to_dict(), "architectures": architectures}
    (folder / "config.json").write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
    try:
        (folder / file.name).symlink_to(file.absolute())
    except OSError:  # where links cannot be made
        shutil.copyfile(file, folder / file.name)


def loading_options(file: Path) -> dict[str, Any]:
    """What transformers is to be told to read the weights unpacked, in plain values."""
    import transformers

    options: dict[str, Any] = {"gguf_file": file.name}
    if hasattr(transformers, "GgufConfig"):
        options["quantization_config"] = {"quant_method": "gguf", "dequantize": True}
    return options
