"""A local checkpoint folder, opened by its config and its headers, and checked completely.

Everything that can be wrong with a folder is found here, before any weight is read and before any
output is begun: weights that are pickled, missing, truncated, damaged, or named by an index that
points elsewhere. Files may be symbolic links, as they are in a hub's cache, but names that an
index gives must stay inside the folder, for an index comes from whoever made the checkpoint.
"""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from depthprune.checkpoints.architectures.table import find
from depthprune.checkpoints.config.fields import LISTED_COUNTS
from depthprune.checkpoints.config.sections import (
    count_blocks,
    counts,
    text_section,
)
from depthprune.checkpoints.safetensors import (
    SafetensorsFile,
    Tensor,
    read_header,
)
from depthprune.checkpoints.side_files import check_side_files
from depthprune.errors import CheckpointError, ModelError
from depthprune.untrusted import read_untrusted

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"

_PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
_FIRST_NUMBER = re.compile(r"(.*?\.)??([0-9]{1,9})(?=\.|$)")
OTHER_TOWERS = re.compile(
    r"vision|visual|image|audio|speech|video|encoder|mtp|vae|vq|talker|perceiver|resampler"
)
_LANGUAGE = re.compile(r"language|text|decoder|llm")


@dataclass(frozen=True)
class Checkpoint:
    """A folder with a config and safetensors weights.

    Attributes:
        folder: The folder.
        config: The whole of `config.json`.
        shards: The weight files' headers, in the order of their names. Empty only for a folder
            of pickled weights that was opened with `allow_pickle`.
        index_metadata: The `metadata` of the index; empty where there is no index.
    """

    folder: Path
    config: dict[str, Any]
    shards: tuple[SafetensorsFile, ...]
    index_metadata: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def tensors(self) -> Mapping[str, Tensor]:
        """Every tensor by name."""
        return {tensor.name: tensor for shard in self.shards for tensor in shard.tensors}

    @property
    def bytes(self) -> int:
        """Bytes of the weight files."""
        return sum(shard.size for shard in self.shards)

    @property
    def parameters(self) -> int:
        """Elements of all tensors as stored, however many weights a format packs into one."""
        return sum(tensor.elements for tensor in self.tensors.values())

    @property
    def text_config(self) -> dict[str, Any]:
        """The language model's own section of the config."""
        return text_section(self.config)

    @property
    def model_type(self) -> str:
        """The config's `model_type`, or an empty string where it has none."""
        found = self.config.get("model_type")
        return found if isinstance(found, str) else ""

    @cached_property
    def blocks(self) -> int:
        """The number of blocks, from the config.

        Raises:
            CheckpointError: If the config states none, or several that disagree.
        """
        return count_blocks(self.config)

    @cached_property
    def block_prefix(self) -> str:
        """What the names of the blocks' tensors begin with, such as `"model.layers."`.

        Raises:
            ModelError: If no list of tensors, or more than one, fits the number of blocks.
        """
        return find_block_prefix(self.tensors, self.blocks)


def open_checkpoint(folder: Path, *, allow_pickle: bool = False) -> Checkpoint:
    """Open and check a local checkpoint folder.

    Args:
        folder: A folder with `config.json` and safetensors weights.
        allow_pickle: Accept a folder whose weights are pickled only. It has no shards then, and
            surgery refuses it; loading may still use its config.

    Returns:
        The checkpoint, every shard's header checked.

    Raises:
        CheckpointError: If the folder, its config, its index or a shard is missing, damaged or
            refused.
    """
    if not folder.is_dir():
        found = (
            "a file; give the folder that holds it"
            if folder.exists()
            else "nothing; check the path (hub ids and 'demo' name no folder)"
        )
        raise CheckpointError(f"{folder}: expected a checkpoint folder, found {found}")
    config = read_object(folder / "config.json", "a checkpoint's config")
    check_side_files(folder)
    for name in (WEIGHTS, INDEX):
        if (folder / name).is_symlink() and not (folder / name).exists():
            raise CheckpointError(f"{folder / name}: a link to a missing file; download it again")
    if (folder / WEIGHTS).exists():
        return _counted(Checkpoint(folder, config, (read_header(folder / WEIGHTS, within=folder),)))
    if (folder / INDEX).exists():
        return _counted(_open_sharded(folder, config))
    pickled = sorted(path.name for pattern in _PICKLED for path in folder.glob(pattern))
    if pickled and allow_pickle:
        return Checkpoint(folder, config, ())
    if pickled:
        raise CheckpointError(
            f"{folder}: the weights are pickled only ({pickled[0]}), and unpickling runs whatever "
            "code the file holds; save them as safetensors first"
        )
    others = sorted(path.name for path in folder.glob("*.safetensors"))
    hint = f"; {others[0]} is not a name that transformers loads" if others else ""
    raise CheckpointError(f"{folder}: no weights; expected {WEIGHTS} or {INDEX}{hint}")


def read_object(path: Path, what: str) -> dict[str, Any]:
    """Read a JSON object.

    Args:
        path: A file.
        what: What it is, for the message where it is missing.

    Raises:
        CheckpointError: If it is missing, cannot be read, or is no JSON object.
    """
    if not os.path.lexists(path):
        raise CheckpointError(
            f"{path.parent}: no {path.name}; expected {what}, is this the right folder?"
        )
    found = read_untrusted(path, within=path.parent)
    if not isinstance(found, dict):
        raise CheckpointError(
            f"{path}: expected a JSON object, found {type(found).__name__}; download it again"
        )
    return found


def _open_sharded(folder: Path, config: dict[str, Any]) -> Checkpoint:
    path = folder / INDEX
    index = read_object(path, "an index")
    weight_map = index.get("weight_map")
    if (
        not isinstance(weight_map, dict)
        or not weight_map
        or not all(isinstance(file, str) for file in weight_map.values())
    ):
        raise CheckpointError(f"{path}: weight_map must map tensors to files; download it again")
    names = sorted(set(weight_map.values()))
    for name in names:
        _check_inside(path, name)
        if not (folder / name).is_file():
            raise CheckpointError(f"{folder}: the shard {name} is missing; download it")
    shards = tuple(read_header(folder / name, within=folder) for name in names)
    _check_index(path, weight_map, dict(zip(names, shards, strict=True)))
    metadata = index.get("metadata")
    return Checkpoint(folder, config, shards, metadata if isinstance(metadata, dict) else {})


def _counted(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint with its number of blocks in its config, where a section leaves it out.

    Models of several modalities often give only those fields of their language model that differ
    from its type's defaults (LLaVA 1.5 states no depth). Then the tensors tell.
    """
    section = text_section(checkpoint.config)
    row = find(str(section.get("model_type")))
    nested = section is not checkpoint.config
    if not nested or row is None or counts(section) or any(map(section.get, LISTED_COUNTS)):
        return checkpoint
    lists = numbers_by_prefix(checkpoint.tensors).items()
    ours = [numbers for prefix, numbers in lists if not OTHER_TOWERS.search(prefix)]
    if len(ours) != 1:
        return checkpoint
    (found,) = ours
    if found != set(range(len(found))):
        return checkpoint
    config = copy.deepcopy(checkpoint.config)
    text_section(config)[row.count] = len(found)
    return replace(checkpoint, config=config)


def _check_inside(index: Path, name: str) -> None:
    windows = PureWindowsPath(name)
    outside = PurePosixPath(name).is_absolute() or windows.drive or windows.root
    odd = any(not each.isprintable() or len(each.encode()) > 255 for each in windows.parts)
    if outside or ".." in windows.parts or not windows.parts or odd:
        raise CheckpointError(
            f"{index}: names the shard {name!r}, outside the folder; this checkpoint is not to "
            "be trusted"
        )


def _check_index(
    index: Path, weight_map: Mapping[str, str], shards: Mapping[str, SafetensorsFile]
) -> None:
    holder: dict[str, str] = {}
    for name, shard in shards.items():
        for tensor in shard.tensors:
            if tensor.name in holder:
                raise CheckpointError(
                    f"{index.parent}: {tensor.name} is in both {holder[tensor.name]} and {name}; "
                    "download the checkpoint again"
                )
            holder[tensor.name] = name
    # A tensor that has several names is stored under one; an index may have been made before.
    others = {
        other: name
        for name, shard in shards.items()
        for other, stored in shard.metadata.items()
        if holder.get(stored) == name
    }
    holder = others | holder
    for tensor_name, name in weight_map.items():
        if holder.get(tensor_name) != name:
            where = holder.get(tensor_name, "no shard")
            raise CheckpointError(
                f"{index}: expected {tensor_name} in {name}, found it in {where}; download the "
                "checkpoint again"
            )


def split_name(name: str) -> tuple[str, int, str] | None:
    """Split a tensor's name at its outermost number.

    Args:
        name: Such as `"model.layers.3.mlp.up_proj.weight"`.

    Returns:
        Prefix, number and rest (`("model.layers.", 3, ".mlp.up_proj.weight")`), or None where the
        name has no number.
    """
    match = _FIRST_NUMBER.match(name)
    return None if match is None else (match[1] or "", int(match[2]), name[match.end() :])


def numbers_by_prefix(names: Iterable[str]) -> dict[str, set[int]]:
    """The numbers that stand behind each prefix in some tensors' names."""
    numbers: dict[str, set[int]] = {}
    for prefix, number, _ in filter(None, map(split_name, names)):
        numbers.setdefault(prefix, set()).add(number)
    return numbers


def find_block_prefix(names: Iterable[str], blocks: int) -> str:
    """Find the list of blocks among tensor names.

    It is the outermost numbered list whose numbers are exactly those of the blocks, possibly
    followed by more (multi-token-prediction layers). Towers for images and sound may be numbered
    alike; the language model's list is preferred to theirs.

    Args:
        names: All tensor names of a checkpoint.
        blocks: How many blocks the config states.

    Returns:
        The prefix, such as `"model.layers."`.

    Raises:
        ModelError: If none fits, or several do and none is the language model's.
    """
    numbers = numbers_by_prefix(names)
    fitting = [
        prefix
        for prefix, found in numbers.items()
        if len(found) >= blocks and found.issuperset(range(blocks))
    ]
    for preferred in _preferences(fitting, numbers, blocks):
        if len(preferred) == 1:
            return preferred[0]
    if not fitting:
        found = ", ".join(f"{p}* ({len(n)})" for p, n in sorted(numbers.items())) or "none"
        raise ModelError(
            f"no list of {blocks} blocks among the tensors; numbered lists found: {found}; check "
            "the number of blocks in config.json"
        )
    raise ModelError(
        f"several lists of tensors fit {blocks} blocks ({', '.join(sorted(fitting))}), and which "
        "are the blocks cannot be told"
    )


def _preferences(
    fitting: list[str], numbers: Mapping[str, set[int]], blocks: int
) -> Iterator[list[str]]:
    yield fitting
    ours = [prefix for prefix in fitting if not OTHER_TOWERS.search(prefix)]
    yield ours
    exact = [prefix for prefix in ours if len(numbers[prefix]) == blocks]
    yield exact
    yield [prefix for prefix in exact or fitting if _LANGUAGE.search(prefix)]
