"""Surgery as a user asks for it: whole or not at all, and never on a guess."""

from __future__ import annotations

import errno
import json
import os
import shutil
import sys
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from depthprune.checkpoints import shard_files
from depthprune.checkpoints.checkpoint import open_checkpoint
from depthprune.errors import (
    CheckpointError,
    DepthpruneError,
    ModelError,
    OutputError,
    ParityError,
    UsageError,
)
from depthprune.manifest import Manifest, ParityRecord
from depthprune.pruning.apply import apply
from depthprune.pruning.lineage import cut_from
from tiny import save_tiny


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def assert_nothing_left(out: Path) -> None:
    assert not out.exists()
    assert not list(out.parent.glob(f".{out.name}*"))


def test_the_result_is_a_checkpoint_with_its_tokenizer_and_manifest(
    tiny_llama: Path, out: Path
) -> None:
    done = apply(tiny_llama, "1,3-4", out, command="depthprune apply")
    manifest = json.loads((out / "depthprune.json").read_text())
    assert done.removed == (1, 3, 4)
    assert open_checkpoint(out).blocks == 3
    assert manifest["removed"] == [1, 3, 4]
    assert manifest["kept"] == [0, 2, 5]
    assert manifest["command"] == "depthprune apply"
    assert manifest["model"]["name"] == str(tiny_llama)
    assert manifest["model"]["fingerprint"]
    assert manifest["parity"] is None
    assert {path.name for path in out.iterdir()} == {*manifest["files"], "depthprune.json"}
    assert "tokenizer.json" in manifest["files"]


def test_a_set_may_be_numbers_in_any_order(tiny_llama: Path, out: Path) -> None:
    assert apply(str(tiny_llama), [4, 1], str(out)).removed == (1, 4)


def test_a_cut_can_be_cut_again(tiny_llama: Path, out: Path, tmp_path: Path) -> None:
    apply(tiny_llama, "1", out)
    apply(out, "0", tmp_path / "again")
    once = open_checkpoint(tmp_path / "again").tensors
    apply(tiny_llama, "0,1", tmp_path / "both")
    assert set(once) == set(open_checkpoint(tmp_path / "both").tensors)


def test_of_a_cut_that_is_cut_again_all_that_is_gone_is_told_in_the_first_models_numbers(
    tiny_llama: Path, tmp_path: Path
) -> None:
    removed: tuple[tuple[int, ...], ...] = ((1, 4), (0, 2), (1,))
    places = [tiny_llama, *(tmp_path / str(i) for i in range(3))]
    for source, blocks, out in zip(places, removed, places[1:], strict=False):
        apply(source, blocks, out)
    found = [Manifest.read(place / "depthprune.json").model for place in places[1:]]
    assert [model.name for model in found] == [str(place) for place in places[:3]]
    firsts = [model.cut_from for model in found]
    assert firsts[0] is None
    # Of 0–5 first 0, 2, 3, 5 are left, then 2 and 5, then 2.
    assert [(f.name, f.blocks, f.removed) for f in firsts[1:] if f is not None] == [
        (str(tiny_llama), 6, [0, 1, 3, 4]),
        (str(tiny_llama), 6, [0, 1, 3, 4, 5]),
    ]


def test_of_the_first_model_all_is_told_that_finds_it_again(
    tiny_llama: Path, tmp_path: Path
) -> None:
    apply(tiny_llama, (1,), tmp_path / "cut")
    manifest = Manifest.read(tmp_path / "cut" / "depthprune.json")
    hub = {"name": "someone/some-model", "kind": "hub", "revision": "a" * 40}
    found = manifest.model_copy(update={"model": manifest.model.model_copy(update=hub)})
    found.write(tmp_path / "cut" / "depthprune.json")
    first = cut_from(tmp_path / "cut", 5, (1, 3))
    assert first is not None
    assert first.model_dump() == {
        **hub, "blocks": 6, "fingerprint": manifest.model.fingerprint, "removed": [1, 2, 4],
    }  # fmt: skip


def test_a_manifest_of_another_model_or_of_none_tells_nothing_of_a_cut(
    tiny_llama: Path, tmp_path: Path
) -> None:
    apply(tiny_llama, (1,), tmp_path / "cut")
    copy = tmp_path / "copy"
    shutil.copytree(tiny_llama, copy)
    for text in ((tmp_path / "cut" / "depthprune.json").read_text(encoding="utf-8"), "{}"):
        (copy / "depthprune.json").write_text(text, encoding="utf-8")
        assert cut_from(copy, 6, (2,)) is None
    assert cut_from(tmp_path / "cut", 5, (1, 3)) is not None


@pytest.mark.parametrize("removed", ["", "9", "1,1", "0-5", "x", [6], [], [0, 0], range(6)])
def test_a_wrong_set_leaves_nothing(tiny_llama: Path, out: Path, removed: Any) -> None:
    with pytest.raises(UsageError):
        apply(tiny_llama, removed, out)
    assert_nothing_left(out)


def _no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def _no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def _pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def _truncated(folder: Path) -> None:
    path = folder / "model.safetensors"
    os.truncate(path, path.stat().st_size - 10)


def _corrupt(folder: Path) -> None:
    with open(folder / "model.safetensors", "r+b") as file:
        file.seek(8)
        file.write(b"\0\0\0\0")


def _offsets(folder: Path, change: int) -> None:
    path = folder / "model.safetensors"
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    name = max((n for n in header if n != "__metadata__"), key=lambda n: header[n]["data_offsets"])
    begin, end = header[name]["data_offsets"]
    header[name]["data_offsets"] = [begin + change, end + change]
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + raw[8 + length :])


def _overlapping(folder: Path) -> None:
    _offsets(folder, -4)


def _out_of_bounds(folder: Path) -> None:
    _offsets(folder, 4)


def _index_outside(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder.parent / "x.safetensors")
    index = {"weight_map": {"lm_head.weight": "../x.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def _missing_shard(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    index = {"weight_map": {"lm_head.weight": "model-00001-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


@pytest.mark.parametrize(
    "damage",
    [
        _no_config,
        _no_weights,
        _pickled,
        _truncated,
        _corrupt,
        _overlapping,
        _out_of_bounds,
        _index_outside,
        _missing_shard,
    ],
)
def test_a_damaged_checkpoint_is_refused_in_one_line_and_leaves_nothing(
    tiny_llama: Path, tmp_path: Path, out: Path, damage: Any
) -> None:
    folder = Path(shutil.copytree(tiny_llama, tmp_path / "in"))
    damage(folder)
    with pytest.raises(CheckpointError) as caught:
        apply(folder, "1", out)
    assert "\n" not in str(caught.value)
    assert_nothing_left(out)


def test_a_model_without_a_list_of_blocks_is_refused(tiny_llama: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_llama, tmp_path / "in"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 7}))
    with pytest.raises(ModelError, match="no list of 7 blocks"):
        apply(folder, "1", tmp_path / "out")
    assert_nothing_left(tmp_path / "out")


def test_a_type_that_nobody_verified_needs_verify(tiny_llama: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_llama, tmp_path / "in"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "made_up"}))
    with pytest.raises(ModelError, match=r"model_type made_up: not on the list .* --verify"):
        apply(folder, "1", tmp_path / "out")
    assert_nothing_left(tmp_path / "out")


def test_a_refused_type_is_refused_with_its_reason(tmp_path: Path, out: Path) -> None:
    folder = save_tiny(tmp_path / "in", "diffllama", tokenizer=False)
    with pytest.raises(ModelError, match="diffllama: cannot be depth-pruned"):
        apply(folder, "1", out)
    assert_nothing_left(out)


def test_an_output_that_is_not_empty_is_kept(tiny_llama: Path, out: Path) -> None:
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(OutputError):
            apply(tiny_llama, "1", out, overwrite=overwrite)
    assert [path.name for path in out.iterdir()] == ["mine.txt"]


def test_overwrite_replaces_what_was_written_and_keeps_the_users_files(
    tiny_llama: Path, out: Path
) -> None:
    apply(tiny_llama, "1", out)
    (out / "mine.txt").write_text("mine")
    apply(tiny_llama, "1,2", out, overwrite=True)
    assert open_checkpoint(out).blocks == 4
    assert (out / "mine.txt").read_text() == "mine"


def test_the_checkpoint_itself_is_never_the_output(tiny_llama: Path, out: Path) -> None:
    apply(tiny_llama, "1", out)
    with pytest.raises(OutputError, match="is the checkpoint itself"):
        apply(out, "1", out, overwrite=True)
    assert open_checkpoint(out).blocks == 5


def test_a_full_disk_leaves_nothing(
    tiny_llama: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_args: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shard_files, "write_file", full)
    with pytest.raises(OutputError, match="the disk is full"):
        apply(tiny_llama, "1", out)
    assert_nothing_left(out)


def test_an_interrupt_leaves_nothing(
    tiny_llama: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_args: Any) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(shard_files, "write_file", interrupt)
    with pytest.raises(KeyboardInterrupt):
        apply(tiny_llama, "1", out)
    assert_nothing_left(out)


def _stand_in(monkeypatch: pytest.MonkeyPatch, result: ParityRecord | DepthpruneError) -> list[Any]:
    """Put a stand-in in the place of parity, and collect what it is called with."""
    calls: list[Any] = []

    def verify_checkpoint(
        original: Path, pruned: Path, removed: Sequence[int], **_: Any
    ) -> ParityRecord:
        calls.append((original, sorted(path.name for path in pruned.iterdir()), removed))
        if isinstance(result, DepthpruneError):
            raise result
        return result

    module = types.ModuleType("depthprune.models.parity")
    module.verify_checkpoint = verify_checkpoint  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "depthprune.models.parity", module)
    return calls


RECORD = ParityRecord(
    dtype="float32",
    tokens=8,
    logits_scale=1.0,
    logits_difference=0.0,
    bitwise=True,
    float32_difference=None,
    generated_tokens=4,
)


def test_verify_compares_before_anything_is_published(
    tiny_llama: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = _stand_in(monkeypatch, RECORD)
    apply(tiny_llama, "1", out, verify=True)
    assert calls[0][0] == tiny_llama
    assert "model.safetensors" in calls[0][1]
    assert calls[0][2] == (1,)
    assert json.loads((out / "depthprune.json").read_text())["parity"]["bitwise"] is True


def test_a_difference_leaves_nothing(
    tiny_llama: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _stand_in(monkeypatch, ParityError("the logits differ"))
    with pytest.raises(ParityError, match="the logits differ"):
        apply(tiny_llama, "1", out, verify=True)
    assert_nothing_left(out)
