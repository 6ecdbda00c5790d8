"""The files of a checkpoint folder, other than config and weights, that a cut copy needs.

A list of what is wanted, never of what is not: optimizer states, pickled weights, training logs
and the manifest or report of an earlier cut stay behind because nothing here names them. Code is
copied only where the config says that the model needs it.
"""

from __future__ import annotations

import fnmatch
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from depthprune.errors import CheckpointError

_WANTED = (
    "tokenizer*",
    "vocab*",
    "merges*",
    "special_tokens*",
    "added_tokens*",
    "chat_template*",
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "image_processor_config.json",
    "video_preprocessor_config.json",
    "feature_extractor_config.json",
    "spiece.model",
    "sentencepiece*",
    "spm*.model",
    "*.model",
    "*.tiktoken",
    "bpe.codes",
    "license*",
    "licence*",
    "notice*",
    "copying*",
    "use_policy*",
)

_WANTED_FOLDERS = ("additional_chat_templates",)

_NEVER = ("*.bin", "*.pt", "*.pth", "*.safetensors", "*.gguf", "*.partial", "*.lock", "*~")


def copy_side_files(folder: Path, stage: Path, config: Mapping[str, Any]) -> list[str]:
    """Copy what a cut checkpoint needs beside its config and weights.

    Args:
        folder: The original's folder. Symbolic links are followed.
        stage: The new folder.
        config: The config; custom code is copied only where it has `auto_map`.

    Returns:
        The names copied, sorted. A folder that is copied whole is named once.

    Raises:
        CheckpointError: If a file that is wanted is a broken link.
    """
    wanted = _WANTED + (("*.py",) if config.get("auto_map") else ())
    copied = []
    for entry in sorted(folder.iterdir()):
        if entry.is_dir():
            if entry.name in _WANTED_FOLDERS:
                _copy_folder(entry, stage / entry.name)
                copied.append(entry.name)
        elif _matches(entry.name, wanted) and not _matches(entry.name, _NEVER):
            if not entry.exists():
                raise CheckpointError(f"{entry}: a link to a missing file; download it again")
            shutil.copyfile(entry, stage / entry.name)
            copied.append(entry.name)
    return copied


def _copy_folder(folder: Path, target: Path) -> None:
    """Copy contents alone: a read-only original must not make a read-only copy."""
    target.mkdir()
    for entry in sorted(folder.iterdir()):
        if entry.is_dir():
            _copy_folder(entry, target / entry.name)
        else:
            shutil.copyfile(entry, target / entry.name)


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatchcase(name.lower(), pattern) for pattern in patterns)
