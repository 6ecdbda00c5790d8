"""A fingerprint follows what a model is, not where or when it lies."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from depthprune.checkpoints import fingerprint as fingerprint_module
from depthprune.checkpoints.checkpoint import Checkpoint, open_checkpoint
from depthprune.checkpoints.fingerprint import fingerprint, fingerprint_file, first_difference
from depthprune.checkpoints.gguf.reader import read_gguf
from depthprune.checkpoints.surgery import write_pruned
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


def test_the_order_of_a_configs_fields_is_nothing(tiny_llama: Path, copied: Path) -> None:
    config = json.loads((copied / "config.json").read_text())
    turned = dict(reversed(config.items()))
    assert list(turned) != list(config)
    (copied / "config.json").write_text(json.dumps(turned))
    assert of(copied) == of(tiny_llama)


def test_a_fingerprint_stays_the_same_from_release_to_release(tmp_path: Path) -> None:
    """Memos and manifests hold it: another one for the same files would be another model's."""
    header = {"model.layers.0.w": {"dtype": "U8", "shape": [9000], "data_offsets": [0, 9000]}}
    raw = json.dumps(header).encode()
    data = bytes(i * i % 251 for i in range(9000))
    (tmp_path / "model.safetensors").write_bytes(len(raw).to_bytes(8, "little") + raw + data)
    (tmp_path / "config.json").write_text('{"num_hidden_layers": 1, "model_type": "llama"}')
    (shard,) = open_checkpoint(tmp_path).shards
    assert of(tmp_path).startswith("30be940173db0ed4")
    assert fingerprint_file(shard.path, shard.tensors).startswith("64465d7ebf61464d")


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


def cut_and_whole(folder: Path) -> tuple[Checkpoint, Checkpoint]:
    """A model without its second block, and the model."""
    arrays = {f"model.layers.{i}.w": np.arange(40, dtype=np.float32) + i for i in range(3)}
    (folder / "a").mkdir()
    (folder / "b").mkdir()
    save_file(arrays, folder / "a" / "model.safetensors")
    (folder / "a" / "config.json").write_text('{"model_type": "llama", "num_hidden_layers": 3}')
    original = open_checkpoint(folder / "a")
    write_pruned(original, (1,), folder / "b")
    return open_checkpoint(folder / "b"), original


def test_a_cut_differs_from_its_original_by_the_last_byte_or_by_a_tensor_that_was_added(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fingerprint_module, "_CHUNK", 64)
    cut, original = cut_and_whole(tmp_path)
    assert first_difference(cut, original, (1,), "model.layers.") is None
    path = tmp_path / "b" / "model.safetensors"
    arrays = load_file(path)
    save_file({**arrays, "model.layers.1.z": np.ones(2)}, path)
    more = open_checkpoint(tmp_path / "b")
    assert first_difference(more, original, (1,), "model.layers.") == "model.layers.1.z"
    arrays["model.layers.1.w"][-1] += 1
    save_file(arrays, path)
    other = open_checkpoint(tmp_path / "b")
    assert first_difference(other, original, (1,), "model.layers.") == "model.layers.1.w"


def test_pickled_weights_have_none(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").touch()
    with pytest.raises(CheckpointError, match="no fingerprint"):
        fingerprint(open_checkpoint(tmp_path, allow_pickle=True))
