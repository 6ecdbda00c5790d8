"""A GGUF's header is read as the package `gguf` reads it, and what is damaged is refused."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFReader, GGUFWriter
from hypothesis import given, settings
from hypothesis import strategies as st

from depthprune.checkpoints.gguf.file import (
    ARRAY,
    STRING,
    Field,
)
from depthprune.checkpoints.gguf.reader import read_gguf
from depthprune.errors import CheckpointError, DepthpruneError, ModelError
from depthprune.models.source import find_model
from gguf_tiny import tiny_gguf


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny llama of six blocks; leave it as it is."""
    fields = {"rope.freq_base": 10000.0, "flags": [True, False], "floats": [0.5, 1.5, -2.0]}
    return tiny_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf", tokenizer=True, fields=fields)


@pytest.fixture
def copy(tiny: Path, tmp_path: Path) -> Path:
    (tmp_path / "x.gguf").write_bytes(tiny.read_bytes())
    return tmp_path / "x.gguf"


def patch(path: Path, at: int, data: bytes) -> Path:
    with open(path, "r+b") as file:
        file.seek(at)
        file.write(data)
    return path


def test_metadata_and_tensors_are_what_the_gguf_package_reads(tiny: Path) -> None:
    ours, theirs = read_gguf(tiny), GGUFReader(tiny)
    named = {n: f for n, f in theirs.fields.items() if not n.startswith("GGUF.")}
    assert [entry.name for entry in ours.fields] == list(named)
    for entry in ours.fields:
        expected = named[entry.name].contents()
        if entry.kind == ARRAY and entry.item == STRING:
            assert entry.value is None
        else:
            assert entry.value == expected, entry.name
    assert [t.name for t in ours.tensors] == [t.name for t in theirs.tensors]
    for mine, other in zip(ours.tensors, theirs.tensors, strict=True):
        assert mine.begin == other.data_offset
        assert mine.end - mine.begin == other.n_bytes
        assert mine.elements == other.n_elements
        assert mine.dtype == other.tensor_type.name


def test_entries_lie_end_to_end_and_encode_to_their_own_bytes(tiny: Path) -> None:
    raw = tiny.read_bytes()
    at = 24
    for entry in read_gguf(tiny).fields:
        assert entry.begin == at
        at = entry.end
        if entry.value is not None:
            assert entry.changed(entry.value).encode() == raw[entry.begin : entry.end], entry.name


def test_a_file_says_its_architecture_and_depth(tiny: Path, tmp_path: Path) -> None:
    file = read_gguf(tiny)
    assert (file.architecture, file.blocks, file.prediction_layers) == ("llama", 6, 0)
    more = tiny_gguf(tmp_path / "m.gguf", "glm4moe", 4, 1, fields={"nextn_predict_layers": 1})
    assert (read_gguf(more).blocks, read_gguf(more).prediction_layers) == (4, 1)


def test_more_blocks_than_tensors_are_not_believed(tmp_path: Path) -> None:
    path = tiny_gguf(tmp_path / "a.gguf")
    raw = bytearray(path.read_bytes())
    entry = next(e for e in read_gguf(path).fields if e.name == "llama.block_count")
    raw[entry.end - 4 : entry.end] = (4_000_000_000).to_bytes(4, "little")
    path.write_bytes(raw)
    with pytest.raises(CheckpointError, match="block_count is 4000000000, expected a number of"):
        _ = read_gguf(path).blocks


def test_another_alignment_is_read(tmp_path: Path) -> None:
    file = read_gguf(tiny_gguf(tmp_path / "a.gguf", alignment=256))
    assert file.alignment == 256
    assert all(tensor.begin % 256 == 0 for tensor in file.tensors)


@pytest.mark.parametrize("keep", [0, 3, 4, 20, 24, 100, 2000, -40])
def test_a_truncated_file_is_refused_wherever_it_ends(copy: Path, keep: int) -> None:
    os.truncate(copy, keep % copy.stat().st_size)
    with pytest.raises(CheckpointError, match=r"damaged: (truncated|the file is empty)"):
        read_gguf(copy)


@pytest.mark.parametrize(
    ("version", "message"),
    [
        (struct.pack("<I", 4), "GGUF version 4, newer than this reader's 2 and 3"),
        (struct.pack("<I", 1), "GGUF version 1, older than"),
        (struct.pack(">I", 3), "a big-endian GGUF; convert it with gguf-convert-endian"),
    ],
)
def test_a_version_that_is_not_known_is_refused(copy: Path, version: bytes, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        read_gguf(patch(copy, 4, version))


def test_a_part_of_a_split_model_is_refused(tmp_path: Path) -> None:
    path = tiny_gguf(tmp_path / "p.gguf", fields={"split.count": 3, "split.no": 1})
    with pytest.raises(CheckpointError, match=r"part 2 of 3.*llama-gguf-split --merge"):
        read_gguf(path)


def test_one_part_of_one_is_whole(tmp_path: Path) -> None:
    assert read_gguf(tiny_gguf(tmp_path / "p.gguf", fields={"split.count": 1})).blocks == 6


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("adapter", "expected a language model, found an adapter; give the GGUF of its base, or"),
        ("mmproj", "found a projector of pictures or sound; give the GGUF of the language model"),
        ("imatrix", "found an importance matrix; give the GGUF of the model that"),
    ],
)
def test_a_gguf_of_something_else_is_refused_by_what_it_is(
    tmp_path: Path, kind: str, message: str
) -> None:
    """None of them states a depth, and what lacks one reads as damaged."""
    writer = GGUFWriter(tmp_path / "a.gguf", "llama")
    writer.add_type(kind)
    writer.add_tensor("blk.0.attn_q.weight.lora_a", np.zeros((4, 4), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    for read in (read_gguf, find_model):
        with pytest.raises(ModelError, match=message):
            read(tmp_path / "a.gguf")


def test_what_is_no_gguf_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(b"PK\x03\x04" + bytes(60))
    with pytest.raises(CheckpointError, match="does not begin with GGUF"):
        read_gguf(tmp_path / "x.gguf")
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_gguf(tmp_path / "none.gguf")


def entry_of(path: Path, name: str) -> Field:
    return next(entry for entry in read_gguf(path).fields if entry.name == name)


def test_damage_inside_the_header_is_refused(copy: Path) -> None:
    raw = copy.read_bytes()
    name = entry_of(copy, "llama.block_count")
    for at, data, message in [
        (8, struct.pack("<Q", 1 << 60), "truncated, or its header counts"),
        (name.begin, struct.pack("<Q", 1 << 62), "truncated"),
        (name.begin + 8 + len(name.name), struct.pack("<I", 99), "has the unknown type 99"),
        (name.begin + 8, b"llama.vocab_Count", "block_count is None"),
        (raw.index(b"blk.1.attn_q"), b"blk.0.attn_q", "names the tensor blk.0.attn_q.weight twice"),
        (raw.index(b"general.name"), b"tiny.content", ""),
    ]:
        copy.write_bytes(raw)
        patch(copy, at, data)
        if message:
            with pytest.raises(CheckpointError, match=message):
                _ = read_gguf(copy).blocks
        else:
            assert read_gguf(copy).get("tiny.content") == "tiny"


def test_overlapping_tensors_are_refused(copy: Path) -> None:
    at = copy.read_bytes().index(b"blk.0.attn_k.weight") + len("blk.0.attn_k.weight")
    patch(copy, at + 4 + 2 * 8 + 4, struct.pack("<Q", 0))
    with pytest.raises(CheckpointError, match="overlaps the tensor before it"):
        read_gguf(copy)


def test_a_tensor_type_that_is_not_known_is_refused(copy: Path) -> None:
    at = copy.read_bytes().index(b"blk.0.attn_k.weight") + len("blk.0.attn_k.weight")
    patch(copy, at + 4 + 2 * 8, struct.pack("<I", 9999))
    with pytest.raises(ModelError, match="type 9999, which the installed gguf package does not"):
        read_gguf(copy)


def test_finding_a_model_reads_the_same_header(tiny: Path) -> None:
    source = find_model(tiny)
    assert (source.kind, source.model_type, source.blocks) == ("gguf", "llama", 6)


@settings(max_examples=60)
@given(st.data())
def test_no_damage_gives_anything_but_one_line(tiny: Path, data: st.DataObject) -> None:
    raw = bytearray(tiny.read_bytes()[:4096])
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(raw) - 8))
        raw[at : at + 8] = data.draw(st.binary(min_size=8, max_size=8))
    path = tiny.parent / "damaged.gguf"
    path.write_bytes(raw)
    with pytest.raises(DepthpruneError) as caught:
        read_gguf(path)
    assert "\n" not in str(caught.value)
