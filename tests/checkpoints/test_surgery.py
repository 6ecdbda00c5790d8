"""A cut copies bytes, renumbers names, and writes a folder that loads."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from depthprune.checkpoints import surgery as surgery_module
from depthprune.checkpoints.checkpoint import INDEX, open_checkpoint
from depthprune.checkpoints.surgery import write_pruned
from depthprune.errors import CheckpointError, ModelError, OutputError, UsageError
from tiny import linked_as_by_a_hub


def make(folder: Path, shards: list[dict[str, np.ndarray[Any, Any]]], **config: Any) -> Path:
    """A checkpoint of the given shards, without a model behind it."""
    folder.mkdir(parents=True, exist_ok=True)
    fields = {"model_type": "llama", "num_hidden_layers": 3} | config
    (folder / "config.json").write_text(json.dumps(fields))
    if len(shards) == 1:
        save_file(shards[0], folder / "model.safetensors")
        return folder
    weight_map = {}
    for i, shard in enumerate(shards, 1):
        file = f"model-{i:05d}-of-{len(shards):05d}.safetensors"
        save_file(shard, folder / file, metadata={"format": "pt"})
        weight_map.update(dict.fromkeys(shard, file))
    index = {"metadata": {"total_size": 0, "made_by": "a test"}, "weight_map": weight_map}
    (folder / INDEX).write_text(json.dumps(index))
    return folder


def tensor(value: float) -> np.ndarray[Any, Any]:
    return np.full((2, 3), value, dtype=np.float32)


def blocks(*numbers: int) -> dict[str, np.ndarray[Any, Any]]:
    return {f"model.layers.{i}.w": tensor(i) for i in numbers}


def cut(folder: Path, out: Path, *removed: int) -> surgery_module.Surgery:
    out.mkdir()
    return write_pruned(open_checkpoint(folder), removed, out)


def test_kept_blocks_are_renumbered_and_the_rest_stays(tmp_path: Path) -> None:
    source = make(tmp_path / "a", [blocks(0, 1, 2) | {"norm.w": tensor(9)}])
    done = cut(source, tmp_path / "b", 1)
    new = load_file(tmp_path / "b" / "model.safetensors")
    assert set(new) == {"model.layers.0.w", "model.layers.1.w", "norm.w"}
    assert new["model.layers.1.w"][0, 0] == 2
    assert done.removed == (1,)
    assert done.kept == (0, 2)
    assert done.files == ("model.safetensors", "config.json")
    assert done.dtype == "float32"
    assert (done.parameters_before, done.parameters_after) == (24, 18)
    before, after = (tmp_path / name / "model.safetensors" for name in "ab")
    assert (done.bytes_before, done.bytes_after) == (before.stat().st_size, after.stat().st_size)
    assert json.loads((tmp_path / "b" / "config.json").read_text())["num_hidden_layers"] == 2


def test_empty_shards_vanish_and_the_index_is_rewritten(tmp_path: Path) -> None:
    source = make(tmp_path / "a", [{"e.w": tensor(9)}, blocks(0), blocks(1), blocks(2)])
    done = cut(source, tmp_path / "b", 0, 1)
    assert sorted(done.files) == [
        "config.json",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        INDEX,
    ]
    index = json.loads((tmp_path / "b" / INDEX).read_text())
    assert index["metadata"] == {"total_size": 48, "made_by": "a test"}
    assert index["weight_map"]["model.layers.0.w"] == "model-00002-of-00002.safetensors"
    again = open_checkpoint(tmp_path / "b")
    assert again.blocks == 1
    weights = (tmp_path / "b").glob("*.safetensors")
    assert done.bytes_after == sum(path.stat().st_size for path in weights)
    assert all(shard.metadata == {"format": "pt"} for shard in again.shards)


def test_a_single_remaining_shard_needs_no_index(tmp_path: Path) -> None:
    source = make(tmp_path / "a", [blocks(0, 2), blocks(1)])
    done = cut(source, tmp_path / "b", 1)
    assert done.files == ("model.safetensors", "config.json")


def test_prediction_layers_beyond_the_blocks_are_left_out_and_said_so(tmp_path: Path) -> None:
    source = make(tmp_path / "a", [blocks(0, 1, 2, 3)], num_nextn_predict_layers=1)
    done = cut(source, tmp_path / "b", 1)
    assert set(load_file(tmp_path / "b" / "model.safetensors")) == set(blocks(0, 1))
    assert "1 multi-token-prediction layer(s)" in done.warnings[0]
    config = json.loads((tmp_path / "b" / "config.json").read_text())
    assert config["num_nextn_predict_layers"] == 0


def test_half_a_surrogate_pair_is_written_as_it_was_read(tmp_path: Path) -> None:
    source = make(tmp_path / "a", [blocks(0, 1, 2)], note="\ud800")
    cut(source, tmp_path / "b", 1)
    assert json.loads((tmp_path / "b" / "config.json").read_text())["note"] == "\ud800"


@pytest.mark.parametrize("stated", [{}, {"num_nextn_predict_layers": 0}])
def test_layers_that_the_config_does_not_count_are_left_out_and_said_so(
    stated: dict[str, int], tmp_path: Path
) -> None:
    source = make(tmp_path / "a", [blocks(0, 1, 2, 3)], **stated)
    done = cut(source, tmp_path / "b", 1)
    assert done.warnings == (
        "1 layer(s) beyond the 3 blocks that config.json states were left out; if they belong to "
        "the model, correct it",
    )


def test_what_a_checkpoint_needs_is_copied_and_nothing_else(tmp_path: Path) -> None:
    source = make(tmp_path / "a", [blocks(0, 1, 2)])
    wanted = "tokenizer.json vocab.txt merges.txt special_tokens_map.json added_tokens.json"
    wanted += " chat_template.jinja generation_config.json LICENSE NOTICE.txt spiece.model"
    left = "optimizer.pt pytorch_model.bin training_args.bin depthprune.json README.md"
    left += " report.html tokenizer.bin modeling_x.py model.gguf .gitattributes"
    for name in f"{wanted} {left}".split():
        (source / name).write_text(name)
    (source / "additional_chat_templates").mkdir()
    (source / "additional_chat_templates" / "tool.jinja").touch()
    done = cut(source, tmp_path / "b", 1)
    extra = {"additional_chat_templates", "model.safetensors", "config.json"}
    assert set(done.files) == {*wanted.split(), *extra}
    assert {path.name for path in (tmp_path / "b").iterdir()} == set(done.files)


def test_code_is_copied_only_where_the_config_needs_it(tmp_path: Path) -> None:
    source = make(tmp_path / "a", [blocks(0, 1, 2)], auto_map={"AutoConfig": "c.C"})
    (source / "c.py").touch()
    assert "c.py" in cut(source, tmp_path / "b", 1).files


def test_a_hub_caches_links_become_files_and_broken_ones_are_named(tmp_path: Path) -> None:
    real = make(tmp_path / "real", [blocks(0, 1, 2)])
    (real / "tokenizer.json").write_text("{}")
    linked = linked_as_by_a_hub(real, tmp_path)
    cut(linked, tmp_path / "b", 1)
    assert (tmp_path / "b" / "tokenizer.json").read_text() == "{}"
    assert not any(path.is_symlink() for path in (tmp_path / "b").iterdir())
    (linked / "tokenizer.json").resolve().unlink()
    with pytest.raises(CheckpointError, match=r"tokenizer\.json: a link to a missing file"):
        cut(linked, tmp_path / "c", 1)


def test_a_block_without_tensors_is_refused(tmp_path: Path) -> None:
    source = make(tmp_path / "a", [blocks(0, 2)])
    (tmp_path / "b").mkdir()
    with pytest.raises(ModelError, match="block 1 has no tensor"):
        write_pruned(open_checkpoint(source), (0,), tmp_path / "b", block_prefix="model.layers.")


def test_pickled_weights_cannot_be_cut(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"num_hidden_layers": 3}')
    (tmp_path / "pytorch_model.bin").touch()
    with pytest.raises(CheckpointError, match="the weights are pickled"):
        write_pruned(open_checkpoint(tmp_path, allow_pickle=True), (0,), tmp_path)


@pytest.mark.parametrize("removed", [(3,), (0, 0), (), (0, 1, 2)])
def test_a_set_that_does_not_fit_is_refused(tmp_path: Path, removed: tuple[int, ...]) -> None:
    source = make(tmp_path / "a", [blocks(0, 1, 2)])
    with pytest.raises(UsageError):
        cut(source, tmp_path / "b", *removed)


def test_a_disk_without_room_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(where: Path, needed: int) -> None:
        raise OutputError(f"{where}: {needed}")

    monkeypatch.setattr(surgery_module, "check_space", no_room)
    source = make(tmp_path / "a", [blocks(0, 1, 2)])
    with pytest.raises(OutputError):
        cut(source, tmp_path / "b", 1)
    assert list((tmp_path / "b").iterdir()) == []


@pytest.mark.parametrize("link", [False, True])
def test_room_is_asked_for_what_is_copied_and_not_for_what_is_shared(
    link: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    monkeypatch.setattr(surgery_module, "check_space", lambda _, needed: asked.append(needed))
    monkeypatch.setattr(surgery_module, "_ROOM", 0)
    source = make(tmp_path / "a", [{"e.w": tensor(9)}, blocks(0), blocks(1, 2)])
    (tmp_path / "b").mkdir()
    write_pruned(open_checkpoint(source), (1,), tmp_path / "b", link=link)
    # Of three tensors of six floats, two are in files in which nothing changes.
    assert asked == [24 if link else 72]


def test_a_cut_imports_neither_torch_nor_transformers(tiny_llama: Path, tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from depthprune.pruning.apply import apply\n"
        "apply(sys.argv[1], '1,3', sys.argv[2])\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules\n"
    )
    path = os.pathsep.join(sys.path)
    subprocess.run(
        [sys.executable, "-W", "error", "-c", code, str(tiny_llama), str(tmp_path / "out")],
        check=True,
        env=os.environ | {"PYTHONPATH": path},
    )
    assert (tmp_path / "out" / "depthprune.json").is_file()


@pytest.mark.parametrize(
    ("large", "small", "dtype"),
    [("float16", "float32", "float16"), ("float32", "float16", "float32"), ("int8", "int64", "i8")],
)
def test_the_dtype_is_that_of_most_elements(
    large: str, small: str, dtype: str, tmp_path: Path
) -> None:
    """Whatever number of tensors has the other; and integers count where nothing else is there."""
    floats = large.startswith("float")
    shard = {f"model.layers.{i}.{part}": np.zeros(2, small) for i in range(3) for part in "abc"}
    shard |= {"model.layers.0.w": np.zeros(99, large), "model.layers.2.w": np.zeros(99, large)}
    shard |= {"z.packed": np.zeros(999, np.int32)} if floats else {}
    assert cut(make(tmp_path / "a", [shard]), tmp_path / "b", 0).dtype == dtype


@st.composite
def splits(draw: st.DrawFn) -> tuple[int, list[list[str]], tuple[int, ...]]:
    """A number of blocks, tensor names split over shards at random, and a removed set."""
    count = draw(st.integers(2, 7))
    names = [f"model.layers.{i}.{part}" for i in range(count) for part in ("a.w", "b.bias")]
    names = draw(st.permutations([*names, "embed.w", "norm.w"]))
    cuts = sorted(draw(st.sets(st.integers(1, len(names) - 1), max_size=4)))
    shards = [names[i:j] for i, j in zip([0, *cuts], [*cuts, len(names)], strict=True)]
    removed = draw(st.sets(st.integers(0, count - 1), min_size=1, max_size=count - 1))
    return count, shards, tuple(sorted(removed))


@settings(max_examples=40, deadline=None)
@given(splits(), st.integers(0, 2**32 - 1))
def test_kept_tensors_are_the_same_bytes_however_they_are_split(
    split: tuple[int, list[list[str]], tuple[int, ...]], seed: int
) -> None:
    count, shards, removed = split
    random = np.random.default_rng(seed)
    dtypes = [np.float32, np.float16, np.int8, np.int64]

    def draw_tensor() -> np.ndarray[Any, Any]:
        shape = random.integers(0, 5, size=random.integers(0, 3))
        return random.integers(-9, 9, size=shape).astype(random.choice(dtypes))

    arrays = [{name: draw_tensor() for name in shard} for shard in shards]
    original = {name: array for shard in arrays for name, array in shard.items()}
    kept = [i for i in range(count) if i not in removed]
    expected = {name: original[name] for name in ("embed.w", "norm.w")}
    for new, old in enumerate(kept):
        for part in ("a.w", "b.bias"):
            expected[f"model.layers.{new}.{part}"] = original[f"model.layers.{old}.{part}"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cut(make(folder / "a", arrays, num_hidden_layers=count), folder / "b", *removed)
        found: dict[str, np.ndarray[Any, Any]] = {}
        for path in (folder / "b").glob("*.safetensors"):
            found |= load_file(path)
    assert set(found) == set(expected)
    for name, array in expected.items():
        assert found[name].dtype == array.dtype
        assert found[name].shape == array.shape
        assert found[name].tobytes() == array.tobytes()


def test_a_tensor_is_written_from_the_bytes_that_replace_it(tmp_path: Path) -> None:
    source = make(tmp_path / "a", [blocks(0, 1, 2) | {"norm.w": tensor(9)}])
    (tmp_path / "b").mkdir()
    new = {"model.layers.2.w": tensor(7).tobytes()}
    write_pruned(open_checkpoint(source), (1,), tmp_path / "b", replace=new)
    found = load_file(tmp_path / "b" / "model.safetensors")
    assert {name: value[0, 0] for name, value in found.items()} == {
        "model.layers.0.w": 0,
        "model.layers.1.w": 7,
        "norm.w": 9,
    }


@pytest.mark.parametrize(
    ("name", "found"), [("w", "no such tensor"), ("norm.w", "one of 24 bytes")]
)
def test_a_replacement_that_does_not_fit_is_refused(name: str, found: str, tmp_path: Path) -> None:
    source = make(tmp_path / "a", [blocks(0, 1, 2) | {"norm.w": tensor(9)}])
    with pytest.raises(CheckpointError, match=rf"{name} of 4 bytes to replace, found {found}"):
        write_pruned(open_checkpoint(source), (1,), tmp_path / "b", replace={name: b"1234"})


def test_minimax_without_its_decays_is_refused(tmp_path: Path) -> None:
    """Its class would compute them from each block's new number."""
    source = make(tmp_path / "a", [blocks(0, 1, 2)], model_type="minimax")
    with pytest.raises(ModelError, match=r"expected tensors slope_rate, .*save it again"):
        cut(source, tmp_path / "b", 1)
    assert list((tmp_path / "b").iterdir()) == []
