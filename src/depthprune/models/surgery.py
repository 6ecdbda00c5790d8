"""Cutting a checkpoint: the same files with fewer blocks, written by copying bytes.

Shards are rewritten one by one from ranges of the old ones, with the remaining blocks renumbered;
a tensor that recovery has changed is written from the bytes it gives; the config is rewritten by
`config_surgery`; what makes the folder usable (tokenizer, chat template, generation settings,
licence) is copied. Nothing here loads a tensor, and nothing here or below imports torch: a cut
costs what copying the kept bytes costs, and a few megabytes of memory.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from depthprune.errors import CheckpointError, ModelError
from depthprune.models.byte_copy import write_file
from depthprune.models.checkpoint import INDEX, WEIGHTS, Checkpoint, split_name
from depthprune.models.config_fields import PREDICTION_COUNTS
from depthprune.models.config_sections import text_section
from depthprune.models.config_surgery import cut_config
from depthprune.models.module_names import rename_modules
from depthprune.models.removal import check_removed
from depthprune.models.safetensors_file import Piece, SafetensorsFile
from depthprune.models.side_files import copy_side_files
from depthprune.outputs import check_space
from depthprune.progress import SILENT, Progress

_FLOATS = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
}

_NAMING_MODULES = ("quantization_config", "compression_config")
"""Fields of a config that may list modules by name."""

_ROOM = 64 << 20
"""Bytes wanted beyond the weights, for the tokenizer and what else is copied."""


@dataclass(frozen=True)
class Surgery:
    """What was cut and written.

    Attributes:
        removed: Original numbers of the removed blocks.
        kept: Original numbers of the kept blocks, in their new order.
        files: Names of everything written, as found in the folder.
        bytes_before: Bytes of the old weight files.
        bytes_after: Bytes of the new ones.
        parameters_before: Elements of the old tensors.
        parameters_after: Elements of the new ones.
        dtype: The dtype that most floating elements have, such as `"bfloat16"`.
        warnings: One line each.
    """

    removed: tuple[int, ...]
    kept: tuple[int, ...]
    files: tuple[str, ...]
    bytes_before: int
    bytes_after: int
    parameters_before: int
    parameters_after: int
    dtype: str
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class _Plan:
    """What each new file holds; `dropped_extra` counts the layers beyond the blocks."""

    shards: tuple[tuple[SafetensorsFile, tuple[Piece, ...]], ...]
    dropped_extra: int

    @property
    def pieces(self) -> Iterator[Piece]:
        return (piece for _, pieces in self.shards for piece in pieces)

    @property
    def bytes(self) -> int:
        return sum(piece.tensor.nbytes for piece in self.pieces)

    @property
    def parameters(self) -> int:
        return sum(piece.tensor.elements for piece in self.pieces)


def write_pruned(
    checkpoint: Checkpoint,
    removed: Sequence[int],
    stage: Path,
    *,
    block_prefix: str | None = None,
    replace: Mapping[str, bytes] | None = None,
    progress: Progress = SILENT,
) -> Surgery:
    """Write a checkpoint without some of its blocks.

    Args:
        checkpoint: The original.
        removed: Original block numbers.
        stage: An existing folder that the files are written into.
        block_prefix: What the names of the blocks' tensors begin with; found by itself when None.
        replace: New bytes of some tensors, by their names in the original, in the file's dtype.
        progress: Shows the bytes copied.

    Returns:
        What was written.

    Raises:
        CheckpointError: If the checkpoint is damaged, or has pickled weights only, or a
            replacement does not fit.
        ModelError: If the blocks cannot be told, or what remains cannot be expressed.
        OutputError: If the disk has too little room.
        UsageError: If the removed set does not fit the model.
    """
    gone = check_removed(removed, checkpoint.blocks)
    if not checkpoint.shards:
        raise CheckpointError(
            f"{checkpoint.folder}: surgery copies safetensors and the weights are pickled; save "
            "them as safetensors first"
        )
    prefix = checkpoint.block_prefix if block_prefix is None else block_prefix
    kept = tuple(block for block in range(checkpoint.blocks) if block not in gone)
    plan = _plan(checkpoint, prefix, kept, _fitting(checkpoint, replace or {}))
    config, warnings = _config(checkpoint, prefix, gone, kept, plan)
    check_space(stage, plan.bytes + _ROOM)
    files = _write_shards(checkpoint, plan, stage, progress)
    bytes_after = sum((stage / name).stat().st_size for name in files if name != INDEX)
    _write_json(stage / "config.json", config)
    files = [*files, "config.json", *copy_side_files(checkpoint.folder, stage, config)]
    return Surgery(
        removed=gone,
        kept=kept,
        files=tuple(files),
        bytes_before=checkpoint.bytes,
        bytes_after=bytes_after,
        parameters_before=checkpoint.parameters,
        parameters_after=plan.parameters,
        dtype=_dtype(plan),
        warnings=warnings,
    )


def _fitting(checkpoint: Checkpoint, replace: Mapping[str, bytes]) -> Mapping[str, bytes]:
    for name, data in replace.items():
        tensor = checkpoint.tensors.get(name)
        if tensor is None or tensor.nbytes != len(data):
            found = "no such tensor" if tensor is None else f"one of {tensor.nbytes:,} bytes"
            raise CheckpointError(
                f"{checkpoint.folder}: expected a tensor {name} of {len(data):,} bytes to replace, "
                f"found {found}"
            )
    return replace


def _plan(
    checkpoint: Checkpoint, prefix: str, kept: tuple[int, ...], replace: Mapping[str, bytes]
) -> _Plan:
    new_number = {block: new for new, block in enumerate(kept)}
    extra: set[int] = set()
    seen: set[int] = set()
    shards = []
    for shard in checkpoint.shards:
        pieces = []
        for tensor in shard.tensors:
            name: str | None = tensor.name
            parts = split_name(tensor.name)
            if parts is not None and parts[0] == prefix:
                _, number, rest = parts
                seen.add(number)
                name = f"{prefix}{new_number[number]}{rest}" if number in new_number else None
                if number >= checkpoint.blocks:
                    extra.add(number)
            if name is not None:
                pieces.append(Piece(name, shard.path, tensor, replace.get(tensor.name)))
        if pieces:
            shards.append((shard, tuple(pieces)))
    missing = set(range(checkpoint.blocks)) - seen
    if missing:
        raise ModelError(
            f"{checkpoint.folder}: expected {checkpoint.blocks} blocks named {prefix}*, block "
            f"{min(missing)} has no tensor; check the number of blocks in config.json"
        )
    return _Plan(tuple(shards), len(extra))


def _config(
    checkpoint: Checkpoint,
    prefix: str,
    gone: tuple[int, ...],
    kept: tuple[int, ...],
    plan: _Plan,
) -> tuple[dict[str, Any], tuple[str, ...]]:
    cut = cut_config(checkpoint.config, gone)
    warnings = list(cut.notes)
    config = cut.config
    if plan.dropped_extra:
        # They predict from the last block's output, and transformers knows them only by the
        # original depth, so that under new numbers they would be stray tensors.
        section = text_section(config)
        for name in PREDICTION_COUNTS:
            if section.get(name):
                section[name] = 0
        warnings.append(
            f"{plan.dropped_extra} multi-token-prediction layer(s) beyond the last block were "
            "left out; they were trained for the whole model"
        )
    # The text section is the config itself unless it is nested.
    for part in {id(part): part for part in (config, text_section(config))}.values():
        for name in _NAMING_MODULES:
            if part.get(name):
                part[name] = rename_modules(part[name], prefix, kept, name)
    return config, tuple(warnings)


def _write_shards(
    checkpoint: Checkpoint, plan: _Plan, stage: Path, progress: Progress
) -> list[str]:
    total = len(plan.shards)
    names = (
        [WEIGHTS]
        if total == 1
        else [f"model-{i:05d}-of-{total:05d}.safetensors" for i in range(1, total + 1)]
    )
    with progress.step("copying weights", plan.bytes, "B") as step:
        for name, (shard, pieces) in zip(names, plan.shards, strict=True):
            write_file(stage / name, pieces, shard.metadata, step.advance)
    if total == 1:
        return names
    metadata = dict(checkpoint.index_metadata) | {"total_size": plan.bytes}
    if "total_parameters" in metadata:
        metadata["total_parameters"] = plan.parameters
    weight_map = {
        piece.name: name
        for name, (_, pieces) in zip(names, plan.shards, strict=True)
        for piece in pieces
    }
    _write_json(
        stage / INDEX, {"metadata": metadata, "weight_map": dict(sorted(weight_map.items()))}
    )
    return [*names, INDEX]


def _write_json(path: Path, document: object) -> None:
    text = json.dumps(document, indent=2, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")


def _dtype(plan: _Plan) -> str:
    elements: Counter[str] = Counter()
    for piece in plan.pieces:
        if piece.tensor.dtype in _FLOATS:
            elements[piece.tensor.dtype] += piece.tensor.elements
    if not elements:
        largest = max(plan.pieces, key=lambda piece: math.prod(piece.tensor.shape))
        return largest.tensor.dtype.lower()
    return _FLOATS[elements.most_common(1)[0][0]]
