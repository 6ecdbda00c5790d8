"""Repeats are left out and evaluation text is found, by words and not by how they are written."""

from __future__ import annotations

import gzip
import json
import random
import tracemalloc
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from depthprune.calibration import Calibration, calibrate, overlap
from depthprune.calibration.overlap import _grams, without_repeats
from depthprune.calibration.reading.documents import Document
from depthprune.errors import CalibrationError
from tiny import tiny_tokenizer

_READER = SimpleNamespace(tokenizer=tiny_tokenizer())
_WORDS = ("river", "stone", "mill", "bridge", "town", "water", "hill", "road", "child", "plan")


def _sentence(number: int) -> str:
    return " ".join(random.Random(number).choices(_WORDS, k=20))


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """Forty documents of twenty words each."""
    file = tmp_path / "a.jsonl"
    rows = [{"text": f"{_sentence(i)}."} for i in range(40)]
    file.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return file


def _drawn(text: Path, keys: str) -> Calibration:
    spec = f"jsonl:{text},pack=false,min_length=2,windows=36,{keys}"
    return calibrate(spec, _READER)


def _evaluation(folder: Path, content: str, name: str = "test.txt") -> Path:
    (folder / name).write_text(content, encoding="utf-8")
    return folder / name


def test_other_text_overlaps_with_nothing(text: Path, tmp_path: Path) -> None:
    file = _evaluation(tmp_path, "Nothing of this was ever written about rivers and stones. " * 9)
    (part,) = _drawn(text, f"against={file}").parts
    assert part.overlap is not None
    assert (part.overlap.share, part.overlap.documents) == (0.0, ())
    assert part.overlap.words() == f"0 of 36 windows share 13 words in a row with {file}"


def test_shared_words_are_found_whatever_stands_between_them(text: Path, tmp_path: Path) -> None:
    inside = "; ".join(_sentence(7).upper().split()[2:17])
    file = _evaluation(tmp_path, f"Before. {inside} -- after.")
    (part,) = _drawn(text, f"against={file},overlap=1").parts
    assert part.overlap is not None
    assert f"{text}:8" in part.overlap.documents


def test_a_window_of_few_words_is_compared_whole_but_for_words_that_may_be_cut(
    text: Path, tmp_path: Path
) -> None:
    line = f"jsonl:{text},length=20,windows=4,overlap=1"
    known = calibrate(f"{line},against={text}", _READER).parts[0].overlap
    other = _evaluation(tmp_path, "Nothing of this was ever written. " * 9)
    unknown = calibrate(f"{line},against={other}", _READER).parts[0].overlap
    assert known is not None
    assert unknown is not None
    assert len(known.documents) > len(unknown.documents) == 0


def test_fewer_shared_words_than_asked_are_not_overlap(text: Path, tmp_path: Path) -> None:
    file = _evaluation(tmp_path, " ".join(_sentence(7).split()[3:15]))
    (part,) = _drawn(text, f"against={file},ngram=13").parts
    assert part.overlap is not None
    assert part.overlap.documents == ()
    (part,) = _drawn(text, f"against={file},ngram=12,overlap=1").parts
    assert part.overlap is not None
    assert part.overlap.documents


def test_more_overlap_than_is_allowed_is_refused(text: Path, tmp_path: Path) -> None:
    file = _evaluation(tmp_path, _sentence(7))
    with pytest.raises(CalibrationError, match=r"1 of 36 windows share 13 words in a row") as e:
        _drawn(text, f"against={file}")
    allowed = str(e.value).rpartition("pass overlap=")[2].split()[0]
    _drawn(text, f"against={file},overlap={allowed}")


def test_overlap_that_is_allowed_is_warned_of(text: Path, tmp_path: Path) -> None:
    file = _evaluation(tmp_path, _sentence(7))
    overlap, _ = _drawn(text, f"against={file},overlap=1").warnings()
    assert "of 36 windows share 13 words in a row" in overlap


def test_words_of_two_rows_are_not_in_a_row(text: Path, tmp_path: Path) -> None:
    words = _sentence(7).split()
    rows = [{"a": " ".join(words[:10])}, {"b": [" ".join(words[10:])]}]
    apart = _evaluation(tmp_path, "\n".join(map(json.dumps, rows)), "rows.jsonl")
    (part,) = _drawn(text, f"against={apart}").parts
    assert part.overlap is not None
    assert part.overlap.documents == ()
    whole = _evaluation(tmp_path, json.dumps([{"b": {"c": " ".join(words)}}]), "rows.json")
    (part,) = _drawn(text, f"against={apart};{whole},overlap=1").parts
    assert part.overlap is not None
    assert part.overlap.documents
    assert part.overlap.files == (str(apart), str(whole))


def test_what_most_windows_have_in_common_is_their_form_and_no_overlap(tmp_path: Path) -> None:
    system = f"You are {_sentence(99)}. Answer."
    rows = [{"text": f"{system} {_sentence(i)}"} for i in range(40)]
    file = tmp_path / "a.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    other = _evaluation(tmp_path, f"{system} {_sentence(40)}")
    (part,) = _drawn(file, f"against={other},length=200").parts
    assert part.overlap is not None
    assert part.overlap.documents == ()
    same = _evaluation(tmp_path, f"{system} {_sentence(7)}")
    (part,) = _drawn(file, f"against={same},length=200,overlap=1").parts
    assert part.overlap is not None
    assert part.overlap.documents == (f"{file}:8",)


def test_a_short_text_behind_what_all_have_in_common_is_compared_whole(tmp_path: Path) -> None:
    system = f"You are {_sentence(99)}. Answer."
    rows = [{"text": f"{system} {' '.join(_sentence(i).split()[:8])}"} for i in range(40)]
    file = tmp_path / "a.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    other = _evaluation(tmp_path, f"{_sentence(7)}. {' '.join(_sentence(8).split()[:4])}")
    (part,) = _drawn(file, f"against={other},length=200,overlap=1").parts
    assert part.overlap is not None
    assert part.overlap.documents == (f"{file}:8",)


def test_packed_rows_are_rows(text: Path, tmp_path: Path) -> None:
    row = json.dumps({"q": _sentence(7).replace(" ", "\n")})
    packed = tmp_path / "test.v1.jsonl.gz"
    packed.write_bytes(gzip.compress(row.encode()))
    (part,) = _drawn(text, f"against={packed},overlap=1").parts
    assert part.overlap is not None
    assert f"{text}:8" in part.overlap.documents


def test_an_item_is_known_by_its_prompt(tmp_path: Path) -> None:
    rows = [
        {"prompt": f"Which {_sentence(i)}?", "options": ["a", "b"], "answer": 0} for i in range(20)
    ]
    file = tmp_path / "items.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    other = _evaluation(tmp_path, json.dumps(rows[3] | {"options": ["c", "d"]}), "test.jsonl")
    drawn = calibrate(f"choices:{file},windows=18,against={other},overlap=1", _READER)
    assert drawn.parts[0].overlap is not None
    assert f"{file}:4" in drawn.parts[0].overlap.documents


def test_held_out_windows_are_not_judged(text: Path, tmp_path: Path) -> None:
    file = _evaluation(tmp_path, "\n\n".join(map(_sentence, range(36, 40))))
    drawn = _drawn(text, f"against={file},ngram=20")
    (held,) = drawn.held_out()
    assert held.parts[0].overlap is None


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.txt", None, "no such file"),
        ("a.json", "[", "not JSON"),
        ("b.jsonl", '{"a": 1}\n{', ":2: not JSON"),
    ],
)
def test_an_evaluation_file_that_cannot_be_read_is_refused(
    name: str, content: str | None, message: str, text: Path, tmp_path: Path
) -> None:
    if content is not None:
        _evaluation(tmp_path, content, name)
    with pytest.raises(CalibrationError, match=message):
        _drawn(text, f"against={tmp_path / name}")


def test_repeated_documents_are_left_out_whatever_their_case_and_spaces(tmp_path: Path) -> None:
    rows = [{"text": f"The  river {i % 15}\n rises."} for i in range(30)]
    rows[20]["text"] = rows[20]["text"].upper()
    file = tmp_path / "a.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    spec = f"jsonl:{file},pack=false,min_length=2,windows=all,order=first"
    (part,) = calibrate(f"{spec},dedupe=true", _READER, split="whole").parts
    assert [w.document for w in part.windows] == [f"{file}:{i}" for i in range(1, 16)]
    assert part.material.repeats == 15


def test_a_long_text_is_the_same_wherever_its_spaces_lie(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overlap, "_PIECE", 4)
    text = "a river  rises\n\n here"
    other = "another River rises here"
    spaced = [Document(str(i), " " * i + text.upper() + " " * i) for i in range(9)]
    kept = without_repeats([*spaced, Document("b", other), Document("c", "ariver rises here")])
    assert [each.name for each in kept] == ["0", "b", "c"]


def test_long_texts_are_compared_in_little_memory() -> None:
    texts = [f"{i} " + "ab cd ef gh " * 2**18 for i in range(2)]
    tracemalloc.start()
    try:
        assert len(without_repeats([Document(str(i), text) for i, text in enumerate(texts)])) == 2
        assert tracemalloc.get_traced_memory()[1] < 2**26
    finally:
        tracemalloc.stop()


def test_items_that_differ_in_an_option_are_no_repeats() -> None:
    items = [
        Document("a", "x", "Q", ("x", "y"), 0),
        Document("b", "x", "Q", ("x", "z"), 0),
        Document("c", "X", "q", ("X", "Z"), 0),
    ]
    assert [item.name for item in without_repeats(items)] == ["a", "b"]


@given(st.lists(st.sampled_from("abc"), max_size=12), st.integers(1, 5))
def test_grams_are_all_words_in_a_row(words: list[str], size: int) -> None:
    found = list(_grams(words, size))
    assert len(found) == max(0, len(words) - size + 1)
    assert all(" ".join(gram) in " ".join(words) for gram in found)
