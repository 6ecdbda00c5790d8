"""A cut of a GGUF keeps bytes, renumbers names and slices what has one entry a block."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGUFReader
from hypothesis import given, settings
from hypothesis import strategies as st

from depthprune.checkpoints.gguf import surgery
from depthprune.checkpoints.gguf.architectures import GGUF_ARCHITECTURES
from depthprune.checkpoints.gguf.reader import read_gguf
from depthprune.checkpoints.gguf.rules import check_searchable
from depthprune.checkpoints.gguf.surgery import cut_gguf, write_gguf
from depthprune.errors import CheckpointError, ModelError, OutputError, UsageError
from depthprune.pruning.apply import apply
from gguf_tiny import tiny_gguf


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny llama of six blocks with a tokenizer; leave it as it is."""
    return tiny_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf", tokenizer=True)


def cut(path: Path, out: Path, *removed: int) -> GGUFReader:
    write_gguf(cut_gguf(read_gguf(path), removed), out)
    return GGUFReader(out)


def contents(path: Path) -> dict[str, Any]:
    fields = GGUFReader(path).fields
    return {name: f.contents() for name, f in fields.items() if not name.startswith("GGUF.")}


@settings(max_examples=25)
@given(st.sets(st.integers(0, 5), min_size=1, max_size=5), st.sampled_from([32, 64]))
def test_kept_tensors_are_the_same_bytes_under_new_numbers(
    tmp_path_factory: pytest.TempPathFactory, removed: set[int], alignment: int
) -> None:
    folder = tmp_path_factory.mktemp("cut")
    path = tiny_gguf(folder / "a.gguf", alignment=alignment)
    new = {t.name: t for t in cut(path, folder / "b.gguf", *removed).tensors}
    kept = [block for block in range(6) if block not in removed]
    expected = {}
    for tensor in GGUFReader(path).tensors:
        head, _, rest = tensor.name.partition(".")
        if head != "blk":
            expected[tensor.name] = tensor
            continue
        number, rest = rest.split(".", 1)
        if int(number) in kept:
            expected[f"blk.{kept.index(int(number))}.{rest}"] = tensor
    assert list(new) == list(expected)
    for name, tensor in expected.items():
        assert new[name].tensor_type == tensor.tensor_type
        assert new[name].shape.tolist() == tensor.shape.tolist()
        assert np.array_equal(new[name].data, tensor.data)


def test_all_other_metadata_stays_as_it_was(tiny: Path, tmp_path: Path) -> None:
    cut(tiny, tmp_path / "b.gguf", 1, 3)
    assert contents(tmp_path / "b.gguf") == contents(tiny) | {"llama.block_count": 4}


def test_a_cut_of_nothing_but_the_last_block_can_be_cut_again(tiny: Path, tmp_path: Path) -> None:
    cut(tiny, tmp_path / "b.gguf", 5)
    cut(tmp_path / "b.gguf", tmp_path / "c.gguf", 0)
    cut(tiny, tmp_path / "d.gguf", 0, 5)
    assert (tmp_path / "c.gguf").read_bytes() == (tmp_path / "d.gguf").read_bytes()


def test_what_was_cut_is_told(tiny: Path, tmp_path: Path) -> None:
    done = write_gguf(cut_gguf(read_gguf(tiny), (2, 4)), tmp_path / "b.gguf")
    assert (done.removed, done.kept) == ((2, 4), (0, 1, 3, 5))
    assert done.dtype == "Q8_0"
    assert done.bytes_after == (tmp_path / "b.gguf").stat().st_size
    assert done.parameters_before - done.parameters_after == 2 * (4 * 32 * 32 + 3 * 32 * 64 + 64)


def test_arrays_with_an_entry_a_block_are_sliced(tmp_path: Path) -> None:
    heads = [4, 3, 2, 2, 1, 1]
    fields = {
        "feed_forward_length": [32, 64, 96, 128, 160, 192],
        "attention.head_count_kv": heads,
        "attention.sliding_window_pattern": [True, True, False, True, True, False],
        "xielu.alpha_n": [0.0, 1.0, 2.0, 3.0, 4.0, 5.0],
        "leading_dense_block_count": 3,
        "rope.dimension_sections": [1, 2, 3, 4, 5, 6],
    }
    path = tiny_gguf(tmp_path / "a.gguf", "apertus", fields=fields)
    before = contents(path)
    cut(path, tmp_path / "b.gguf", 1, 4)
    assert contents(tmp_path / "b.gguf") == before | {
        "apertus.block_count": 4,
        "apertus.feed_forward_length": [32, 96, 128, 192],
        "apertus.attention.head_count_kv": [4, 2, 2, 1],
        "apertus.attention.sliding_window_pattern": [True, False, True, False],
        "xielu.alpha_n": [0.0, 2.0, 3.0, 5.0],
        "apertus.leading_dense_block_count": 2,
    }


def test_an_array_that_no_rule_knows_is_cut_and_said_so(tmp_path: Path) -> None:
    path = tiny_gguf(tmp_path / "a.gguf", fields={"new_thing": [1, 2, 3, 4, 5, 6], "other": [1, 2]})
    planned = cut_gguf(read_gguf(path), (0,))
    assert planned.warnings == ("llama.new_thing has one entry a block and was cut like them",)
    values = {entry.name: entry.value for entry in planned.fields}
    assert values["llama.new_thing"] == [2, 3, 4, 5, 6]
    assert values["llama.other"] == [1, 2]


def test_an_array_of_another_length_than_the_depth_is_refused(tmp_path: Path) -> None:
    path = tiny_gguf(tmp_path / "a.gguf", fields={"attention.head_count_kv": [1, 2, 3]})
    with pytest.raises(CheckpointError, match=r"head_count_kv has 3 entries and the model 6"):
        cut_gguf(read_gguf(path), (0,))


def test_prediction_layers_go_and_arrays_that_count_them_too(tmp_path: Path) -> None:
    fields = {"nextn_predict_layers": 1, "attention.head_count_kv": [1, 2, 3, 4, 5]}
    path = tiny_gguf(tmp_path / "a.gguf", "glm4moe", 4, extra_blocks=1, fields=fields)
    planned = cut_gguf(read_gguf(path), (2,))
    assert "1 multi-token-prediction layer(s)" in planned.warnings[0]
    reader = cut(path, tmp_path / "b.gguf", 2)
    assert {t.name.split(".")[1] for t in reader.tensors if t.name[:4] == "blk."} == set("012")
    values = contents(tmp_path / "b.gguf")
    assert values["glm4moe.block_count"] == 3
    assert values["glm4moe.nextn_predict_layers"] == 0
    assert values["glm4moe.attention.head_count_kv"] == [1, 2, 4]


def test_a_hybrid_keeps_attention_and_what_block_0_says_of_it(tmp_path: Path) -> None:
    fields = {"attention.head_count_kv": [0, 2, 0, 0, 2, 0]}
    path = tiny_gguf(tmp_path / "a.gguf", "lfm2", fields=fields)
    cut(path, tmp_path / "b.gguf", 0, 1)
    with pytest.raises(ModelError, match="no block with attention would be left"):
        cut_gguf(read_gguf(path), (1, 4))
    path = tiny_gguf(tmp_path / "c.gguf", "lfm2", fields=fields | {"shortconv.l_cache": 3})
    with pytest.raises(ModelError, match="no recurrent block would be left"):
        cut_gguf(read_gguf(path), (0, 2, 3, 5))
    fields = {"attention.head_count": [2, 0, 2, 0, 2, 0]}
    path = tiny_gguf(tmp_path / "c.gguf", "deci", fields=fields)
    cut_gguf(read_gguf(path), (0, 1))
    with pytest.raises(ModelError, match="keep block 0"):
        cut_gguf(read_gguf(path), (0,))


PERIODS = [
    ("smollm3", {}, 4, False),
    ("gpt-oss", {"attention.sliding_window": 8}, 2, False),
    ("gemma2", {}, 2, False),
    ("gemma3", {"attention.sliding_window": 8}, 6, False),
    ("gemma3", {"attention.sliding_window": 8, "attention.sliding_window_pattern": 3}, 3, False),
    ("cohere2moe", {}, 4, True),
    ("qwen3next", {"full_attention_interval": 3}, 3, False),
    ("qwen3next", {}, 4, False),
    ("llama4", {"interleave_moe_layer_step": 1}, 4, False),
    ("ernie4_5-moe", {"interleave_moe_layer_step": 2}, 2, False),
]


@pytest.mark.parametrize(("name", "fields", "period", "first"), PERIODS)
def test_a_fixed_period_must_survive(
    tmp_path: Path, name: str, fields: dict[str, Any], period: int, first: bool
) -> None:
    file = read_gguf(tiny_gguf(tmp_path / "a.gguf", name, 2 * period + 1, fields=fields))
    odd = [b for b in range(file.blocks) if b % period == (0 if first else period - 1)]
    for start in range(file.blocks - period + 1):
        cut_gguf(file, range(start, start + period))
    cut_gguf(file, (file.blocks - 1,))
    with pytest.raises(ModelError, match=rf"in {name} every {period}th block has"):
        cut_gguf(file, odd[:1])
    with pytest.raises(ModelError, match=f"remove {period} neighbouring blocks at a time"):
        cut_gguf(file, (1,))
    with pytest.raises(ModelError, match="which a search would not keep"):
        check_searchable(file, file.blocks - 1)


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("llama", {}),
        ("gemma3", {}),
        ("olmo2", {}),
        ("gemma2", {"attention.sliding_window_pattern": [True, False, True, True, False, True]}),
        ("qwen3next", {"attention.recurrent_layers": [True, True, False, True, True, False]}),
        ("ernie4_5", {"interleave_moe_layer_step": 1}),
    ],
)
def test_without_a_period_any_block_may_go(
    tmp_path: Path, name: str, fields: dict[str, Any]
) -> None:
    file = read_gguf(tiny_gguf(tmp_path / "a.gguf", name, fields=fields))
    check_searchable(file, 4)
    assert cut_gguf(file, (0, 3)).kept == (1, 2, 4, 5)


@pytest.mark.parametrize(
    ("name", "fields", "blocks", "message"),
    [
        ("gemma2", {}, 46, r"llama.cpp computes gemma2 of 46 blocks otherwise"),
        ("gemma2", {}, 48, r"so 48 blocks cannot become 46"),
        ("command-r", {}, 64, "computes command-r of 64 blocks otherwise"),
        ("deepseek2", {}, 27, "computes deepseek2 of 27 blocks otherwise"),
        ("exaone4", {}, 64, "computes exaone4 of 64 blocks otherwise"),
        ("minicpm", {}, 6, r"expected minicpm\.residual_scale, found none"),
        ("gemma4", {"attention.shared_kv_layers": 2}, 6, "shared_kv_layers is 2, which ties"),
        ("baichuan", {}, 6, "the architecture baichuan cannot be depth-pruned"),
        ("gemma3n", {}, 6, "gemma3n cannot be depth-pruned"),
        ("qwen3vl", {"n_deepstack_layers": 3}, 6, "the first 3 blocks must stay"),
    ],
)
def test_what_llama_cpp_would_misread_is_refused(
    tmp_path: Path, name: str, fields: dict[str, Any], blocks: int, message: str
) -> None:
    file = read_gguf(tiny_gguf(tmp_path / "a.gguf", name, blocks, fields=fields))
    with pytest.raises(ModelError, match=message):
        cut_gguf(file, (0, 1))


def test_minicpm_that_states_its_scale_can_be_cut(tmp_path: Path) -> None:
    path = tiny_gguf(tmp_path / "a.gguf", "minicpm", fields={"residual_scale": 0.25})
    assert len(cut_gguf(read_gguf(path), (0,)).kept) == 5


def test_a_block_without_tensors_is_refused(tmp_path: Path) -> None:
    path = tiny_gguf(tmp_path / "a.gguf")
    raw = path.read_bytes().replace(
        b"llama.block_count\x04\0\0\0\x06", b"llama.block_count\x04\0\0\0\x07"
    )
    path.write_bytes(raw)
    with pytest.raises(CheckpointError, match="block 6 has no tensor"):
        cut_gguf(read_gguf(path), (0,))
    path.write_bytes(raw.replace(b"block_count\x04\0\0\0\x07", b"block_count\x04\0\0\0\x05"))
    with pytest.raises(CheckpointError, match=r"blk\.5\..* is beyond the 5 blocks"):
        cut_gguf(read_gguf(path), (0,))


def test_apply_writes_the_manifest_and_the_page_beside_the_file(tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "sub" / "b.gguf"
    apply(tiny, "1,3", out, command="depthprune apply")
    assert [path.name for path in out.parent.iterdir() if path.name != "b.gguf"] == [
        "b.depthprune.json"
    ]
    manifest = json.loads((out.parent / "b.depthprune.json").read_text())
    assert manifest["model"]["kind"] == "gguf"
    assert manifest["model"]["model_type"] == "llama"
    assert manifest["model"]["fingerprint"]
    assert manifest["removed"] == [1, 3]
    assert manifest["dtype"] == "Q8_0"
    assert manifest["files"] == ["b.gguf"]
    assert manifest["size"]["bytes_after"] == out.stat().st_size
    assert manifest["size"]["bytes_source"] == tiny.stat().st_size


def test_verify_compares_through_transformers(tiny: Path, tmp_path: Path) -> None:
    apply(tiny, "0,3", tmp_path / "b.gguf", verify=True)
    manifest = json.loads((tmp_path / "b.depthprune.json").read_text())
    assert manifest["parity"]["bitwise"]


def test_an_architecture_that_nobody_read_needs_verify(tmp_path: Path) -> None:
    path = tiny_gguf(tmp_path / "a.gguf", "made-up")
    with pytest.raises(ModelError, match=r"made-up is not among .* --verify"):
        apply(path, "1", tmp_path / "b.gguf")
    assert [p.name for p in tmp_path.iterdir()] == ["a.gguf"]


def test_kinds_are_not_mixed(tiny: Path, tiny_llama: Path, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"give a name that ends in \.gguf"):
        apply(tiny, "1", tmp_path / "out")
    with pytest.raises(
        OutputError, match="a folder is cut into a folder; give one, or convert the whole"
    ):
        apply(tiny_llama, "1", tmp_path / "out.gguf")
    assert list(tmp_path.iterdir()) == []


def test_a_file_has_no_shards_to_link(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--link: shares the unchanged shards of a folder"):
        apply(tiny, "1", tmp_path / "b.gguf", link=True)


def test_the_model_itself_is_never_the_output(tiny: Path, tmp_path: Path) -> None:
    apply(tiny, "1", tmp_path / "b.gguf")
    raw = (tmp_path / "b.gguf").read_bytes()
    with pytest.raises(OutputError, match="is the model itself"):
        apply(tmp_path / "b.gguf", "1", tmp_path / "b.gguf", overwrite=True)
    assert (tmp_path / "b.gguf").read_bytes() == raw


def test_a_set_that_does_not_fit_leaves_nothing(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="block 6 is out of range"):
        apply(tiny, "6", tmp_path / "b.gguf")
    assert list(tmp_path.iterdir()) == []


def test_overwrite_replaces_only_what_was_written(tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "b.gguf"
    apply(tiny, "1", out)
    with pytest.raises(OutputError, match=r"b\.gguf exists"):
        apply(tiny, "2", out)
    apply(tiny, "2,3", out, overwrite=True)
    assert read_gguf(out).blocks == 4
    (tmp_path / "c.gguf").touch()
    with pytest.raises(OutputError, match=r"no c\.depthprune\.json names c\.gguf"):
        apply(tiny, "1", tmp_path / "c.gguf", overwrite=True)


def test_every_row_has_a_name_of_its_own() -> None:
    assert all(name == row.name for name, row in GGUF_ARCHITECTURES.items())
    assert len(GGUF_ARCHITECTURES) > 100


@pytest.mark.parametrize(("old", "new"), [(b"blk.4.", b"blk.04"), (b"blk.5.", b"blk.x.")])
def test_a_blocks_number_has_one_way_to_be_written(tmp_path: Path, old: bytes, new: bytes) -> None:
    raw = tiny_gguf(tmp_path / "a.gguf").read_bytes()
    name = old + b"attn_norm"
    assert name in raw
    odd = new + name[len(old) :] if new.endswith(b".") else new + b"." + name[len(old) + 1 :]
    (tmp_path / "b.gguf").write_bytes(raw.replace(name, odd, 1))
    with pytest.raises(CheckpointError, match="names no block by its number"):
        cut_gguf(read_gguf(tmp_path / "b.gguf"), (2,))


def test_room_is_asked_for_a_long_vocabulary_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    monkeypatch.setattr(surgery, "check_space", lambda _, needed: asked.append(needed))
    path = tiny_gguf(tmp_path / "a.gguf", fields={"filler": list(range(1 << 20))})
    done = write_gguf(cut_gguf(read_gguf(path), (1,)), tmp_path / "b.gguf")
    assert done.bytes_after <= asked[0] < done.bytes_after + (2 << 20)
