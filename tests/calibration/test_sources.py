"""Sources give documents from real files, and refuse what they cannot read in one line."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from depthprune.calibration.reading import unpacking
from depthprune.calibration.sources import SOURCES, Document, read_documents
from depthprune.errors import CalibrationError, UsageError


def _read(name: str, target: Path | str = "", /, **options: str) -> list[Document]:
    return read_documents(SOURCES.get(name), name, str(target), options)


def _refusal(name: str, target: Path | str = "", /, **options: str) -> str:
    with pytest.raises(CalibrationError) as caught:
        _read(name, target, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def _lines(path: Path, *rows: Any) -> Path:
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n", encoding="utf-8")
    return path


def _table(path: Path, **columns: list[Any]) -> Path:
    parquet.write_table(pa.table(columns), path)
    return path


def test_a_text_file_is_one_document(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("Grüße\n\nzweite Zeile\n", encoding="utf-8")
    assert _read("text", file) == [Document(str(file), "Grüße\n\nzweite Zeile\n")]


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_bytes(b"\xef\xbb\xbfabc")
    assert _read("text", file)[0].text == "abc"


def test_a_tilde_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "a.txt").write_text("at home", encoding="utf-8")
    assert _read("text", "~/a.txt")[0].text == "at home"


@pytest.mark.parametrize("source", ["text", "jsonl", "parquet"])
def test_a_missing_file_is_refused(source: str, tmp_path: Path) -> None:
    assert "no such file; check the path" in _refusal(source, tmp_path / "none")


@pytest.mark.parametrize("source", ["text", "jsonl", "parquet"])
def test_a_folder_without_such_files_is_refused(source: str, tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(b"x")
    assert "the folder holds no ." in _refusal(source, tmp_path)


@pytest.mark.parametrize("source", ["text", "jsonl"])
@pytest.mark.parametrize("content", ["", "  \n\n "])
def test_a_file_without_text_is_refused(source: str, content: str, tmp_path: Path) -> None:
    file = tmp_path / "empty"
    file.write_text(content, encoding="utf-8")
    assert "holds no text" in _refusal(source, file)


@pytest.mark.parametrize("source", ["text", "jsonl"])
def test_what_is_not_utf_8_is_refused_with_the_byte(source: str, tmp_path: Path) -> None:
    file = tmp_path / "latin"
    file.write_bytes(b"caf\xe9 au lait")
    assert "not UTF-8 (byte 3 is 0xe9); convert it" in _refusal(source, file)


@pytest.mark.parametrize("source", ["text", "jsonl", "parquet", "hub"])
def test_a_source_that_needs_a_target_says_so(source: str) -> None:
    with pytest.raises(UsageError, match=f"expected {source}:TARGET, got no target"):
        _read(source)


def test_a_source_without_a_target_takes_none() -> None:
    with pytest.raises(UsageError, match="takes nothing behind a colon, got 'x'"):
        _read("stdlib-prose", "x")


def test_json_lines_are_documents_named_by_their_line(tmp_path: Path) -> None:
    file = _lines(tmp_path / "a.jsonl", {"text": "one"}, {"text": "three"})
    file.write_text(file.read_text().replace("\n", "\n\n", 1), encoding="utf-8")
    assert _read("jsonl", file) == [Document(f"{file}:1", "one"), Document(f"{file}:3", "three")]


def test_json_lines_may_end_as_on_windows(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_bytes(b'{"text": "one"}\r\n{"text": "two"}\r\n')
    assert [d.text for d in _read("jsonl", file)] == ["one", "two"]


def test_a_line_separator_inside_json_text_ends_no_line(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text('{"text": "one\u2028more"}\n', encoding="utf-8")
    assert [d.text for d in _read("jsonl", file)] == ["one\u2028more"]


def test_empty_documents_are_left_out(tmp_path: Path) -> None:
    file = _lines(tmp_path / "a.jsonl", {"text": " "}, {"text": "two"})
    assert [d.name for d in _read("jsonl", file)] == [f"{file}:2"]


def test_rows_that_answer_nothing_are_left_out_and_counted(tmp_path: Path) -> None:
    rows = [{"q": f"{i}?", "a": "" if i < 3 else "yes"} for i in range(9)]
    found = _read("jsonl", _lines(tmp_path / "a.jsonl", *rows), prompt="q", answer="a")
    assert [d.prompt for d in found] == [f"{i}?" for i in range(3, 9)]
    assert found[-1].note == "rows left out because they answer nothing: 3"
    assert not any(d.note for d in found[:-1])


def test_a_row_of_a_table_that_ends_early_answers_nothing(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text("q,a\n1?,yes\n2?\n", encoding="utf-8")
    (found,) = _read("csv", file, prompt="q", answer="a")
    assert (found.text, found.note) == ("yes", "rows left out because they answer nothing: 1")


def test_field_names_the_text_of_json_lines(tmp_path: Path) -> None:
    file = _lines(tmp_path / "a.jsonl", {"text": "no", "body": "yes"})
    assert [d.text for d in _read("jsonl", file, field="body")] == ["yes"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"title": 1, "body": 2}, ":2: no field 'text' (it has: body, title); name one by field="),
        (["text"], ":2: no field 'text' (it has: list)"),
        ({"q": "a", "a": "b"}, "by field=, or a question and its answer by prompt= and answer="),
        ({"text": None}, ":2: field 'text' expects text, got NoneType"),
        ({"text": ["a"]}, ":2: field 'text' expects text, got list"),
    ],
)
def test_a_line_without_the_field_is_refused_by_its_number(
    row: Any, message: str, tmp_path: Path
) -> None:
    assert message in _refusal("jsonl", _lines(tmp_path / "a.jsonl", {"text": "one"}, row))


def test_a_line_that_is_not_json_is_refused_by_its_number(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text('{"text": "one"}\n{"text": \n', encoding="utf-8")
    assert f"{file}:2: not JSON" in _refusal("jsonl", file)
    file.write_text(json.dumps({"data": [{"text": "one"}]}, indent=1), encoding="utf-8")
    assert f"{file}:1: not JSON" in _refusal("jsonl", file)
    assert "write one row a line, for example by jq" in _refusal("jsonl", file)


def test_a_file_that_is_one_object_is_to_be_written_as_rows(tmp_path: Path) -> None:
    file = _lines(tmp_path / "a.jsonl", {"rows": [{"text": "one"}], "version": 1})
    assert "write one row a line, for example by jq -c '.rows[]'" in _refusal("jsonl", file)


def test_rows_of_parquet_are_documents_named_by_their_number(tmp_path: Path) -> None:
    file = _table(tmp_path / "a.parquet", text=["one", None, "three"], other=[1, 2, 3])
    left_out = "rows left out because their text is null: 1"
    assert _read("parquet", file) == [
        Document(f"{file}:0", "one"),
        Document(f"{file}:2", "three", note=left_out),
    ]


def test_field_names_the_text_of_parquet(tmp_path: Path) -> None:
    file = _table(tmp_path / "a.parquet", text=["no"], body=["yes"])
    assert [d.text for d in _read("parquet", file, field="body")] == ["yes"]


def test_parquet_without_the_field_is_refused_with_those_it_has(tmp_path: Path) -> None:
    file = _table(tmp_path / "a.parquet", title=["a"], body=["b"])
    assert "no field 'text' (it has: body, title); name one by field=" in _refusal("parquet", file)


def test_parquet_whose_field_is_no_text_is_refused(tmp_path: Path) -> None:
    file = _table(tmp_path / "a.parquet", text=[None, 2])
    assert f"{file}:1: field 'text' expects text, got int" in _refusal("parquet", file)


def test_a_file_that_is_no_parquet_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.parquet"
    file.write_text("not at all", encoding="utf-8")
    assert "not a Parquet file" in _refusal("parquet", file)


def test_parquet_whose_text_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    column = pa.array([b"fine", b"\xff\xfe"], pa.binary())
    text = pa.StringArray.from_buffers(2, *column.buffers()[1:])
    parquet.write_table(pa.table({"text": text}), tmp_path / "a.parquet")
    assert "a.parquet: damaged ('utf-8' codec" in _refusal("parquet", tmp_path / "a.parquet")


def test_parquet_that_is_damaged_behind_its_footer_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.parquet"
    parquet.write_table(pa.table({"text": ["a", "b", "c"] * 9}), file, compression="none")
    column = parquet.read_metadata(file).row_group(0).column(0)
    # Which of the three each row is stands last, in two bits; a fourth there is not.
    end = column.dictionary_page_offset + column.total_compressed_size
    with file.open("r+b") as damaged:
        damaged.seek(end - 3)
        damaged.write(b"\xff" * 3)
    assert "a.parquet: damaged (" in _refusal("parquet", file)


def test_parquet_that_unpacks_beyond_measure_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unpacking, "_BOMB_FROM", 2**20)
    file = _table(tmp_path / "a.parquet", text=["a" * 2**18] * 64)
    assert "which is no text" in _refusal("parquet", file)


@pytest.mark.parametrize(("source", "package"), [("parquet", "pyarrow"), ("hub", "datasets")])
def test_a_missing_extra_is_named(
    source: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    assert "pip install 'depthprune[data]'" in _refusal(source, "x")


def test_a_hub_data_set_out_of_reach_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path))
    message = _refusal("hub", "depthprune/there-is-none")
    assert message.startswith("hub:depthprune/there-is-none: could not be reached or read")
    assert "use jsonl: or parquet:" in message


def test_hub_options_reach_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    asked: list[Any] = []

    def load_dataset(*arguments: Any, **options: Any) -> list[dict[str, str]]:
        asked.append((arguments, options))
        return [{"body": "one"}, {"body": "two"}]

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    options = {"name": "en", "split": "test", "field": "body", "revision": "v1"}
    documents = _read("hub", "owner/set", **options)
    assert asked == [(("owner/set", "en"), {"split": "test", "revision": "v1"})]
    assert documents == [
        Document("hub:owner/set/test:0", "one"),
        Document("hub:owner/set/test:1", "two"),
    ]


def test_a_file_that_the_hubs_client_keeps_is_read_without_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client's own layout: refs, a snapshot, a file in it."""
    import datasets
    from huggingface_hub import constants

    commit = "a" * 40
    folder = tmp_path / "datasets--owner--set"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(commit)
    snapshot = folder / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (snapshot / "rows.jsonl").write_text('{"text": "one"}\n{"text": "two"}\n{"text": "three"}\n')
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))

    def load_dataset(*arguments: Any, **options: Any) -> None:
        raise ConnectionError("no network")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    documents = _read("hub", "owner/set", files="rows.jsonl", rows="2")
    assert [document.text for document in documents] == ["one", "two"]
    assert "could not be reached" in _refusal("hub", "owner/other", files="rows.jsonl")


def test_what_is_kept_of_another_revision_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import logging

    import datasets

    def load_dataset(*arguments: Any, **options: Any) -> list[dict[str, str]]:
        logging.getLogger("datasets").warning(f"Using the latest cached version at {'b' * 40}")
        return [{"text": "one"}]

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert _read("hub", "owner/set", revision="main")[0].text == "one"
    assert "what is kept is of revision bbbb" in _refusal("hub", "owner/set", revision="a" * 40)


@pytest.mark.parametrize("name", ["stdlib-prose", "stdlib-code"])
def test_the_standard_library_is_a_source_of_much_text(name: str) -> None:
    documents = _read(name)
    assert len({d.name for d in documents}) == len(documents) > 50
    assert sum(len(d.text) for d in documents) > 300_000


def test_every_source_has_a_line_about_it() -> None:
    lines = SOURCES.describe(lambda source: source.summary)
    assert {"text", "jsonl", "parquet", "hub", "stdlib-prose", "stdlib-code"} <= set(lines)
    assert all(line and "\n" not in line for line in lines.values())
