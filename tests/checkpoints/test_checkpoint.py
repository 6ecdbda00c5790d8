"""A checkpoint folder is checked completely before any weight is read."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from depthprune.checkpoints.checkpoint import (
    INDEX,
    find_block_prefix,
    open_checkpoint,
    split_name,
)
from depthprune.errors import CheckpointError, ModelError
from tiny import linked_as_by_a_hub, save_tiny


@pytest.fixture(scope="module")
def sharded_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("sharded") / "llama", max_shard_size="40KB")


@pytest.fixture
def folder(sharded_llama: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sharded_llama, tmp_path / "llama"))


def edit_index(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    index = json.loads((folder / INDEX).read_text())
    change(index)
    (folder / INDEX).write_text(json.dumps(index))


def test_an_open_checkpoint_knows_its_size_and_its_blocks(tiny_llama: Path) -> None:
    checkpoint = open_checkpoint(tiny_llama)
    assert checkpoint.model_type == "llama"
    assert checkpoint.blocks == 6
    assert checkpoint.block_prefix == "model.layers."
    assert checkpoint.bytes == (tiny_llama / "model.safetensors").stat().st_size
    assert checkpoint.parameters == sum(t.elements for t in checkpoint.tensors.values())
    assert checkpoint.text_config is checkpoint.config


def test_shards_give_the_same_tensors_as_one_file(tiny_llama: Path, sharded_llama: Path) -> None:
    one, many = open_checkpoint(tiny_llama), open_checkpoint(sharded_llama)
    assert len(many.shards) > 2
    assert set(one.tensors) == set(many.tensors)
    assert one.parameters == many.parameters


def test_links_as_in_a_hub_cache_are_followed(tiny_llama: Path, tmp_path: Path) -> None:
    assert open_checkpoint(linked_as_by_a_hub(tiny_llama, tmp_path)).blocks == 6


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_link_out_of_the_folder_is_not_followed(
    folder: Path, tiny_llama: Path, name: str
) -> None:
    for path in folder.glob("model*"):
        path.unlink()
    shutil.copyfile(tiny_llama / "model.safetensors", folder / "model.safetensors")
    (folder / name).unlink()
    (folder / name).symlink_to(tiny_llama / name)
    with pytest.raises(CheckpointError, match=f"{name}: a link that leads out of the folder"):
        open_checkpoint(folder)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", INDEX])
def test_a_pipe_is_refused_and_never_waited_for(folder: Path, name: str) -> None:
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    with pytest.raises(CheckpointError, match=f"{name}: expected a file, found a pipe"):
        open_checkpoint(folder)


@pytest.mark.parametrize("name", ["model.safetensors", "model.safetensors.index.json"])
def test_a_link_to_weights_that_are_not_there_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / name).symlink_to("../blobs/missing")
    with pytest.raises(CheckpointError, match=f"{name}: a link to a missing file"):
        open_checkpoint(tmp_path)


def test_a_folder_that_is_missing_or_a_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="found nothing"):
        open_checkpoint(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="found a file"):
        open_checkpoint(tmp_path / "file")


def test_a_folder_without_a_config_is_refused(folder: Path) -> None:
    (folder / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        open_checkpoint(folder)


@pytest.mark.parametrize(
    ("text", "message"), [("{oops", "not JSON"), ("[1]", "expected a JSON object, found list")]
)
def test_a_config_that_is_no_object_is_refused(folder: Path, text: str, message: str) -> None:
    (folder / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(folder)


def test_a_config_that_is_not_text_is_refused(folder: Path) -> None:
    (folder / "config.json").write_bytes(b"\xff\x00\x81")
    with pytest.raises(CheckpointError, match="not JSON"):
        open_checkpoint(folder)


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"no weights; expected model\.safetensors"):
        open_checkpoint(tmp_path)


def test_pickled_weights_are_refused_unless_allowed(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(CheckpointError, match=r"pickled only \(pytorch_model.bin\)"):
        open_checkpoint(tmp_path)
    assert open_checkpoint(tmp_path, allow_pickle=True).shards == ()


def test_a_missing_shard_is_named(folder: Path) -> None:
    shard = sorted(folder.glob("model-00002-*"))[0]
    shard.unlink()
    with pytest.raises(CheckpointError, match=f"shard {shard.name} is missing"):
        open_checkpoint(folder)


def test_a_truncated_shard_is_refused(folder: Path) -> None:
    shard = sorted(folder.glob("model-00002-*"))[0]
    os.truncate(shard, shard.stat().st_size // 2)
    with pytest.raises(CheckpointError, match="truncated"):
        open_checkpoint(folder)


@pytest.mark.parametrize(
    "name",
    ["../secret.safetensors", "/etc/passwd", "a/../../b", "C:\\x", "..\\x", "\\\\host\\x", ""],
)
def test_an_index_that_names_a_path_outside_the_folder_is_refused(folder: Path, name: str) -> None:
    (folder.parent / "secret.safetensors").touch()

    def point_outside(index: dict[str, Any]) -> None:
        index["weight_map"]["lm_head.weight"] = name

    edit_index(folder, point_outside)
    with pytest.raises(CheckpointError, match="outside the folder"):
        open_checkpoint(folder)


@pytest.mark.parametrize("weight_map", [None, {}, [], {"a": 1}])
def test_an_index_without_a_map_is_refused(folder: Path, weight_map: Any) -> None:
    edit_index(folder, lambda index: index.update(weight_map=weight_map))
    with pytest.raises(CheckpointError, match="weight_map must map"):
        open_checkpoint(folder)


def test_an_index_that_names_a_tensor_its_shard_lacks_is_refused(folder: Path) -> None:
    shard = sorted(folder.glob("model-00001-*"))[0].name
    edit_index(folder, lambda index: index["weight_map"].update({"ghost.weight": shard}))
    with pytest.raises(CheckpointError, match=r"expected ghost.weight in .*, found it in no shard"):
        open_checkpoint(folder)


def test_a_tensor_in_two_shards_is_refused(folder: Path) -> None:
    first, second = sorted(folder.glob("model-0000[12]-*"))
    shutil.copy(first, second)
    with pytest.raises(CheckpointError, match="is in both"):
        open_checkpoint(folder)


def test_a_name_is_split_at_its_outermost_number() -> None:
    name = "model.layers.3.mlp.experts.7.weight"
    assert split_name(name) == ("model.layers.", 3, ".mlp.experts.7.weight")
    assert split_name("h.0") == ("h.", 0, "")
    assert split_name("0.weight") == ("", 0, ".weight")
    assert split_name("model.norm2.weight") is None


def names(prefix: str, count: int) -> list[str]:
    return [f"{prefix}{i}.weight" for i in range(count)]


def test_layers_beyond_the_blocks_do_not_hide_the_list() -> None:
    assert find_block_prefix(names("model.layers.", 7), 6) == "model.layers."


def test_experts_are_not_blocks() -> None:
    experts = [f"model.layers.{i}.experts.{j}.w" for i in range(4) for j in range(4)]
    assert find_block_prefix(experts, 4) == "model.layers."


@pytest.mark.parametrize(
    ("other", "text"),
    [
        ("model.vision_tower.encoder.layers.", "model.language_model.layers."),
        ("visual.blocks.", "model.layers."),
        ("mtp.layers.", "model.layers."),
        ("model.encoder.layers.", "model.decoder.layers."),
    ],
)
def test_the_language_models_list_is_preferred(other: str, text: str) -> None:
    assert find_block_prefix([*names(other, 6), *names(text, 6)], 6) == text


def test_two_lists_that_fit_alike_are_refused_by_name() -> None:
    with pytest.raises(ModelError, match=r"several lists .*\(a\.x\., b\.x\.\)"):
        find_block_prefix([*names("a.x.", 6), *names("b.x.", 6)], 6)


def test_a_model_without_a_list_of_blocks_is_refused() -> None:
    with pytest.raises(ModelError, match=r"no list of 6 blocks .* model\.layers\.\* \(5\)"):
        find_block_prefix(names("model.layers.", 5), 6)
