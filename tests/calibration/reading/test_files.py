"""Files as users have them: packed, many, from pipes; everything bounded, nothing hangs."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from depthprune.calibration import (
    calibrate,
    check_files,
    parse_calibration,
)
from depthprune.calibration.reading import files, unpacking
from depthprune.calibration.sources import SOURCES, Document, read_documents
from depthprune.errors import CalibrationError
from tiny import tiny_tokenizer


def _zstandard(data: bytes) -> bytes:
    return bytes(pa.Codec("zstd").compress(data, asbytes=True))


_PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zst": _zstandard,
}


def _read(name: str, target: Path | str, /, **options: str) -> list[Document]:
    return read_documents(SOURCES.get(name), name, str(target), options)


def _refusal(name: str, target: Path | str, /, **options: str) -> str:
    with pytest.raises(CalibrationError) as caught:
        _read(name, target, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("packing", _PACKERS)
@pytest.mark.parametrize("name", ["a.{}", "a.txt.{}", "said-to-be-plain.txt"])
def test_packed_text_is_read_whatever_it_is_called(packing: str, name: str, tmp_path: Path) -> None:
    file = tmp_path / name.format(packing)
    text = "Grüße aus der Mühle.\r\n" * 300
    file.write_bytes(_PACKERS[packing]("\ufeff".encode() + text.encode()))
    assert [d.text for d in _read("text", file)] == [text]


@pytest.mark.parametrize("packing", _PACKERS)
def test_packed_rows_are_named_by_their_line(packing: str, tmp_path: Path) -> None:
    file = tmp_path / f"a.jsonl.{packing}"
    file.write_bytes(_PACKERS[packing](b'{"text": "one"}\r\n{"text": "two"}\r\n'))
    assert _read("jsonl", file) == [Document(f"{file}:1", "one"), Document(f"{file}:2", "two")]


def test_a_file_packed_in_several_members_is_read_to_its_end(tmp_path: Path) -> None:
    file = tmp_path / "a.gz"
    file.write_bytes(gzip.compress(b"one ") + gzip.compress(b"two"))
    assert _read("text", file)[0].text == "one two"


@pytest.mark.parametrize("packing", _PACKERS)
def test_a_packed_file_that_was_cut_off_is_refused(packing: str, tmp_path: Path) -> None:
    file = tmp_path / f"a.{packing}"
    data = _PACKERS[packing](os.urandom(3000).hex().encode())
    file.write_bytes(data[: len(data) // 2])
    assert "cannot be unpacked" in _refusal("text", file)


def test_what_unpacks_beyond_measure_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unpacking, "_BOMB_FROM", 2**20)
    file = tmp_path / "a.txt.gz"
    file.write_bytes(gzip.compress(bytes(2**22)))
    assert "which is no text" in _refusal("text", file)


def test_an_archive_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_bytes(b"PK\x03\x04 and more")
    assert "an archive of files; unpack it" in _refusal("text", file)


def test_zstandard_without_a_package_that_reads_it_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "a.txt.zst"
    file.write_bytes(_zstandard(b"words"))
    for name in ("compression.zstd", "zstandard", "pyarrow"):
        monkeypatch.setitem(sys.modules, name, None)
    assert "pip install 'depthprune[data]'" in _refusal("text", file)


def test_a_folder_is_one_source_in_the_order_of_its_names(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / ".hidden").mkdir()
    for name in ("2.txt", "b/1.txt", "notes.csv", ".hidden/x.txt"):
        (tmp_path / name).write_text(name, encoding="utf-8")
    (tmp_path / "1.txt.gz").write_bytes(gzip.compress(b"packed"))
    found = _read("text", tmp_path)
    assert [d.text for d in found] == ["packed", "2.txt", "b/1.txt"]
    assert [d.name for d in found] == [
        str(tmp_path / name) for name in ("1.txt.gz", "2.txt", "b/1.txt")
    ]


def test_a_pattern_is_one_source(tmp_path: Path) -> None:
    for number in (2, 1):
        (tmp_path / f"{number}.jsonl").write_text(f'{{"text": "{number}"}}', encoding="utf-8")
    (tmp_path / "other.json").write_text("[]", encoding="utf-8")
    assert [d.text for d in _read("jsonl", f"{tmp_path}/*.jsonl")] == ["1", "2"]
    check_files(parse_calibration(f"jsonl:{tmp_path}/*.jsonl"))
    with pytest.raises(CalibrationError, match="no file fits the pattern"):
        check_files(parse_calibration(f"jsonl:{tmp_path}/*.ndjson"))


def test_a_file_whose_name_looks_like_a_pattern_is_a_file(tmp_path: Path) -> None:
    file = tmp_path / "a[1].txt"
    file.write_text("words", encoding="utf-8")
    assert _read("text", file) == [Document(str(file), "words")]


@pytest.mark.parametrize(("source", "mark"), [("csv", ","), ("tsv", "\t")])
def test_tables_name_their_columns_in_their_first_row(
    source: str, mark: str, tmp_path: Path
) -> None:
    file = tmp_path / f"a.{source}"
    rows = [["id", "text"], ["7", f'"one{mark} ""two""\nlines"'], ["8", "three"]]
    text = "\r\n".join(mark.join(row) for row in rows)
    file.write_bytes(b"\xef\xbb\xbf" + text.encode())
    found = _read(source, file, id="id")
    assert [(d.name, d.text) for d in found] == [
        ("7", f'one{mark} "two"\nlines'),
        ("8", "three"),
    ]
    assert "no field 'body' (it has: id, text)" in _refusal(source, file, field="body")


def test_a_row_with_more_fields_than_columns_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text("text\none, two\n", encoding="utf-8")
    assert f"{file}:2: more fields than its 1 columns; quote what holds a ','" in _refusal(
        "csv", file
    )
    file.write_text("text;more\none, two;three\n", encoding="utf-8")
    assert "its names seem to be separated by ';', put ',' between fields" in _refusal("csv", file)


def test_a_quote_that_is_not_doubled_is_refused_by_its_line(tmp_path: Path) -> None:
    file = tmp_path / "a.tsv"
    file.write_text('text\tmore\none\ttwo\n"Three" is said\tfour\n', encoding="utf-8")
    refusal = _refusal("tsv", file)
    assert refusal.startswith(f"{file}:3: not a table")
    assert "ends with one, and has those inside it doubled" in refusal


def test_two_columns_of_one_name_are_refused_and_two_without_are_not(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text("text,text\none,two\n", encoding="utf-8")
    assert _refusal("csv", file) == f"{file}:1: two columns are called 'text'; rename one"
    file.write_text(",text,\n0,one,\n", encoding="utf-8")
    assert [d.text for d in _read("csv", file)] == ["one"]


def test_a_json_list_is_its_rows(tmp_path: Path) -> None:
    rows = [{"text": "one"}, {"text": "two"}]
    for indent in (None, 2):
        file = tmp_path / "a.json"
        file.write_text("\n" + json.dumps(rows, indent=indent), encoding="utf-8")
        assert _read("jsonl", file) == [
            Document(f"{file}[0]", "one"),
            Document(f"{file}[1]", "two"),
        ]


def test_json_nested_beyond_measure_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text('{"text":' * 99_999, encoding="utf-8")
    assert f"{file}:1: not JSON" in _refusal("jsonl", file)


def test_a_device_is_refused_at_once() -> None:
    assert "/dev/zero: expected a file, found a device" in _refusal("text", "/dev/zero")
    with pytest.raises(CalibrationError, match="found a device"):
        check_files(parse_calibration("jsonl:/dev/zero"))


def test_a_pipe_is_read_to_its_end(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_bytes(gzip.compress(b"words " * 99_999)))
    writer.start()
    try:
        assert _read("text", pipe)[0].text == "words " * 99_999
    finally:
        writer.join()


@pytest.mark.parametrize("source", ["text", "jsonl", "csv", "parquet"])
def test_a_pipe_that_nobody_writes_to_is_waited_for_only_so_long(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_SILENCE", 0.01)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    check_files(parse_calibration(f"{source}:{pipe}"))
    assert "pipe" in _refusal(source, pipe)


def test_of_a_source_beyond_the_bound_the_beginning_is_read_and_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "a.txt"
    file.write_text("é" * 4000, encoding="utf-8")
    monkeypatch.setattr(files, "MOST_TEXT", 4001)
    (document,) = _read("text", file)
    assert document.text == "é" * 2000
    assert "only its first" in document.note
    rows = tmp_path / "a.jsonl"
    rows.write_text("\n".join(f'{{"text": "number {i}"}}' for i in range(999)), encoding="utf-8")
    found = _read("jsonl", rows)
    assert 0 < len(found) < 999
    assert [bool(d.note) for d in found] == [False] * (len(found) - 1) + [True]
    drawn = calibrate(f"text:{file},windows=2,length=8", _Reader())
    assert any("only its first" in line for line in drawn.warnings())
    table = tmp_path / "a.parquet"
    parquet.write_table(pa.table({"text": ["é" * 1000] * 9}), table)
    found = _read("parquet", table)
    assert [bool(d.note) for d in found] == [False, False, True]
    items = tmp_path / "items.jsonl"
    line = '{"prompt": "Which?", "options": ["a", "b"], "answer": 0}\n'
    items.write_text(line * 999, encoding="utf-8")
    found = _read("choices", items)
    assert 0 < len(found) < 999
    assert [bool(d.note) for d in found] == [False] * (len(found) - 1) + [True]


class _Reader:
    tokenizer: Any = tiny_tokenizer()


def test_a_line_beyond_the_bound_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "LONGEST_LINE", 1000)
    file = tmp_path / "a.jsonl"
    file.write_text('{"text": "one"}\n{"text": "' + "a" * 2000 + '"}', encoding="utf-8")
    assert f"{file}:2: a line of more than 1,000 characters" in _refusal("jsonl", file)


def test_half_a_surrogate_pair_is_replaced_and_that_is_said(tmp_path: Path) -> None:
    rows = [{"text": f"Entry {i}: the ferry left late. " * 4} for i in range(30)]
    rows[3] = {"text": "It ends in half a face \ud83d and goes on. " * 4}
    file = tmp_path / "t.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    assert "face \ufffd and" in _read("jsonl", file)[3].text
    drawn = calibrate(f"jsonl:{file},windows=4,length=64", _Reader())
    assert f"{file}:4: half a surrogate pair" in " ".join(drawn.warnings())
