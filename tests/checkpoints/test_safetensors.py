"""Headers are checked completely, and files are composed of byte ranges of others."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from depthprune.checkpoints import byte_copy
from depthprune.checkpoints.byte_copy import write_file
from depthprune.checkpoints.safetensors import (
    Piece,
    SafetensorsFile,
    read_header,
)
from depthprune.errors import CheckpointError


def write_raw(path: Path, header: Any, data: bytes = b"", length: int | None = None) -> Path:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(raw) if length is None else length).to_bytes(8, "little") + raw + data)
    return path


def entry(
    begin: int, end: int, dtype: str = "U8", shape: list[int] | None = None
) -> dict[str, Any]:
    return {
        "dtype": dtype,
        "shape": [end - begin] if shape is None else shape,
        "data_offsets": [begin, end],
    }


@pytest.fixture
def file(tmp_path: Path) -> Path:
    tensors = {
        "a": np.arange(12, dtype=np.float32).reshape(3, 4),
        "b": np.arange(5, dtype=np.int8),
        "empty": np.zeros((0, 3), dtype=np.float32),
        "scalar": np.array(7, dtype=np.int64),
    }
    save_file(tensors, tmp_path / "x.safetensors", metadata={"format": "pt"})
    return tmp_path / "x.safetensors"


def test_a_header_tells_names_shapes_and_absolute_offsets(file: Path) -> None:
    header = read_header(file)
    tensors = {tensor.name: tensor for tensor in header.tensors}
    assert header.metadata == {"format": "pt"}
    assert header.size == file.stat().st_size
    assert tensors["a"].shape == (3, 4)
    assert tensors["a"].nbytes == 48
    assert tensors["scalar"].elements == 1
    assert tensors["empty"].elements == 0
    raw = file.read_bytes()[tensors["a"].begin : tensors["a"].end]
    assert raw == np.arange(12, dtype=np.float32).tobytes()


def test_elements_narrower_than_a_byte_are_understood(tmp_path: Path) -> None:
    path = write_raw(tmp_path / "x", {"w": entry(0, 4, "F4", [8])}, bytes(4))
    assert read_header(path).tensors[0].elements == 8


@pytest.mark.parametrize(
    ("header", "data", "message"),
    [
        (b"{not json", b"", "corrupt header: not JSON"),
        (b"\xff\xfe{}", b"", "corrupt header: not JSON"),
        ([], b"", "expected a JSON object"),
        ({"__metadata__": {"a": 1}}, b"", "__metadata__ must map strings to strings"),
        ({"w": 3}, b"", "w needs dtype, shape and two data_offsets"),
        ({"w": {"dtype": "U8", "shape": [1]}}, b"1", "w needs dtype"),
        ({"w": entry(0, 1, "U9")}, b"1", "unknown dtype 'U9'"),
        ({"w": entry(0, 4, "F32", [2])}, bytes(4), "takes 8 bytes, and its offsets span 4"),
        ({"w": entry(0, 1, "U8", [-1])}, b"1", "no whole number"),
        ({"w": entry(-1, 0, "U8", [1])}, b"1", "no whole number"),
        ({"v": entry(0, 4), "w": entry(2, 6)}, bytes(6), "w overlaps the tensor before it"),
        ({"v": entry(0, 2), "w": entry(4, 6)}, bytes(6), "a gap of 2 bytes before w"),
        ({"w": entry(2, 6)}, bytes(6), "a gap of 2 bytes before w"),
        ({"w": entry(0, 8)}, bytes(6), "out of bounds: w ends at byte"),
        ({"w": entry(0, 4)}, bytes(6), "2 bytes belong to no tensor"),
        (b'{"w":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"w":3}', b"1", "a tensor twice"),
    ],
)
def test_a_damaged_header_is_refused(
    tmp_path: Path, header: Any, data: bytes, message: str
) -> None:
    with pytest.raises(CheckpointError, match=message):
        read_header(write_raw(tmp_path / "x.safetensors", header, data))


def test_an_oversized_header_is_refused_unread(tmp_path: Path) -> None:
    path = write_raw(tmp_path / "x", b"{}", length=1 << 60)
    with pytest.raises(CheckpointError, match="corrupt header: its length reads"):
        read_header(path)


@pytest.mark.parametrize("size", [0, 5, 8, 40])
def test_a_file_cut_inside_its_header_is_refused(file: Path, size: int) -> None:
    os.truncate(file, size)
    with pytest.raises(CheckpointError, match="truncated"):
        read_header(file)


def test_a_file_cut_inside_its_data_is_refused(file: Path) -> None:
    os.truncate(file, file.stat().st_size - 1)
    with pytest.raises(CheckpointError, match="truncated"):
        read_header(file)


def pieces_of(header: SafetensorsFile) -> list[Piece]:
    return [Piece(f"new.{t.name}", header.path, t) for t in header.tensors]


def test_a_composed_file_holds_the_same_tensors_under_new_names(file: Path, tmp_path: Path) -> None:
    header = read_header(file)
    size = write_file(tmp_path / "y", pieces_of(header), header.metadata)
    again = read_header(tmp_path / "y")
    assert size == again.size
    assert again.metadata == {"format": "pt"}
    assert int.from_bytes((tmp_path / "y").read_bytes()[:8], "little") % 8 == 0
    old, new = load_file(file), load_file(tmp_path / "y")
    assert set(new) == {f"new.{name}" for name in old}
    assert all(np.array_equal(new[f"new.{name}"], old[name]) for name in old)


def test_neighbours_of_two_files_are_each_read_from_their_own(tmp_path: Path) -> None:
    for name, value in (("a", 1), ("b", 2)):
        save_file({part: np.full(8, value, np.int8) for part in "xy"}, tmp_path / name)
    (first, _), (_, second) = (pieces_of(read_header(tmp_path / name)) for name in "ab")
    assert first.tensor.end == second.tensor.begin
    write_file(tmp_path / "c", [first, second], {})
    assert {name: array[0] for name, array in load_file(tmp_path / "c").items()} == {
        "new.x": 1,
        "new.y": 2,
    }


def test_the_widest_dtypes_come_first_so_that_all_stay_aligned(file: Path, tmp_path: Path) -> None:
    header = read_header(file)
    write_file(tmp_path / "y", reversed(pieces_of(header)), {})
    assert [t.dtype for t in read_header(tmp_path / "y").tensors if t.nbytes] == [
        "I64",
        "F32",
        "I8",
    ]


def test_neighbours_are_copied_as_one_run(file: Path) -> None:
    assert len(byte_copy._runs(pieces_of(read_header(file)))) == 1


@pytest.mark.parametrize("code", [errno.EXDEV, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL])
def test_a_kernel_that_refuses_is_replaced_by_a_buffer(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def refuse(*_args: Any, **_kwargs: Any) -> int:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "copy_file_range", refuse, raising=False)
    monkeypatch.setattr(byte_copy, "_BUFFER", 7)
    header = read_header(file)
    write_file(tmp_path / "y", pieces_of(header), header.metadata)
    assert set(load_file(tmp_path / "y")) == {f"new.{t.name}" for t in header.tensors}


def test_a_kernel_that_stops_midway_is_continued(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter([5, 3, 0])

    def short(source: int, target: int, count: int, offset_src: int) -> int:
        amount = min(next(answers), count)
        os.write(target, os.pread(source, amount, offset_src))
        return amount

    monkeypatch.setattr(os, "copy_file_range", short, raising=False)
    header = read_header(file)
    reported: list[float] = []
    write_file(tmp_path / "y", pieces_of(header), {}, reported.append)
    old, new = load_file(file), load_file(tmp_path / "y")
    assert all(np.array_equal(new[f"new.{name}"], old[name]) for name in old)
    assert sum(reported) == sum(t.nbytes for t in header.tensors)


def test_any_other_error_of_the_kernel_is_raised(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_args: Any, **_kwargs: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "copy_file_range", full, raising=False)
    header = read_header(file)
    with pytest.raises(OSError, match="No space"):
        write_file(tmp_path / "y", pieces_of(header), {})


def test_a_source_that_shrinks_while_it_is_copied_is_an_error(file: Path, tmp_path: Path) -> None:
    header = read_header(file)
    os.truncate(file, file.stat().st_size - 4)
    with pytest.raises(CheckpointError, match="ended at byte"):
        write_file(tmp_path / "y", pieces_of(header), {})
