"""`dp.prune` is the verb: the same set, losses and files, and not a word on either stream."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

import depthprune as dp
from command import run


@pytest.fixture
def text(tmp_path: Path) -> Path:
    file = tmp_path / "text.txt"
    lines = [f"Line {i}: the mill turns {i * i % 89} times an hour.\n" for i in range(300)]
    file.write_text("".join(lines), encoding="utf-8")
    return file


def _told(place: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((place / "depthprune.json").read_text(encoding="utf-8"))
    return found


def test_it_does_what_the_verb_does_and_prints_nothing(
    tiny_llama: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = f"text:{text},windows=6,length=24"
    manifest = dp.prune(
        tiny_llama, k=2, out=tmp_path / "one", calibration=[spec], dtype="float32", bench=False,
        memo="off", protect=(0,),
    )  # fmt: skip
    streams = capsys.readouterr()
    assert (streams.out, streams.err) == ("", "")
    words = ("prune", tiny_llama, "-k", 2, "-c", spec, "-o", tmp_path / "other", "--protect", 0)
    flags = ("--dtype", "float32", "--no-bench", "--memo", "off")
    assert run(capsys, *words, *flags).status == 0
    one, other = _told(tmp_path / "one"), _told(tmp_path / "other")
    assert manifest.removed == one["removed"] == other["removed"]
    assert 0 not in manifest.removed
    for field in ("dense", "pruned", "held_out", "blocks", "calibration", "parity", "files"):
        assert one[field] == other[field]
    assert one["search"]["trace"] == other["search"]["trace"]
    names = {path.name for path in (tmp_path / "one").iterdir()}
    assert names == {path.name for path in (tmp_path / "other").iterdir()}
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("one", "other")]
    assert weights[0] == weights[1]
    assert one["command"].startswith(f"dp.prune({str(tiny_llama)!r}, 2, out=")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "expected either -k K or --max-increase"),
        ({"k": 2, "max_increase": 0.1}, "expected either -k K or --max-increase"),
        ({"k": 2, "prompt": "  "}, "expected some words to continue"),
        ({"max_increase": -0.1}, "--max-increase: expected a share from 0"),
        ({"max_increase": float("nan")}, "--max-increase: expected a share from 0"),
        ({"k": 2, "seed": -1}, "--seed: expected from 0 to 4,294,967,295, got -1"),
        ({"k": 2, "bench_seconds": 0.0}, "--bench-seconds: expected from 1 to 86,400, got 0"),
        ({"k": 9}, "k"),
        ({"k": 2, "search": "hunch"}, "hunch"),
        ({"k": 2, "calibration": "nonsense:x"}, "nonsense"),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_is_written(
    options: dict[str, Any], message: str, tiny_llama: Path, tmp_path: Path
) -> None:
    with pytest.raises(dp.DepthpruneError, match=message):
        dp.prune(tiny_llama, out=tmp_path / "out", **options)
    assert not list(tmp_path.iterdir())


def test_what_is_there_is_left_unless_it_may_be_replaced(
    tiny_llama: Path, text: Path, tmp_path: Path
) -> None:
    spec = f"text:{text},windows=4,length=24"
    options: dict[str, Any] = {"out": tmp_path / "out", "calibration": spec, "bench": False}
    first = dp.prune(tiny_llama, k=1, **options)
    with pytest.raises(dp.OutputError, match="overwrite"):
        dp.prune(tiny_llama, k=2, **options)
    assert _told(tmp_path / "out")["removed"] == first.removed
    dp.prune(tiny_llama, k=2, overwrite=True, **options)
    assert len(_told(tmp_path / "out")["removed"]) == 2


def test_every_word_of_a_job_is_parsed_once(tiny_llama: Path, text: Path, tmp_path: Path) -> None:
    """What is parsed travels as an object; what stands for a text that was read is not a text."""
    parsers = {
        "parse_method",
        "parse_calibration",
        "parse_objective",
        "make_search",
        "parse_budget",
        "as_target",
    }
    parsed: list[tuple[str, str]] = []

    def watch(frame: Any, event: str, _: Any) -> None:
        if event == "call" and frame.f_code.co_name in parsers:
            given = frame.f_locals[frame.f_code.co_varnames[0]]
            several = [given] if isinstance(given, str | Path) else given
            if isinstance(several, list | tuple):
                words = [str(each) for each in several if isinstance(each, str | Path)]
                parsed.extend((frame.f_code.co_name, word) for word in words)

    own, other = (f"text:{text},windows={n},length=24" for n in (24, 4))
    sys.setprofile(watch)
    try:
        dp.prune(
            tiny_llama, k=2, out=tmp_path / "out", calibration=[own], also=[other],
            recover="linear", search="one-shot", objective="kl", budget="99",
            dtype="float32", bench=False, memo="off",
        )  # fmt: skip
    finally:
        sys.setprofile(None)
    # What recovery is judged by is named in the code.
    asked = [each for each in parsed if each[1] not in ("nll", "accuracy")]
    assert sorted(asked) == [
        ("as_target", str(tmp_path / "out")),
        ("make_search", "one-shot"),
        ("parse_budget", "99"),
        ("parse_calibration", own),
        ("parse_calibration", other),
        ("parse_method", "linear"),
        ("parse_objective", "kl"),
    ]


def test_what_was_said_of_a_source_is_in_the_manifest_and_on_the_page(
    tiny_llama: Path, tmp_path: Path
) -> None:
    file = tmp_path / "items.jsonl"
    rows = [
        {
            "question": f"Is {i} odd?",
            "hint": "<b>Halve it.</b>",
            "options": ["no", "yes"],
            "answer": i % 2,
        }
        for i in range(40)
    ]
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    manifest = dp.prune(
        tiny_llama, k=1, out=tmp_path / "out", calibration=[f"choices:{file},windows=8"],
        objective="option-ce", dtype="float32", bench=False, memo="off",
    )  # fmt: skip
    (part,) = manifest.calibration
    (note,) = part.notes
    assert "its 'hint' is not read" in note
    assert _told(tmp_path / "out")["calibration"][0]["notes"] == [note]
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "Of how it was read: " in page
    assert "its &#39;hint&#39; is not read" in page
