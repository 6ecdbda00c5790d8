"""A fingerprint follows what a model is, not where or when it lies."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from depthprune.checkpoints.checkpoint import open_checkpoint
from depthprune.checkpoints.fingerprint import fingerprint, fingerprint_file
from depthprune.checkpoints.gguf.reader import read_gguf
from depthprune.errors import CheckpointError
from depthprune.models.source import find_model
from gguf_tiny import tiny_gguf


def of(folder: Path) -> str:
    return fingerprint(open_checkpoint(folder))


@pytest.fixture
def copied(tiny_llama: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_llama, tmp_path / "copy"))


def test_a_copy_with_another_time_has_the_same_fingerprint(tiny_llama: Path, copied: Path) -> None:
    os.utime(copied / "model.safetensors", (0, 0))
    assert of(copied) == of(tiny_llama)
    assert len(of(copied)) == 64


def test_another_config_is_another_model(tiny_llama: Path, copied: Path) -> None:
    config = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(json.dumps(config | {"rope_theta": 5.0}))
    assert of(copied) != of(tiny_llama)


def test_any_tensor_that_was_trained_further_is_another_model(
    tiny_llama: Path, copied: Path
) -> None:
    whole = of(tiny_llama)
    path = copied / "model.safetensors"
    raw = path.read_bytes()
    for tensor in open_checkpoint(copied).tensors.values():
        changed = bytearray(raw)
        for at in range(tensor.begin, tensor.end):
            changed[at] ^= 1
        path.write_bytes(changed)
        assert of(copied) != whole, tensor.name


def test_a_single_file_is_told_by_its_size_and_bytes(tmp_path: Path) -> None:
    a, b, c = (tmp_path / name for name in "abc")
    a.write_bytes(bytes(100_000))
    b.write_bytes(bytes(100_001))
    c.write_bytes(bytes(1000) + b"x" + bytes(98_999))
    assert len({fingerprint_file(path) for path in (a, b, c)}) == 3
    shutil.copy(a, tmp_path / "d")
    assert fingerprint_file(tmp_path / "d") == fingerprint_file(a)


@pytest.mark.parametrize("name", ["blk.3.ffn_down.weight", "output_norm.weight"])
def test_any_tensor_of_a_gguf_that_was_trained_further_is_another_model(
    tmp_path: Path, name: str
) -> None:
    path = tiny_gguf(tmp_path / "a.gguf")
    whole = find_model(path).fingerprint()
    tensor = next(tensor for tensor in read_gguf(path).tensors if tensor.name == name)
    raw = bytearray(path.read_bytes())
    raw[tensor.begin : tensor.end] = bytes(byte ^ 1 for byte in raw[tensor.begin : tensor.end])
    path.write_bytes(raw)
    assert find_model(path).fingerprint() != whole


def test_another_number_behind_a_long_vocabulary_is_another_model(tmp_path: Path) -> None:
    a, b = (
        tiny_gguf(
            tmp_path / f"{base}.gguf",
            fields={"filler": list(range(1 << 15)), "rope.freq_base": base},
        )
        for base in (1e4, 1e5)
    )
    assert find_model(a).fingerprint() != find_model(b).fingerprint()


def test_an_empty_file_has_a_fingerprint_and_a_missing_one_has_none(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    assert len(fingerprint_file(tmp_path / "empty")) == 64
    with pytest.raises(CheckpointError, match="cannot be read"):
        fingerprint_file(tmp_path / "missing")


def test_pickled_weights_have_none(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").touch()
    with pytest.raises(CheckpointError, match="no fingerprint"):
        fingerprint(open_checkpoint(tmp_path, allow_pickle=True))
