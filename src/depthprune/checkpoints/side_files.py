"""The files of a checkpoint folder, other than config and weights, that a cut copy takes along.

Everything comes along that is not known to be of no use: nobody can list the names under which the
next tokenizer, template or processor will keep itself, and a copy without one of them is broken in
silence. What stays behind (weights in another form, which are of the uncut model; states and logs
of training; code that no config asks for) is known by name.

A file must be a regular one inside the folder. A link that leads out of it would carry a stranger's
choice of our files into the output, and a pipe or a device would never end.

What a `generation_config.json` says of single blocks.

Most of it is about sampling. Whisper keeps there which heads of which blocks show when a word is
said, and LayerSkip after which block it drafts; under the old numbers they would name other blocks
or none.
"""

from __future__ import annotations

import fnmatch
import os
import stat
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from depthprune.errors import CheckpointError
from depthprune.outputs import MANIFEST_NAME
from depthprune.untrusted import (
    check_inside,
    check_name_is_text,
    open_file,
    read_bytes,
    read_untrusted,
    shown,
    shown_path,
)

_OTHER_WEIGHTS = (
    "*.safetensors", "*.safetensors.index.json", "*.bin", "*.bin.index.json", "*.pt", "*.pth",
    "*.ckpt", "*.ckpt.*", "*.pkl", "*.pickle", "*.h5", "*.h5.index.json", "*.msgpack",
    "*.msgpack.index.json", "*.index.*.json", "adapter_config.json", "*.gguf", "*.ggml", "*.onnx",
    "*.onnx_data*", "*.npz", "*.npy",
    "*.nemo", "*.tflite", "*.mlmodel", "*.engine", "*.distcp", "*.ot", "consolidated*",
    "params.json", "onnx", "openvino", "coreml", "*.mlpackage", "original", "metal", "gguf",
)  # fmt: skip
"""Weights that are not the safetensors that are cut, and what describes them: Meta's and Mistral's
`params.json` counts the blocks of the uncut model, and transformers looks for the weights of an
adapter wherever there is the config of one."""

_OF_TRAINING = (
    "checkpoint-*", "global_step*", "optimizer*", "scheduler*", "scaler*", "rng_state*",
    "trainer_state*", "training_args*", "trainer_log*", "events.out*", "runs", "logs", "wandb",
    "latest", "zero_to_fp32.py", "all_results.json", "train_results.json", "eval_results.json",
    "*.log",
)  # fmt: skip

_UNFINISHED = ("*.lock", "*.partial", "*.incomplete", "*.tmp", "*.swp", "*~", "*.pyc")

_MODULES = "modules.json"
"""What sentence-transformers does after the model, with a folder for each step; its layers have
weights of their own there."""

_OURS = ("depthprune.json", "report.html", "readme.md", "__pycache__", ".*")
"""Of an earlier cut or of the folder itself: written anew, or about nothing but the folder."""

_CODE = ("*.py", "*.pyi")

_MOST_FILES = 10_000
_DEEPEST = 8


@dataclass(frozen=True)
class SideFiles:
    """What was copied, and what was not.

    Attributes:
        copied: Names, sorted. A folder that is copied whole is named once.
        left: Names of what stayed behind, sorted; without what is about the folder alone.
    """

    copied: tuple[str, ...]
    left: tuple[str, ...]

    @property
    def notes(self) -> list[str]:
        """A line about what stayed behind, if anything did."""
        if not self.left:
            return []
        shown = ", ".join(self.left[:12])
        more = f" and {len(self.left) - 12} more" if len(self.left) > 12 else ""
        return [f"left behind, of the uncut model or of no use to load it: {shown}{more}"]


def copy_side_files(
    folder: Path, stage: Path, config: Mapping[str, Any], cut: Collection[str] = ()
) -> SideFiles:
    """Copy what a cut checkpoint takes along beside its config and weights.

    Args:
        folder: The original's folder.
        stage: The new folder. What is there already was written for it and stays.
        config: The config; custom code is copied only where it, or that of the tokenizer or a
            processor, asks for some by `auto_map`.
        cut: Names of the files that were cut, which are no loss where they stay.

    Raises:
        CheckpointError: If something that is wanted is a pipe, a device, or a link that is broken
            or leads out of the folder.
    """
    code, steps = asks_for_code(folder, config), _steps(folder)
    copied, left = [], []
    for entry in sorted(folder.iterdir()):
        done = entry.name in cut or (stage / entry.name).exists()
        if done or _matches(entry.name, _OURS) or _is_output(entry):
            continue
        if not is_wanted(entry.name, code=code):
            left.append(entry.name)
            continue
        if entry.is_dir() and not entry.is_symlink():
            inner = _copy_folder(
                entry, stage / entry.name, folder, code=code, weights=entry.name in steps
            )
            left += inner
            if (stage / entry.name).exists():
                copied.append(entry.name)
            continue
        _copy(entry, stage / entry.name, folder)
        copied.append(entry.name)
    return SideFiles(tuple(copied), tuple(sorted(left)))


def check_side_files(folder: Path) -> None:
    """Refuse, before anything is read, a folder whose files could not be copied.

    A tokenizer is read by transformers, which would follow any link and wait for any pipe.

    Args:
        folder: A checkpoint's folder.

    Raises:
        CheckpointError: As `copy_side_files`.
    """
    steps = _steps(folder)
    for entry in _walk(folder, 0, [0], steps):
        check_name_is_text(entry)
        if entry.is_symlink() or not stat.S_ISDIR(entry.lstat().st_mode):
            check_inside(entry, folder)
            if not entry.is_file():
                open_file(entry, within=folder).close()


def _walk(
    folder: Path, depth: int, seen: list[int], steps: Collection[str], *, weights: bool = False
) -> Iterator[Path]:
    for entry in sorted(folder.iterdir()):
        seen[0] += 1
        if seen[0] > _MOST_FILES or depth > _DEEPEST:
            raise CheckpointError(
                f"{shown_path(folder)}: expected a checkpoint's folder, found over {_MOST_FILES:,} "
                f"files or {_DEEPEST} folders within each other; name the model's own folder"
            )
        if _matches(entry.name, _OURS) or _is_output(entry):
            continue
        if not is_wanted(entry.name, code=True, weights=weights):
            continue
        yield entry
        if entry.is_dir() and not entry.is_symlink():
            own = weights or entry.name in steps
            yield from _walk(entry, depth + 1, seen, (), weights=own)


def asks_for_code(folder: Path, config: Mapping[str, Any]) -> bool:
    """Whether a config in a folder names Python code of the model's own.

    Args:
        folder: The folder.
        config: Its `config.json`.
    """
    if config.get("auto_map"):
        return True
    small = (path for path in folder.glob("*config*.json") if path.stat().st_size < 1 << 20)
    return any(b'"auto_map"' in read_bytes(path, within=folder) for path in small)


def is_wanted(name: str, *, code: bool = True, weights: bool = False) -> bool:
    """Whether a file or a folder beside the config is one that a cut copy takes along.

    Args:
        name: Its name.
        code: Whether Python code is.
        weights: Whether weights are that are not those of the cut model.
    """
    never = (*_OF_TRAINING, *_UNFINISHED, *(() if code else _CODE))
    return not _matches(name, never if weights else (*_OTHER_WEIGHTS, *never))


def _is_output(entry: Path) -> bool:
    """Whether it is a checkpoint that was cut before, into a folder within its original's."""
    return (entry / MANIFEST_NAME).is_file()


def _steps(folder: Path) -> frozenset[str]:
    """The folders of what sentence-transformers does after the model."""
    if not (folder / _MODULES).is_file():
        return frozenset()
    try:
        listed = read_untrusted(folder / _MODULES, within=folder)
    except CheckpointError:
        return frozenset()
    steps = [step for step in listed if isinstance(step, dict)] if isinstance(listed, list) else []
    return frozenset(str(step.get("path")).partition("/")[0] for step in steps)


def _copy_folder(folder: Path, target: Path, root: Path, *, code: bool, weights: bool) -> list[str]:
    """Copy contents alone: a read-only original must not make a read-only copy.

    Returns:
        What stayed behind, by its path within the root.
    """
    left = []
    for entry in sorted(folder.iterdir()):
        if _matches(entry.name, _OURS) or _is_output(entry):
            continue
        if not is_wanted(entry.name, code=code, weights=weights):
            left.append(str(entry.relative_to(root)))
        elif entry.is_dir() and not entry.is_symlink():
            left += _copy_folder(entry, target / entry.name, root, code=code, weights=weights)
        else:
            _copy(entry, target / entry.name, root)
    return left


def _copy(entry: Path, target: Path, root: Path) -> None:
    with open_file(entry, within=root) as source:
        target.parent.mkdir(parents=True, exist_ok=True)
        left = os.fstat(source.fileno()).st_size
        with open(target, "xb") as written:
            # No more than it held when it was opened: a file may grow faster than it is copied.
            while left > 0 and (part := source.read(min(left, 1 << 22))):
                written.write(part)
                left -= len(part)


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatchcase(name.lower(), pattern) for pattern in patterns)


NAME = "generation_config.json"

HEADS = "alignment_heads"
"""Pairs of a block and one of its heads."""

EXIT = "assistant_early_exit"
"""How many blocks draft."""

FIELDS = (HEADS, EXIT)


def cut_settings(settings: dict[str, Any], kept: Sequence[int], blocks: int) -> dict[str, Any]:
    """Generation settings of the model without the removed blocks.

    Args:
        settings: A whole `generation_config.json`; it is not changed.
        kept: Original numbers of the kept blocks, in order.
        blocks: How many blocks there were.

    Returns:
        The new settings, without a field of which nothing is left.

    Raises:
        CheckpointError: If a field names blocks that there are not.
    """
    new = dict(settings)
    if settings.get(HEADS) is not None:
        new[HEADS] = _heads(settings[HEADS], kept, blocks)
    if settings.get(EXIT) is not None:
        new[EXIT] = sum(block < _exit(settings[EXIT], blocks) for block in kept)
    return {k: v for k, v in new.items() if k not in FIELDS or v or settings[k] is None}


def _heads(pairs: Any, kept: Sequence[int], blocks: int) -> list[list[int]]:
    fits = isinstance(pairs, list) and all(
        isinstance(pair, list)
        and len(pair) == 2
        and all(isinstance(number, int) for number in pair)
        and 0 <= pair[0] < blocks
        for pair in pairs
    )
    if not fits:
        raise _wrong(HEADS, pairs, f"pairs of a block from 0 to {blocks - 1} and a head")
    place = {block: number for number, block in enumerate(kept)}
    return [[place[block], head] for block, head in pairs if block in place]


def _exit(value: Any, blocks: int) -> int:
    if not isinstance(value, int) or not 0 < value <= blocks:
        raise _wrong(EXIT, value, f"a number of blocks from 1 to {blocks}")
    return value


def _wrong(name: str, value: object, expected: str) -> CheckpointError:
    return CheckpointError(f"{NAME}: {name} is {shown(value, 80)}, expected {expected}; correct it")
