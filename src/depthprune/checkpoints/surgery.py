"""Cutting a checkpoint: the same files with fewer blocks, written by copying bytes.

Shards are rewritten one by one from ranges of the old ones, with the remaining blocks renumbered;
a tensor that recovery has changed is written from the bytes it gives; the config is rewritten by
`config.cut`; what makes the folder usable (tokenizer, chat template, generation settings,
licence) is copied. Nothing here loads a tensor, and nothing here or below imports torch: a cut
costs what copying the kept bytes costs, and a few megabytes of memory.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from depthprune.checkpoints import side_files
from depthprune.checkpoints.checkpoint import (
    INDEX,
    Checkpoint,
    read_object,
)
from depthprune.checkpoints.config.cut import cut_config
from depthprune.checkpoints.config.fields import PREDICTION_COUNTS
from depthprune.checkpoints.config.module_names import ModuleNames, naming_fields
from depthprune.checkpoints.config.sections import text_section
from depthprune.checkpoints.safetensors import Piece
from depthprune.checkpoints.shard_files import write_shards
from depthprune.checkpoints.shards import ShardPlan, plan_shards
from depthprune.checkpoints.side_files import copy_side_files
from depthprune.errors import CheckpointError
from depthprune.outputs import MANIFEST_NAME, check_space
from depthprune.progress import SILENT, Progress
from depthprune.removed_sets import check_removed
from depthprune.untrusted import LARGEST, parse_json, read_bytes, read_text

_FLOATS = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
}

_QUANTISATION_FILES = (
    "quantize_config.json",
    "quant_config.json",
    "hf_quant_config.json",
    "quantization_config.json",
)
"""Where GPTQ, AWQ, ModelOpt and AutoRound keep a quantisation config of their own."""

_READ_APART = ("config.json", INDEX, side_files.NAME, MANIFEST_NAME)

_TOKENIZERS = ("tokenizer", "vocab", "merges", "added_tokens", "special_tokens", "chat_template",
               "tekken")  # fmt: skip
"""How files begin that speak of tokens, any of which may look like a module's name."""

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


def write_pruned(
    checkpoint: Checkpoint,
    removed: Sequence[int],
    stage: Path,
    *,
    block_prefix: str | None = None,
    link: bool = False,
    replace: Mapping[str, bytes] | None = None,
    progress: Progress = SILENT,
) -> Surgery:
    """Write a checkpoint without some of its blocks.

    Args:
        checkpoint: The original.
        removed: Original block numbers.
        stage: An existing folder that the files are written into.
        block_prefix: What the names of the blocks' tensors begin with; found by itself when None.
        link: Share the weight files in which nothing changes with the original: as reflinks where
            the file system can, else as hard links.
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
    plan = plan_shards(checkpoint, prefix, kept, _fitting(checkpoint, replace or {}))
    nested = text_section(checkpoint.config) is not checkpoint.config
    modules = ModuleNames(checkpoint.tensors, prefix, kept, nested=nested)
    config, notes = _config(checkpoint, gone, plan, modules)
    shared = sum(shard.bytes for shard in plan.shards if link and shard.unchanged)
    check_space(stage, plan.bytes - shared + _ROOM)
    files, linked = write_shards(checkpoint, plan, stage, link=link, progress=progress)
    if linked:
        notes.append(
            f"{', '.join(linked)}: hard links to the original's files; a change of one would be a "
            "change of both"
        )
    bytes_after = sum((stage / name).stat().st_size for name in files if name != INDEX)
    _write_json(stage / "config.json", config)
    files += ["config.json", *_renumbered_files(checkpoint.folder, stage, modules)]
    beside = copy_side_files(
        checkpoint.folder, stage, config, {INDEX, *(s.path.name for s in checkpoint.shards)}
    )
    files += beside.copied
    notes += beside.notes
    if side_files.NAME in files:
        notes += _generation_settings(stage / side_files.NAME, kept, checkpoint.blocks)
    return Surgery(
        removed=gone,
        kept=kept,
        files=tuple(files),
        bytes_before=checkpoint.bytes,
        bytes_after=bytes_after,
        parameters_before=checkpoint.parameters,
        parameters_after=plan.parameters,
        dtype=common_dtype(plan.pieces),
        warnings=(*notes, *dict.fromkeys(modules.warnings)),
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


def _config(
    checkpoint: Checkpoint,
    gone: tuple[int, ...],
    plan: ShardPlan,
    modules: ModuleNames,
) -> tuple[dict[str, Any], list[str]]:
    cut = cut_config(checkpoint.config, gone)
    warnings = list(cut.notes)
    config = cut.config
    if plan.dropped_extra:
        # They predict from the last block's output, and transformers knows them only by the
        # original depth, so that under new numbers they would be stray tensors.
        section = text_section(config)
        stated = [name for name in PREDICTION_COUNTS if section.get(name)]
        section |= dict.fromkeys(stated, 0)
        warnings.append(
            f"{plan.dropped_extra} multi-token-prediction layer(s) beyond the last block were "
            "left out; they were trained for the whole model"
            if stated
            else f"{plan.dropped_extra} layer(s) beyond the {checkpoint.blocks} blocks that "
            "config.json states were left out; if they belong to the model, correct it"
        )
    section = text_section(config)
    # The text section is the config itself unless it is nested.
    for part in {id(part): part for part in (config, section)}.values():
        for name in naming_fields(part, modules):
            part[name] = modules.rename(part[name], name)
    return config, warnings


def _renumbered_files(folder: Path, stage: Path, modules: ModuleNames) -> list[str]:
    """Files beside `config.json` that name blocks by number, rewritten like the config.

    Quantisers keep configs, maps of bits and measurements there, under names of their own. What is
    no JSON under a name that nobody knows is none of theirs.
    """
    written = []
    for path in sorted(folder.glob("*.json")):
        name = path.name
        known = name in _QUANTISATION_FILES
        if name in _READ_APART or name.startswith(_TOKENIZERS) or not side_files.is_wanted(name):
            continue
        if not known and (not path.is_file() or path.stat().st_size > LARGEST):
            continue
        if not known and not modules.may_speak_in(raw := read_bytes(path, within=folder)):
            continue
        try:
            found = read_object(path, name) if known else parse_json(raw, name)
        except CheckpointError:
            if known:
                raise
            continue
        if known or modules.speaks_in(found):
            _write_json(stage / name, modules.rename(found, name))
            written.append(name)
    return written


def _generation_settings(file: Path, kept: Sequence[int], blocks: int) -> list[str]:
    """Rewrite copied generation settings where they name blocks; else they stay byte for byte."""
    text = read_text(file)
    if not any(f'"{name}"' in text for name in side_files.FIELDS):
        return []
    settings = read_object(file, "generation settings")
    cut = side_files.cut_settings(settings, kept, blocks)
    if cut != settings:
        _write_json(file, cut)
    gone = [name for name in settings if name not in cut]
    return [f"{file.name}: nothing of {name} is left, so it was left out" for name in gone]


def _write_json(path: Path, document: object) -> None:
    text = json.dumps(document, indent=2, ensure_ascii=False)
    # Half of a surrogate pair has no UTF-8; its backslash form is what JSON calls it.
    path.write_text(text + "\n", encoding="utf-8", errors="backslashreplace")


def common_dtype(pieces: Iterable[Piece]) -> str:
    """The dtype that most floating elements have, or the largest tensor's where none is floating.

    Args:
        pieces: The tensors of a checkpoint, at least one.
    """
    listed = list(pieces)
    elements: Counter[str] = Counter()
    for piece in listed:
        if piece.tensor.dtype in _FLOATS:
            elements[piece.tensor.dtype] += piece.tensor.elements
    if not elements:
        return max(listed, key=lambda piece: piece.tensor.elements).tensor.dtype.lower()
    return _FLOATS[elements.most_common(1)[0][0]]
