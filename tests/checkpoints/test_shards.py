"""Odd checkpoints: names that share a tensor, files that stay as they are, folders as found."""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from command import Command, run
from depthprune.checkpoints import shard_files as shards_module
from depthprune.checkpoints.checkpoint import INDEX, open_checkpoint
from depthprune.checkpoints.surgery import Surgery, write_pruned
from depthprune.errors import CheckpointError
from depthprune.pruning.apply import apply
from tiny import save_tiny

Arrays = dict[str, np.ndarray[Any, Any]]


def block(*numbers: int) -> Arrays:
    return {f"model.layers.{i}.w": np.full((2, 3), i, dtype=np.float32) for i in numbers}


def make(
    folder: Path,
    files: dict[str, Arrays],
    metadata: dict[str, str] | None = None,
    index: dict[str, Any] | None = None,
) -> Path:
    """A checkpoint of four blocks in the given files."""
    for name, arrays in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        save_file(arrays, folder / name, metadata=metadata)
    (folder / "config.json").write_text('{"model_type": "llama", "num_hidden_layers": 4}')
    if list(files) != ["model.safetensors"]:
        weight_map = {name: file for file, arrays in files.items() for name in arrays}
        document = {"metadata": index or {}, "weight_map": weight_map}
        (folder / INDEX).write_text(json.dumps(document))
    return folder


def cut(folder: Path, out: Path, *removed: int, link: bool = False) -> Surgery:
    out.mkdir()
    return write_pruned(open_checkpoint(folder), removed, out, link=link)


def test_shards_in_a_folder_of_their_own_come_out_in_one(tmp_path: Path) -> None:
    files = {"part/a.safetensors": block(0, 1), "part/b.safetensors": block(2, 3)}
    done = cut(make(tmp_path / "a", files), tmp_path / "b", 1)
    assert done.files[:2] == (
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
    )
    assert open_checkpoint(tmp_path / "b").blocks == 3


def test_the_index_counts_parameters_only_where_it_did(tmp_path: Path) -> None:
    files = {"a.safetensors": block(0, 1), "b.safetensors": block(2, 3)}
    for total, expected in ((24, 18), (999, None)):
        source = make(tmp_path / f"in{total}", files, index={"total_parameters": total, "by": "x"})
        cut(source, tmp_path / f"out{total}", 0)
        metadata = json.loads((tmp_path / f"out{total}" / INDEX).read_text())["metadata"]
        assert metadata.pop("total_parameters", None) == expected
        assert metadata == {"by": "x", "total_size": 72}


def test_tied_embeddings_stay_tied(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    source = save_tiny(tmp_path / "a", tie_word_embeddings=True, max_shard_size="20KB")
    assert "lm_head.weight" not in open_checkpoint(source).tensors
    apply(source, "0,4", tmp_path / "b")
    model, info = AutoModelForCausalLM.from_pretrained(tmp_path / "b", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert model.lm_head.weight is model.model.embed_tokens.weight


def shared(folder: Path, aliases: dict[str, str], *numbers: int) -> Path:
    arrays = block(*numbers) | {"norm.w": np.ones(3, dtype=np.float32)}
    return make(folder, {"model.safetensors": arrays}, metadata={"format": "pt"} | aliases)


def test_an_index_may_list_a_tensor_by_each_of_its_names(tmp_path: Path) -> None:
    """The hub's own conversion leaves names in the index that it stores as others."""
    files = {f"model-{i}.safetensors": block(2 * i, 2 * i + 1) for i in range(2)}
    source = make(tmp_path / "a", files, metadata={"head.w": "model.layers.3.w"})
    index = json.loads((source / INDEX).read_text())
    index["weight_map"]["head.w"] = "model-1.safetensors"
    (source / INDEX).write_text(json.dumps(index))
    cut(source, tmp_path / "b", 1)
    assert dict(open_checkpoint(tmp_path / "b").shards[1].metadata) == {
        "head.w": "model.layers.2.w"
    }
    index["weight_map"]["head.w"] = "model-0.safetensors"
    (source / INDEX).write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=r"expected head\.w in model-0"):
        open_checkpoint(source)


def test_names_that_share_a_tensor_are_renumbered_in_the_metadata(tmp_path: Path) -> None:
    aliases = {"head.w": "norm.w", "model.layers.2.v": "model.layers.3.w", "x": "model.layers.2.w"}
    cut(shared(tmp_path / "a", aliases, 0, 1, 2, 3), tmp_path / "b", 1)
    assert dict(open_checkpoint(tmp_path / "b").shards[0].metadata) == {
        "format": "pt",
        "head.w": "norm.w",
        "model.layers.1.v": "model.layers.2.w",
        "x": "model.layers.1.w",
    }


def test_a_shared_tensor_outlives_the_block_it_was_stored_under(tmp_path: Path) -> None:
    arrays = block(0, 1, 2, 3) | {"model.layers.0.s": np.full(3, 7, dtype=np.float32)}
    aliases = {f"model.layers.{i}.s": "model.layers.0.s" for i in (1, 2, 3)}
    cut(make(tmp_path / "a", {"model.safetensors": arrays}, aliases), tmp_path / "b", 0, 2)
    new = load_file(tmp_path / "b" / "model.safetensors")
    assert set(new) == {"model.layers.0.w", "model.layers.1.w", "model.layers.0.s"}
    assert (new["model.layers.0.s"] == 7).all()
    assert dict(open_checkpoint(tmp_path / "b").shards[0].metadata) == {
        "model.layers.1.s": "model.layers.0.s"
    }


def test_what_is_carried_and_what_is_not(tmp_path: Path) -> None:
    source = make(tmp_path / "a", {"model.safetensors": block(0, 1, 2, 3)})
    carried = "preprocessor_config.json chat_template.json chat_template.jinja tokenizer.model"
    carried += " tokenizer_config.json license.txt USE_POLICY.md LICENCE-MIT generation_config.json"
    left = "optimizer.bin optimizer.pt scheduler.pt rng_state_0.pth trainer_state.json"
    left += " training_args.bin pytorch_model.bin pytorch_model.bin.index.json tf_model.h5"
    left += " consolidated.safetensors model.onnx adapter_model.safetensors README.md events.out"
    for name in f"{carried} {left}".split():
        (source / name).write_text(name)
    for name in ("global_step100", "runs", "original", ".cache"):
        (source / name).mkdir()
        (source / name / "tokenizer.model").touch()
    done = cut(source, tmp_path / "b", 1)
    assert {p.name for p in (tmp_path / "b").iterdir()} == set(done.files)
    assert set(done.files) == {*carried.split(), "model.safetensors", "config.json"}


def test_a_read_only_original_makes_no_read_only_copy(tmp_path: Path) -> None:
    source = make(tmp_path / "a", {"model.safetensors": block(0, 1, 2, 3)})
    (source / "tokenizer.json").write_text("{}")
    (source / "additional_chat_templates" / "deep").mkdir(parents=True)
    (source / "additional_chat_templates" / "deep" / "tool.jinja").write_text("x")
    everything = [source, *source.rglob("*")]
    before = {path: path.stat().st_mtime_ns for path in everything}
    for path in everything:
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        apply(source, "1", tmp_path / "b")
    finally:
        for path in everything:
            path.chmod(0o755)
    written = list((tmp_path / "b").rglob("*"))
    assert any(path.name == "tool.jinja" for path in written)
    assert all(path.stat().st_mode & 0o200 for path in written)
    assert {path: path.stat().st_mtime_ns for path in everything} == before


def hub_cache(folder: Path, files: dict[str, Arrays]) -> Path:
    """A snapshot whose files are relative links to blobs, as the hub's cache has them."""
    plain = make(folder / "plain", files)
    snapshot = folder / "models--org--name" / "snapshots" / "abc"
    blobs = folder / "models--org--name" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for i, path in enumerate(sorted(plain.iterdir())):
        path.rename(blobs / str(i))
        os.symlink(os.path.join("..", "..", "blobs", str(i)), snapshot / path.name)
    return snapshot


FILES = {"a.safetensors": block(0, 1), "b.safetensors": block(2), "c.safetensors": block(3)}


def no_reflink(source: Path, target: Path) -> None:
    raise OSError(errno.EOPNOTSUPP, "no reflinks here")


def test_only_files_in_which_nothing_changes_are_linked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards_module, "_reflink", no_reflink)
    source = hub_cache(tmp_path, FILES)
    done = cut(source, tmp_path / "b", 2, link=True)
    first, second = (tmp_path / "b" / f"model-0000{i}-of-00002.safetensors" for i in (1, 2))
    assert first.samefile(source / "a.safetensors")
    assert not first.is_symlink()
    assert second.stat().st_nlink == 1
    assert done.warnings == (
        "model-00001-of-00002.safetensors: hard links to the original's files; a change of one "
        "would be a change of both",
    )
    cut(source, tmp_path / "c", 2)
    assert (tmp_path / "c" / first.name).stat().st_nlink == 1
    for name in (first.name, second.name):
        linked, copied = (load_file(tmp_path / folder / name) for folder in "bc")
        assert linked.keys() == copied.keys()
        assert all(np.array_equal(linked[key], copied[key]) for key in linked)


def test_a_file_that_knows_a_tensor_by_a_blocks_number_is_not_linked(tmp_path: Path) -> None:
    files = {"a.safetensors": block(0), "b.safetensors": block(1, 2, 3)}
    source = make(tmp_path / "a", files)
    save_file(block(0), source / "a.safetensors", metadata={"model.layers.3.v": "model.layers.0.w"})
    cut(source, tmp_path / "b", 1, link=True)
    assert dict(open_checkpoint(tmp_path / "b").shards[0].metadata) == {
        "model.layers.2.v": "model.layers.0.w"
    }


def test_a_file_with_a_tensor_that_is_replaced_is_not_linked(tmp_path: Path) -> None:
    files = {"a.safetensors": block(0, 1), "b.safetensors": block(2, 3)}
    opened = open_checkpoint(make(tmp_path / "a", files))
    (tmp_path / "b").mkdir()
    new = {"model.layers.0.w": np.full((2, 3), 7, dtype=np.float32).tobytes()}
    write_pruned(opened, (3,), tmp_path / "b", link=True, replace=new)
    found = load_file(tmp_path / "b" / "model-00001-of-00002.safetensors")
    assert (found["model.layers.0.w"] == 7).all()
    assert (load_file(tmp_path / "a" / "a.safetensors")["model.layers.0.w"] == 0).all()


def test_a_reflink_is_preferred_and_needs_no_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def reflink(source: Path, target: Path) -> None:
        target.write_bytes(source.read_bytes())

    monkeypatch.setattr(shards_module, "_reflink", reflink)
    done = cut(make(tmp_path / "a", FILES), tmp_path / "b", 2, link=True)
    assert done.warnings == ()
    assert (tmp_path / "b" / "model-00001-of-00002.safetensors").stat().st_nlink == 1


def test_what_can_be_neither_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def across(source: Path, target: Path) -> None:
        raise OSError(errno.EXDEV, "another file system")

    monkeypatch.setattr(shards_module, "_reflink", no_reflink)
    monkeypatch.setattr(shards_module.os, "link", across)
    done = cut(make(tmp_path / "a", FILES), tmp_path / "b", 2, link=True)
    assert done.warnings == ()
    assert open_checkpoint(tmp_path / "b").blocks == 3


def test_the_flag_links_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards_module, "_reflink", no_reflink)
    source = make(tmp_path / "a", FILES)
    depthprune: Command = run
    words = ("apply", source, "--remove", "3", "-o", tmp_path / "b")
    outcome = depthprune(capsys, *words, "--link")
    assert outcome.status == 0, outcome.err
    assert "hard links to the original's files" in outcome.err
    assert (tmp_path / "b" / "model-00001-of-00002.safetensors").samefile(source / "a.safetensors")
    # Replacing the output leaves the original alone.
    before = (source / "a.safetensors").read_bytes()
    assert depthprune(capsys, *words, "--overwrite").status == 0
    assert (source / "a.safetensors").read_bytes() == before
    assert (source / "a.safetensors").stat().st_nlink == 1


def test_when_one_file_fails_the_others_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards_module, "_SIDE_BY_SIDE", 2)
    monkeypatch.setattr(shards_module.os, "cpu_count", lambda: 2)
    ended: list[str] = []

    def write(path: Path, pieces: Any, metadata: Any, advance: Any) -> int:
        if path.name.startswith("model-00001"):
            raise OSError(errno.ENOSPC, "No space left on device")
        try:
            for _ in range(10_000):
                advance(1)
                time.sleep(0.001)
        except BaseException:
            ended.append(path.name)
            raise
        return 0

    monkeypatch.setattr(shards_module, "write_file", write)
    with pytest.raises(OSError, match="No space left"):
        cut(make(tmp_path / "a", FILES), tmp_path / "b", 0)
    assert set(ended) <= {f"model-0000{i}-of-00003.safetensors" for i in (2, 3)}
    assert ended


def test_progress_counts_every_byte_of_files_copied_side_by_side(tmp_path: Path) -> None:
    counted: list[float] = []

    class Counting:
        @contextmanager
        def step(self, label: str, total: float | None, unit: str) -> Iterator[Any]:
            counted.append(-(total or 0))
            yield self

        def advance(self, amount: float = 1.0) -> None:
            counted.append(amount)

    (tmp_path / "b").mkdir()
    source = open_checkpoint(make(tmp_path / "a", FILES))
    write_pruned(source, (1,), tmp_path / "b", progress=Counting())
    assert counted[0] == -72
    assert sum(counted) == 0


@pytest.mark.parametrize("odd", ["01", "٣", "²", "00000000000", "1" * 5_000])
def test_a_blocks_number_has_one_way_to_be_written(tmp_path: Path, odd: str) -> None:
    arrays = block(0, 1, 2, 3) | {f"model.layers.{odd}.w": np.ones(3, dtype=np.float32)}
    with pytest.raises(CheckpointError, match="writes the block's number as"):
        cut(make(tmp_path / "a", {"model.safetensors": arrays}), tmp_path / "b", 2)


def test_two_tensors_never_become_one(tmp_path: Path) -> None:
    """Of two files, so that no one header holds the name twice."""
    aliases = {"model.layers.3.v": "model.layers.3.w"}
    files = {"a.safetensors": block(0, 1, 2, 3), "b.safetensors": {"n": np.ones(3, np.float32)}}
    source = make(tmp_path / "a", files, aliases)
    arrays = {"model.layers.3.v": np.ones(3, np.float32), "n": np.ones(3, np.float32)}
    save_file(arrays, source / "b.safetensors")
    index = json.loads((source / INDEX).read_text())
    index["weight_map"]["model.layers.3.v"] = "b.safetensors"
    (source / INDEX).write_text(json.dumps(index))
    cut(source, tmp_path / "b", 2)
    names = [t.name for s in open_checkpoint(tmp_path / "b").shards for t in s.tensors]
    assert sorted(names) == sorted(set(names))


def test_one_further_name_of_two_tensors_is_refused(tmp_path: Path) -> None:
    source = make(tmp_path / "a", {"a.safetensors": block(0, 1), "b.safetensors": block(2, 3)})
    for name, stored in (("a", 1), ("b", 3)):
        arrays = block(stored - 1, stored)
        save_file(arrays, source / f"{name}.safetensors", {"v": f"model.layers.{stored}.w"})
    with pytest.raises(CheckpointError, match="two of its tensors would both be called v"):
        cut(source, tmp_path / "b", 2)


def test_what_is_written_is_read_back_before_it_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = shards_module.write_file

    def broken(path: Path, pieces: Any, metadata: Any, advance: Any) -> int:
        return write(path, list(pieces)[1:], metadata, advance)

    monkeypatch.setattr(shards_module, "write_file", broken)
    source = make(tmp_path / "a", {"model.safetensors": block(0, 1, 2, 3)})
    with pytest.raises(CheckpointError, match="does not read as it was meant, 1 tensors differ"):
        cut(source, tmp_path / "b", 2)


def test_metadata_about_tensors_by_name_is_renumbered(tmp_path: Path) -> None:
    """As torchao has it: the names in a list, and an entry for each."""
    listed = [f"model.layers.{number}.w" for number in range(4)]
    about = {name: json.dumps({"_type": "AffineQuantizedTensor"}) for name in listed}
    metadata = {"format": "pt", "tensor_names": json.dumps([*listed, "norm.w"]), **about}
    source = make(tmp_path / "a", {"model.safetensors": block(0, 1, 2, 3)}, metadata)
    cut(source, tmp_path / "b", 1)
    new = dict(open_checkpoint(tmp_path / "b").shards[0].metadata)
    assert json.loads(new.pop("tensor_names")) == [*listed[:3], "norm.w"]
    assert new == {"format": "pt", **{name: about[name] for name in listed[:3]}}
