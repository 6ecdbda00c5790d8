"""Cutting a PEFT adapter along with its base: the same tensors, under the base's new numbers.

An adapter folder holds a config and one file of tensors, which are named like the base's modules.
It does not say how deep its base is; where the base is a folder on this machine its config says,
else the last block that the adapter touches stands for the last one. PEFT reads an empty
`layers_to_transform` as "all", so an adapter of which nothing would be left is refused.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from depthprune.checkpoints.byte_copy import write_file
from depthprune.checkpoints.checkpoint import (
    INDEX,
    OTHER_TOWERS,
    numbers_by_prefix,
    read_object,
    split_name,
)
from depthprune.checkpoints.checkpoint import WEIGHTS as MODEL
from depthprune.checkpoints.config.module_names import ModuleNames
from depthprune.checkpoints.config.sections import count_blocks
from depthprune.checkpoints.safetensors import (
    Piece,
    SafetensorsFile,
    read_header,
)
from depthprune.checkpoints.shard_files import require_read_back
from depthprune.checkpoints.side_files import check_side_files, copy_side_files
from depthprune.checkpoints.surgery import Surgery, common_dtype
from depthprune.errors import CheckpointError, ModelError
from depthprune.outputs import check_space
from depthprune.progress import SILENT, Progress
from depthprune.removed_sets import check_removed, name_blocks
from depthprune.untrusted import shown

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"

_OUTER = "base_model.model."
_METHODS = (
    "boft bone c3a delora fourierft gralora hada hra ia3 lokr lora miss oft osf randlora road "
    "shira svd vblora vera waveft"
)
_PART = re.compile(rf"\.(?:{'|'.join(_METHODS.split())})_\w+(?=\.|$)")
"""Where a tensor's name leaves its module's: `.lora_A.weight`, `.ia3_l`, `.vera_lambda_b`."""

_DEEPEST = 10_000
"""Blocks, of a base whose depth is not known."""

_NAMING = (
    "target_modules",
    "exclude_modules",
    "modules_to_save",
    "target_parameters",
    "feedforward_modules",
    "rank_pattern",
    "alpha_pattern",
)
"""Fields whose patterns are tried on the base's modules; any other that names a block by number is
renumbered too."""

_NOT_NAMING = ("base_model_name_or_path", "revision", "task_type", "peft_type", "auto_mapping")
_ANYWHERE = r"(.*\.)?({})$"
"""How PEFT matches a pattern with a module's name."""


@dataclass(frozen=True)
class Adapter:
    """An adapter folder, its tensors' header checked.

    Attributes:
        folder: The folder.
        config: The whole of `adapter_config.json`.
        file: The tensors.
        prefix: What the names of the blocks' tensors begin with.
        blocks: How many blocks the base has, as far as is known.
        exact: Whether the base's own config says so.
    """

    folder: Path
    config: dict[str, Any]
    file: SafetensorsFile
    prefix: str
    blocks: int
    exact: bool

    @property
    def kind(self) -> str:
        """PEFT's name of the method in lower case, such as `"lora"`."""
        found = self.config.get("peft_type")
        return found.lower() if isinstance(found, str) and found.isidentifier() else "adapter"


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter and no model; trainers put the base's config beside it."""
    if not (folder / "config.json").exists():
        return (folder / CONFIG).is_file()
    model = any(os.path.lexists(folder / name) for name in (MODEL, INDEX))
    return (folder / CONFIG).is_file() and (folder / WEIGHTS).is_file() and not model


def open_adapter(folder: Path) -> Adapter:
    """Open and check an adapter folder.

    Args:
        folder: A folder with `adapter_config.json` and `adapter_model.safetensors`.

    Raises:
        CheckpointError: If a file is missing, damaged, or pickled.
        ModelError: If its blocks cannot be told, or it cannot be cut.
    """
    config = read_object(folder / CONFIG, "an adapter's config")
    check_side_files(folder)
    if not (folder / WEIGHTS).exists():
        if (folder / "adapter_model.bin").exists():
            raise CheckpointError(
                f"{folder}: the adapter is pickled (adapter_model.bin), and unpickling runs "
                "whatever code the file holds; save it as safetensors first"
            )
        raise CheckpointError(f"{folder}: no weights; expected {WEIGHTS}")
    if config.get("layer_replication"):
        raise ModelError(
            f"{folder}: {CONFIG} has layer_replication, so its numbers are not the base's; such "
            "an adapter cannot be depth-pruned"
        )
    if config.get("peft_type") in ("PREFIX_TUNING", "P_TUNING", "ADAPTION_PROMPT"):
        raise ModelError(
            f"{folder}: a {config['peft_type']} adapter keeps all blocks in one tensor and cannot "
            "be depth-pruned"
        )
    file = read_header(folder / WEIGHTS, within=folder)
    prefix, touched = _find_prefix(folder, [tensor.name for tensor in file.tensors])
    named = config.get("base_model_name_or_path")
    base = _base_blocks(named)
    if base is None and (folder / "config.json").exists():
        named = "config.json"
        base = count_blocks(read_object(folder / named, "the base's config"))
    if base is not None and touched >= base:
        raise CheckpointError(
            f"{folder}: has tensors of block {touched}, and its base {named} has {base} blocks; "
            f"correct {CONFIG}"
        )
    return Adapter(folder, config, file, prefix, base or touched + 1, base is not None)


def _find_prefix(folder: Path, names: Iterable[str]) -> tuple[str, int]:
    """The prefix of the blocks' tensors and the last block among them."""
    numbers = numbers_by_prefix(names)
    ours = [prefix for prefix in numbers if not OTHER_TOWERS.search(prefix)] or list(numbers)
    if len(ours) != 1:
        found = ", ".join(sorted(numbers)) or "none"
        raise ModelError(
            f"{folder}: expected one numbered list of blocks among the adapter's tensors, found "
            f"{found}; such an adapter cannot be depth-pruned"
        )
    return ours[0], max(numbers[ours[0]])


def _base_blocks(name: object) -> int | None:
    """The number of blocks of the base, if it is a folder here."""
    if not isinstance(name, str) or not os.path.isfile(Path(name) / "config.json"):
        return None
    return count_blocks(read_object(Path(name) / "config.json", "the base's config"))


def write_adapter(
    adapter: Adapter, removed: Iterable[int], stage: Path, *, progress: Progress = SILENT
) -> Surgery:
    """Write an adapter for a base without some of its blocks.

    Args:
        adapter: The original.
        removed: Original block numbers of the base.
        stage: An existing folder that the files are written into.
        progress: Shows the bytes copied.

    Returns:
        What was written.

    Raises:
        ModelError: If nothing of the adapter would be left.
        OutputError: If the disk has too little room.
        UsageError: If the removed set does not fit the base.
    """
    # A base whose depth is not known may well have more blocks than the adapter touches.
    gone = check_removed(removed, adapter.blocks if adapter.exact else _DEEPEST)
    depth = max(adapter.blocks, gone[-1] + 1)
    kept = tuple(block for block in range(depth) if block not in gone)
    pieces = _pieces(adapter, kept)
    config, warnings = _config(adapter, gone, kept)
    nbytes = sum(piece.tensor.nbytes for piece in pieces)
    check_space(stage, nbytes + (64 << 20))
    with progress.step("copying weights", nbytes, "B") as step:
        size = write_file(stage / WEIGHTS, pieces, adapter.file.metadata, step.advance)
    require_read_back(stage / WEIGHTS, pieces, adapter.file.path)
    text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
    (stage / CONFIG).write_text(text, encoding="utf-8", errors="backslashreplace")
    # What is there of the base speaks of all its blocks.
    beside = copy_side_files(adapter.folder, stage, {}, {adapter.file.path.name, "config.json"})
    return Surgery(
        removed=gone,
        kept=kept,
        files=(WEIGHTS, CONFIG, *beside.copied),
        bytes_before=adapter.file.size,
        bytes_after=size,
        parameters_before=sum(tensor.elements for tensor in adapter.file.tensors),
        parameters_after=sum(piece.tensor.elements for piece in pieces),
        dtype=common_dtype(pieces),
        warnings=(*warnings, *beside.notes),
    )


def _pieces(adapter: Adapter, kept: tuple[int, ...]) -> list[Piece]:
    new_number = {block: new for new, block in enumerate(kept)}
    pieces, blocks_left = [], False
    for tensor in adapter.file.tensors:
        name = tensor.name
        parts = split_name(name)
        if parts is not None and parts[0] == adapter.prefix:
            if not name.startswith(f"{parts[0]}{parts[1]}."):
                raise CheckpointError(
                    f"{adapter.folder}: {name} writes the block's number {parts[1]} otherwise; "
                    "rename the tensor"
                )
            if parts[1] not in new_number:
                continue
            blocks_left = True
            name = f"{parts[0]}{new_number[parts[1]]}{parts[2]}"
        pieces.append(Piece(name, adapter.file.path, tensor))
    if not blocks_left:
        raise ModelError(
            f"{adapter.folder}: every block that the adapter touches would go, and nothing of it "
            "would be left; use the pruned base without it"
        )
    return pieces


def _config(
    adapter: Adapter, gone: tuple[int, ...], kept: tuple[int, ...]
) -> tuple[dict[str, Any], list[str]]:
    prefix = adapter.prefix.removeprefix(_OUTER)
    names = ModuleNames(
        _base_modules(adapter, prefix, len(gone) + len(kept)), prefix, kept, pattern=_ANYWHERE
    )
    config = dict(adapter.config)
    for field, value in adapter.config.items():
        if field in _NOT_NAMING or not (field in _NAMING or names.speaks_in(value)):
            continue
        if isinstance(value, str):
            # PEFT takes a pattern here, or the names that it stands for.
            written = names.rename([value], field)
            config[field] = value if written == [value] else written
        elif isinstance(value, (list, dict)):
            config[field] = names.rename(value, field)
    config |= _layers(adapter, gone, kept)
    warnings = [line for line in names.warnings if not line.startswith("exclude_modules")]
    if not adapter.exact:
        warnings.append(
            f"the adapter does not say how many blocks its base has; its last is taken to be "
            f"{adapter.blocks - 1}"
        )
    warnings.append(
        f"base_model_name_or_path still names {config.get('base_model_name_or_path')}; load the "
        f"adapter on that model without {name_blocks(gone)}"
    )
    return config, warnings


def _base_modules(adapter: Adapter, prefix: str, blocks: int) -> list[str]:
    """Tensors that the base may have: what the adapter touches in one block, in every block.

    A pattern that left a block alone must not reach it under its new number.
    """
    modules = dict.fromkeys(_module(tensor.name) for tensor in adapter.file.tensors)
    parts = [split_name(module) for module in modules]
    rests = dict.fromkeys(part[2] for part in parts if part is not None and part[0] == prefix)
    inside = [f"{prefix}{block}{rest}" for block in range(blocks) for rest in rests]
    return [f"{module}.weight" for module in dict.fromkeys([*inside, *modules])]


def _layers(adapter: Adapter, gone: tuple[int, ...], kept: tuple[int, ...]) -> Mapping[str, Any]:
    value = adapter.config.get("layers_to_transform")
    if value is None or value == []:
        return {}
    new_number = {block: new for new, block in enumerate(kept)}
    listed = value if isinstance(value, list) else [value]
    if not all(isinstance(block, int) and block >= 0 for block in listed):
        raise CheckpointError(
            f"{adapter.folder}: layers_to_transform is {shown(value)}, expected block "
            f"numbers; correct {CONFIG}"
        )
    # Beyond the last block that is known, blocks move down by as many as went.
    moved = [new_number.get(b, b - len(gone)) for b in listed if b not in gone]
    if not moved:
        raise ModelError(
            f"{adapter.folder}: every block of layers_to_transform would go; use the pruned base "
            "without the adapter"
        )
    return {"layers_to_transform": moved if isinstance(value, list) else moved[0]}


def _module(tensor: str) -> str:
    """The base's name of the module that a tensor belongs to."""
    name = tensor.removeprefix(_OUTER)
    found = _PART.search(name)
    return name[: found.start()] if found else name.rpartition(".")[0]
