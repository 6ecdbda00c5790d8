"""A file system with reflinks can share nearly all that a cut keeps."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from depthprune.checkpoints import byte_copy
from depthprune.checkpoints.byte_copy import write_file
from depthprune.checkpoints.safetensors import Piece, read_header
from depthprune.checkpoints.shared_blocks import BLOCK, order_to_share

BLOCKS = 12


def model(file: Path, step: int) -> Path:
    """Blocks of two tensors that fill whole blocks of a file system, and one that does not."""
    rng = np.random.default_rng(0)
    names = {"down": 2 * BLOCK, "norm": step, "up": 3 * BLOCK}
    tensors = {
        f"layers.{number:02}.{name}": rng.integers(0, 256, size, dtype=np.uint8)
        for number in range(BLOCKS)
        for name, size in names.items()
    }
    save_file({**tensors, "scale": np.ones(5, dtype=np.float32)}, file)
    return file


def pieces_without(file: Path, *removed: int) -> list[Piece]:
    gone = tuple(f"layers.{number:02}." for number in removed)
    kept = [t for t in read_header(file).tensors if not t.name.startswith(gone)]
    return [Piece(tensor.name, file, tensor) for tensor in kept]


def shareable(original: Path, cut: Path) -> float:
    """The share of a cut's bytes that stand at the same place of a block as in the original."""
    before = {tensor.name: tensor.begin for tensor in read_header(original).tensors}
    tensors = read_header(cut).tensors
    same = [t.nbytes for t in tensors if (t.begin - before[t.name]) % BLOCK == 0]
    return sum(same) / sum(tensor.nbytes for tensor in tensors)


@pytest.mark.parametrize("step", [512, 1536, 4 * BLOCK])
@pytest.mark.parametrize("removed", [(0,), (3, 4, 7), (11,)])
def test_what_is_kept_keeps_its_place_in_a_block(
    tmp_path: Path, step: int, removed: tuple[int, ...]
) -> None:
    original = model(tmp_path / "a.safetensors", step)
    cut = tmp_path / "b.safetensors"
    write_file(cut, pieces_without(original, *removed), {}, share=True)
    assert shareable(original, cut) > 0.95
    found, expected = load_file(cut), load_file(original)
    assert len(found) == len(expected) - 3 * len(removed)
    assert all(np.array_equal(found[name], expected[name]) for name in found)


def test_otherwise_the_order_of_the_source_stands(tmp_path: Path) -> None:
    original = model(tmp_path / "a.safetensors", 256)
    cut = tmp_path / "b.safetensors"
    write_file(cut, pieces_without(original, 3), {})
    assert [t.name for t in read_header(cut).tensors] == [
        t.name for t in read_header(original).tensors if not t.name.startswith("layers.03.")
    ]
    assert shareable(original, cut) < 0.5


def test_what_finds_no_place_comes_last_and_nothing_is_lost(tmp_path: Path) -> None:
    original = model(tmp_path / "a.safetensors", 8)
    pieces = [p for p in pieces_without(original, 5) if "norm" not in p.name]
    ordered = order_to_share(pieces)
    assert sorted(p.name for p in ordered) == sorted(p.name for p in pieces)
    assert ordered[0].name == order_to_share(reversed(pieces))[0].name == "scale"


def test_the_kernel_is_asked_for_whole_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not hasattr(os, "copy_file_range"):
        pytest.skip("this system has no copy_file_range")
    true, asked = os.copy_file_range, []

    def watched(source: int, target: int, count: int, **where: Any) -> int:
        asked.append((where["offset_src"] % BLOCK, os.lseek(target, 0, os.SEEK_CUR) % BLOCK, count))
        return true(source, target, count, **where)

    monkeypatch.setattr(byte_copy.os, "copy_file_range", watched)
    original = model(tmp_path / "a.safetensors", 1536)
    write_file(tmp_path / "b.safetensors", pieces_without(original, 2, 6), {}, share=True)
    large = [(begin, at) for begin, at, count in asked if count >= BLOCK]
    assert large
    assert set(large) == {(0, 0)}
