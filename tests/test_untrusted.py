"""What others made is read within bounds, and every failure is one line that names the file."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from depthprune.errors import CheckpointError, UsageError
from depthprune.untrusted import (
    check_inside,
    open_file,
    parse_json,
    parse_yaml,
    read_bytes,
    read_untrusted,
    shown,
)


def test_json_and_yaml_are_told_by_the_name(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"a": [1, 2.5, null, true, "b"]}')
    (tmp_path / "a.yaml").write_text("a: [1, 2.5, null, true, b]")
    (tmp_path / "bare").write_text('\ufeff{"a": 1}')
    assert read_untrusted(tmp_path / "a.json") == {"a": [1, 2.5, None, True, "b"]}
    assert read_untrusted(tmp_path / "a.yaml") == {"a": [1, 2.5, None, True, "b"]}
    assert read_untrusted(tmp_path / "bare") == {"a": 1}


@pytest.mark.parametrize(
    "text",
    [
        '{"a": Infinity}',
        '{"a": 1000000000000000019884624838656}',
        r'{"a": "\ud800"}',
        '{"time": "2001-01-01"}',
    ],
)
def test_what_transformers_writes_is_json(text: str) -> None:
    assert parse_json(text, "x.json") == json.loads(text)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('{"a": 1, "a": 2}', "a is given twice"),
        ('{"x": {"a": 1, "b": 2, "a": 1}}', "a is given twice"),
        ('{"a": ' + "9" * 5_000 + "}", "a number of 5000 digits"),
        ("[" * 100_000, "nests too deep"),
        ("[" * 500 + "]" * 500, "nests"),
        ('{"a":' * 300 + "1" + "}" * 300, "nests over 200 deep"),
        ("", "not JSON"),
        ("{", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b'{"a": "\xed\xa0\x80"}', "not JSON"),
        ("nul", "not JSON"),
    ],
)
def test_json_that_no_one_writes_is_one_line(text: str | bytes, why: str) -> None:
    with pytest.raises(CheckpointError, match=why) as raised:
        parse_json(text, "x.json")
    assert "x.json" in str(raised.value)
    assert len(str(raised.value)) < 500


def test_yaml_is_words_numbers_and_truths(tmp_path: Path) -> None:
    text = "a: 2024-01-01\nb: .inf\nc: 0x10\nd: yes\ne: ~\nf: \"\\ud83d\\ude00\"\n'1': [é]"
    assert parse_yaml(text, "x.yaml") == {
        "a": "2024-01-01",
        "b": float("inf"),
        "c": 16,
        "d": True,
        "e": None,
        "f": "\N{GRINNING FACE}",
        "1": ["é"],
    }


def test_yaml_may_repeat_itself_within_reason() -> None:
    text = "base: &b {windows: 4}\none: {<<: *b, windows: 8}\ntwo: *b"
    assert parse_yaml(text, "x.yaml")["one"] == {"windows": 8}
    assert parse_yaml(text, "x.yaml")["two"] == {"windows": 4}


BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "\n".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)
)
MERGED = "a0: &a0 {x: 1, y: 2}\n" + "\n".join(
    f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 10)}]}}" for n in range(1, 12)
)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (BOMB, "holds over 20,000 values"),
        (MERGED, "holds over 20,000 values"),
        ("a: &a [*a]", "an alias stands within what it names"),
        ("&a {b: *a}", "an alias stands within what it names"),
        ("? [1, 2]\n: 3", "a key is a list or a mapping"),
        ("? {a: b}\n: 3", "a key is a list or a mapping"),
        ("a: 1\na: 2", "a is given twice"),
        ("a: !!python/object/apply:os.system [x]", "the tag .* is not read"),
        ("a: !!binary aGVsbG8=", "the tag .* is not read"),
        ("a: !!set {x}", "the tag .* is not read"),
        ("a: !mine 1", "the tag .* is not read"),
        ("a: " + "9" * 5_000, "a number of 5000 digits"),
        ("a: 18446744073709551616", "beyond 64 bits"),
        ("a: 1" + ":59" * 3_000 + ".5", "not YAML"),
        ("[" * 3_000, "nests over"),
        ('a: "\\ud800"', "half a surrogate pair"),
        ("a: \x1b[31m", "not YAML"),
        ("a: [", "not YAML"),
        ("--- 1\n--- 2", "not YAML"),
        ("= : 3", "the tag .* is not read"),
        ("a: *b", "not YAML"),
        ("a: 0b", "a"),
    ],
)
def test_yaml_that_no_one_writes_is_one_line(text: str, why: str) -> None:
    if why == "a":
        assert parse_yaml(text, "x.yaml") == {"a": "0b"}
        return
    with pytest.raises(UsageError, match=why) as raised:
        parse_yaml(text, "x.yaml", error=UsageError)
    assert "x.yaml" in str(raised.value)
    assert len(str(raised.value)) < 500


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_a_pipe_is_refused_and_never_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "config.json")
    with pytest.raises(CheckpointError, match="expected a file, found a pipe"):
        read_untrusted(tmp_path / "config.json")


@pytest.mark.parametrize(
    ("place", "found"),
    [("/dev/zero", "a device"), (".", "a folder"), ("no\0where", "cannot be read")],
)
def test_what_is_no_file_is_refused(place: str, found: str) -> None:
    with pytest.raises(CheckpointError, match=found):
        open_file(Path(place))


def test_links_may_lead_about_within_a_folder_and_not_out_of_it(tmp_path: Path) -> None:
    inside, outside = tmp_path / "in", tmp_path / "secret"
    inside.mkdir()
    outside.write_text("mine")
    (inside / "real").write_text("theirs")
    (inside / "good").symlink_to("real")
    (inside / "bad").symlink_to("../secret")
    (inside / "round").symlink_to("round")
    (inside / "gone").symlink_to("nowhere")
    (tmp_path / "alias").symlink_to(inside)
    assert read_bytes(tmp_path / "alias" / "good", within=tmp_path / "alias") == b"theirs"
    for name, why in [("bad", "leads out of the folder"), ("gone", "a link to a missing file")]:
        with pytest.raises(CheckpointError, match=why):
            read_bytes(inside / name, within=inside)
    with pytest.raises(CheckpointError, match="round: cannot be read"):
        read_bytes(inside / "round", within=inside)


def test_a_hub_caches_blobs_belong_to_its_snapshots(tmp_path: Path) -> None:
    snapshot = tmp_path / "models--a--b" / "snapshots" / "0"
    blobs = tmp_path / "models--a--b" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    (blobs / "f00").write_text("{}")
    (snapshot / "config.json").symlink_to("../../blobs/f00")
    check_inside(snapshot / "config.json", snapshot)
    assert read_untrusted(snapshot / "config.json", within=snapshot) == {}


def test_a_file_beyond_the_bound_is_not_read(tmp_path: Path) -> None:
    with open(tmp_path / "a", "wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(CheckpointError, match="expected at most"):
        read_bytes(tmp_path / "a")


def test_a_value_is_shown_in_a_line_however_large_it_is() -> None:
    nested: list[object] = []
    for _ in range(50):
        nested = [nested] * 50
    assert len(shown(nested)) <= 120
    assert shown(10**5_000) == "a number of about 5001 digits"
    assert len(shown("x" * 10_000)) <= 120
    assert shown({"a": 1}) == "{'a': 1}"


def test_what_is_wrong_with_yaml_is_told_with_its_line() -> None:
    for text, words in (("a: 1\nb: [1\nc: {", "line 3: "), ("a: 1\na: 2", "line 2: a is given")):
        with pytest.raises(CheckpointError, match=f"x.yaml: not YAML \\({words}"):
            parse_yaml(text, "x.yaml")
