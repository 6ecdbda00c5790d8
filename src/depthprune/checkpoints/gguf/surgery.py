"""Cutting a GGUF: the same file with fewer blocks, every kept tensor's bytes as they were.

Blocks are renumbered in the names of tensors, arrays with an entry a block lose the removed ones'
entries, and nothing is quantised again. Multi-token-prediction layers after the last block go, as
in a cut of safetensors. What llama.cpp derives from a block's number or from the depth is checked
against its table: a cut that such a rule would misread is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from depthprune.checkpoints.byte_copy import copy_range, write_all
from depthprune.checkpoints.gguf.architectures import (
    NOT_PER_BLOCK,
    RECOUNTED,
    RECURRENT,
    SLICED,
)
from depthprune.checkpoints.gguf.file import (
    ARRAY,
    Field,
    GgufFile,
    GgufTensor,
    commonest_dtype,
)
from depthprune.checkpoints.gguf.reader import read_gguf
from depthprune.checkpoints.gguf.rules import check_rules
from depthprune.checkpoints.surgery import Surgery
from depthprune.errors import CheckpointError, ModelError
from depthprune.outputs import check_space
from depthprune.progress import SILENT, Progress
from depthprune.removed_sets import check_removed
from depthprune.untrusted import open_file

_BLOCK = re.compile(r"blk\.(\w+)(?=\.)")
_CANONICAL = re.compile(r"0|[1-9][0-9]{0,8}")


@dataclass(frozen=True)
class GgufCut:
    """What a new file will hold.

    Attributes:
        source: The original.
        removed: Original numbers of the removed blocks.
        kept: Original numbers of the kept blocks, in their new order.
        fields: The metadata.
        tensors: New name and old tensor, in the order of their bytes.
        warnings: One line each.
    """

    source: GgufFile
    removed: tuple[int, ...]
    kept: tuple[int, ...]
    fields: tuple[Field, ...]
    tensors: tuple[tuple[str, GgufTensor], ...]
    warnings: tuple[str, ...]

    @property
    def bytes(self) -> int:
        """Bytes of the kept tensors."""
        return sum(tensor.end - tensor.begin for _, tensor in self.tensors)


def cut_gguf(file: GgufFile, removed: Sequence[int]) -> GgufCut:
    """Plan a cut: names, metadata and ranges, with nothing written.

    Args:
        file: The original.
        removed: Original block numbers.

    Returns:
        What the new file will hold.

    Raises:
        CheckpointError: If a block has no tensor, or an array disagrees with the block count.
        ModelError: If llama.cpp would misread what remains.
        UsageError: If the removed set does not fit the model.
    """
    gone = check_removed(removed, file.blocks)
    kept = tuple(block for block in range(file.blocks) if block not in gone)
    check_rules(file, gone, kept)
    metadata = _Metadata(file, kept)
    fields = tuple(metadata.rewrite(entry) for entry in file.fields)
    warnings = list(metadata.notes)
    if file.prediction_layers:
        warnings.append(
            f"{file.prediction_layers} multi-token-prediction layer(s) beyond the last block were "
            "left out; they were trained for the whole model"
        )
    return GgufCut(file, gone, kept, fields, tuple(_tensors(file, kept)), tuple(warnings))


def write_gguf(cut: GgufCut, out: Path, progress: Progress = SILENT) -> Surgery:
    """Write a planned cut, in constant memory.

    Args:
        cut: What to write.
        out: The new file; it must not exist.
        progress: Shows the bytes copied.

    Returns:
        What was written.

    Raises:
        CheckpointError: If the original ends before a range that its header promised.
        OSError: If the file cannot be written (a full disk).
        OutputError: If the disk has too little room.
    """
    file = cut.source
    check_space(out, cut.bytes + min(tensor.begin for tensor in file.tensors) + (1 << 20))
    with ExitStack() as stack:
        source = stack.enter_context(open_file(file.path))
        target = stack.enter_context(open(out, "xb", buffering=0))
        step = stack.enter_context(progress.step("copying weights", cut.bytes, "B"))
        write_all(target, memoryview(_head(cut, source)))
        for begin, end in _runs(cut):
            copy_range(source, target, begin, end, step.advance)
            write_all(target, memoryview(bytes(-target.tell() % file.alignment)))
        size = target.tell()
    _read_back(cut, out)
    return Surgery(
        removed=cut.removed,
        kept=cut.kept,
        files=(out.name,),
        bytes_before=file.size,
        bytes_after=size,
        parameters_before=sum(tensor.elements for tensor in file.tensors),
        parameters_after=sum(tensor.elements for _, tensor in cut.tensors),
        dtype=commonest_dtype(tensor for _, tensor in cut.tensors),
        warnings=cut.warnings,
    )


def _read_back(cut: GgufCut, out: Path) -> None:
    """Read the header that was written, as the next reader will, before anyone else may."""
    found = {(t.name, t.shape, t.kind) for t in read_gguf(out).tensors}
    meant = {(name, t.shape, t.kind) for name, t in cut.tensors}
    if found != meant or len(meant) != len(cut.tensors):
        raise CheckpointError(
            f"{cut.source.path}: its cut does not read as it was meant, "
            f"{max(1, len(found ^ meant))} tensors differ; nothing was kept"
        )


class _Metadata:
    """Rewrites entries of the metadata for fewer blocks."""

    def __init__(self, file: GgufFile, kept: tuple[int, ...]) -> None:
        self.file = file
        self.kept = kept
        self.notes: list[str] = []

    def rewrite(self, entry: Field) -> Field:
        prefix = f"{self.file.architecture}."
        key = entry.name.removeprefix(prefix)
        if key in SLICED and entry.kind == ARRAY:
            return self._slice(entry, key)
        if not entry.name.startswith(prefix):
            return entry
        if key == "block_count":
            return entry.changed(len(self.kept))
        if key == "nextn_predict_layers":
            return entry.changed(0)
        if key in RECOUNTED and isinstance(entry.value, int):
            return entry.changed(sum(block < entry.value for block in self.kept))
        if entry.kind == ARRAY and isinstance(entry.value, list) and key not in NOT_PER_BLOCK:
            return self._unknown(entry)
        return entry

    @property
    def _lengths(self) -> set[int]:
        """An array may count the multi-token-prediction layers or not."""
        return {self.file.blocks, self.file.blocks + self.file.prediction_layers}

    def _slice(self, entry: Field, key: str) -> Field:
        value = entry.value
        if not isinstance(value, list) or len(value) not in self._lengths:
            count = len(value) if isinstance(value, list) else "unreadable"
            raise CheckpointError(
                f"{self.file.path}: {entry.name} has {count} entries and the model "
                f"{self.file.blocks} blocks; expected one entry a block; convert the model again"
            )
        cut = [value[block] for block in self.kept]
        if key.startswith("attention.head_count"):
            self._check_heads(entry.name, value, cut)
        return entry.changed(cut)

    def _check_heads(self, name: str, before: list[Any], after: list[Any]) -> None:
        if any(before) and not any(after):
            raise ModelError(
                f"{self.file.path}: no block with attention would be left ({name} is 0 in all that "
                "are kept); keep one of them"
            )
        if 0 in before and 0 not in after and self.file.architecture in RECURRENT:
            raise ModelError(
                f"{self.file.path}: no recurrent block would be left ({name} is above 0 in all "
                "that are kept), and llama.cpp ends with an error without one; keep one of them"
            )
        if not name.endswith("_kv") and bool(before[0]) != bool(after[0]):
            raise ModelError(
                f"{self.file.path}: block 0 alone tells llama.cpp whether the model has attention "
                f"({name}), and the first block that is kept says otherwise; keep block 0"
            )

    def _unknown(self, entry: Field) -> Field:
        if len(entry.value) not in self._lengths:
            return entry
        self.notes.append(f"{entry.name} has one entry a block and was cut like them")
        return entry.changed([entry.value[block] for block in self.kept])


def _tensors(file: GgufFile, kept: tuple[int, ...]) -> Iterator[tuple[str, GgufTensor]]:
    new_number: Mapping[int, int] = {block: new for new, block in enumerate(kept)}
    seen: set[int] = set()
    for tensor in file.tensors:
        match = _BLOCK.match(tensor.name)
        if match is None:
            yield tensor.name, tensor
            continue
        if not _CANONICAL.fullmatch(match[1]):
            raise CheckpointError(
                f"{file.path}: {tensor.name} names no block by its number, expected digits without "
                "leading zeros; convert the model again"
            )
        number = int(match[1])
        seen.add(number)
        if number >= file.blocks + file.prediction_layers:
            raise CheckpointError(
                f"{file.path}: {tensor.name} is beyond the {file.blocks} blocks that the file "
                "states; convert the model again"
            )
        if number in new_number:
            yield f"blk.{new_number[number]}{tensor.name[match.end() :]}", tensor
    missing = set(range(file.blocks)) - seen
    if missing:
        raise CheckpointError(
            f"{file.path}: expected {file.blocks} blocks named blk.*, block {min(missing)} has no "
            "tensor; download the file again"
        )


def _head(cut: GgufCut, source: Any) -> bytes:
    """Everything before the tensors' bytes, padded."""
    file = cut.source
    head = bytearray(b"GGUF" + file.version.to_bytes(4, "little"))
    head += len(cut.tensors).to_bytes(8, "little") + len(cut.fields).to_bytes(8, "little")
    for entry in cut.fields:
        if entry.begin < 0:
            head += entry.encode()
        else:
            source.seek(entry.begin)
            head += source.read(entry.end - entry.begin)
    at = 0
    for name, tensor in cut.tensors:
        raw = name.encode("utf-8")
        head += len(raw).to_bytes(8, "little") + raw + len(tensor.shape).to_bytes(4, "little")
        for dimension in tensor.shape:
            head += dimension.to_bytes(8, "little")
        head += tensor.kind.to_bytes(4, "little") + at.to_bytes(8, "little")
        at += tensor.end - tensor.begin
        at += -at % file.alignment
    head += bytes(-len(head) % file.alignment)
    return bytes(head)


def _runs(cut: GgufCut) -> list[tuple[int, int]]:
    """Ranges of the original; neighbours are copied at once, with the padding between them."""
    runs: list[tuple[int, int]] = []
    alignment = cut.source.alignment
    for _, tensor in cut.tensors:
        if runs and runs[-1][1] + -runs[-1][1] % alignment == tensor.begin:
            runs[-1] = (runs[-1][0], tensor.end)
        else:
            runs.append((tensor.begin, tensor.end))
    return runs
