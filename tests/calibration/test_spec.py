"""The one-line form of a calibration, and everything that can be wrong with one."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from depthprune.calibration import PRESETS, CalibrationSpec, parse_calibration
from depthprune.calibration.parsing import parse_line
from depthprune.errors import UsageError

def _refusal(text: str) -> str:
    with pytest.raises(UsageError) as caught:
        parse_calibration(text)
    return str(caught.value)


def test_a_source_alone_takes_every_default() -> None:
    spec = parse_line("text:wiki.txt")
    assert spec == CalibrationSpec(source="text", target="wiki.txt")
    assert (spec.windows, spec.length, spec.order, spec.seed) == (16, 512, "random", 0)
    assert (spec.weight, spec.pack, spec.bos, spec.format) == (1.0, True, False, "raw")


def test_every_key_is_read_with_its_type() -> None:
    line = "jsonl:a.jsonl,windows=8,length=64,order=first,seed=3,weight=0.5,pack=false,bos=true"
    spec = parse_line(f"{line},format=raw,field=body")
    assert (spec.windows, spec.length, spec.order, spec.seed) == (8, 64, "first", 3)
    assert (spec.weight, spec.pack, spec.bos, spec.format) == (0.5, False, True, "raw")
    assert spec.options == {"field": "body"}


def test_windows_may_be_all() -> None:
    assert parse_line("text:a.txt,windows=all").windows == "all"


def test_spaces_around_keys_and_values_do_not_matter() -> None:
    spaced = parse_line(" text:a.txt , windows = 4 ,length= 32 ")
    assert spaced == parse_line("text:a.txt,windows=4,length=32")


def test_a_comma_in_a_path_belongs_to_the_path() -> None:
    spec = parse_line("text:a, b,c.txt,windows=4")
    assert (spec.target, spec.windows) == ("a, b,c.txt", 4)


def test_a_colon_in_a_path_belongs_to_the_path() -> None:
    assert parse_line("text:C:/wiki.txt").target == "C:/wiki.txt"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("txt:a.txt", "unknown calibration source 'txt'; did you mean 'text'?"),
        ("defualt", "unknown calibration source 'defualt'; did you mean 'default'?"),
        ("text:a,lenght=4", "unknown key 'lenght'; did you mean 'length'?"),
        ("text:a,field=x", "unknown key 'field'; known: against, bos,"),
        ("text:a,source=x", "unknown key 'source'"),
        ("text:a,seed=1,seed=1", "seed= is given twice; give it once"),
        ("jsonl:a,field=x,field=y", "field= is given twice; give it once"),
        ("text:a,seed=1,seed", "expected key=value, got 'seed'"),
        ("text:a,seed=", "expected key=value, got 'seed='"),
        ("", "expected SOURCE[,key=value]…, got no source"),
        (",seed=1", "expected SOURCE[,key=value]…, got no source"),
        ("text:a,windows=0", "windows= expects a whole number from 1, or all, got '0'"),
        ("text:a,windows=some", "windows= expects a whole number from 1, or all, got 'some'"),
        ("text:a,windows=1.5", "windows= expects a whole number from 1, or all, got '1.5'"),
        ("text:a,length=1", "length= expects a whole number of tokens from 2, got '1'"),
        ("text:a,order=last", "order= expects random or first, got 'last'"),
        ("text:a,seed=-1", "seed= expects a whole number from 0, got '-1'"),
        ("text:a,weight=0", "weight= expects a number above 0, got '0'"),
        ("text:a,weight=nan", "weight= expects a number above 0, got 'nan'"),
        ("text:a,weight=inf", "weight= expects a number above 0, got 'inf'"),
        ("text:a,pack=maybe", "pack= expects true or false, got 'maybe'"),
        ("text:a,bos=2", "bos= expects true or false, got '2'"),
        ("text:a,format=html", "format= expects raw, chat, zero-shot or few-shot, got 'html'"),
        ("default,seed=1", "a preset takes no keys; write its specs"),
        ("default:x", "a preset takes no keys; write its specs"),
    ],
)
def test_a_wrong_spec_is_refused_with_what_was_expected(text: str, message: str) -> None:
    assert message in _refusal(text)


def test_everything_wrong_is_named_at_once() -> None:
    refusal = _refusal("text:a,windows=x,sead=1,length=1,bos=true,bos=false")
    for part in (
        "windows= expects",
        "length= expects",
        "unknown key 'sead'",
        "bos= is given twice",
    ):
        assert part in refusal


def test_no_calibration_at_all_is_refused() -> None:
    with pytest.raises(UsageError, match="expected at least one calibration, got none"):
        parse_calibration([])


def test_several_specs_keep_their_order() -> None:
    specs = parse_calibration(["text:b", CalibrationSpec(source="text", target="a")])
    assert [spec.target for spec in specs] == ["b", "a"]


def test_a_preset_is_written_out() -> None:
    specs = parse_calibration("default")
    assert [spec.short() for spec in specs] == ["stdlib-prose", "stdlib-code"]


def test_the_default_is_large_enough_to_outweigh_the_draw() -> None:
    specs = parse_calibration("default")
    assert sum(spec.length * int(spec.windows or 0) for spec in specs) >= 8_000


def test_a_preset_stands_beside_other_specs() -> None:
    assert len(parse_calibration(["default", "text:a.txt"])) == 3


def test_the_line_writes_every_default_out() -> None:
    line = CalibrationSpec(source="text", target="a.txt").line()
    assert line == (
        "text:a.txt,windows=16,length=512,order=random,seed=0,weight=1,pack=true,bos=false,"
        "format=raw"
    )


_SPECS = st.builds(
    CalibrationSpec,
    source=st.just("jsonl"),
    target=st.sampled_from(["a.jsonl", "a, b.jsonl", "C:/x.jsonl"]),
    windows=st.integers(1, 10_000) | st.just("all"),
    length=st.integers(2, 10_000),
    order=st.sampled_from(["random", "first"]),
    seed=st.integers(0, 2**64),
    weight=st.floats(min_value=0, exclude_min=True, allow_infinity=False),
    pack=st.booleans(),
    bos=st.booleans(),
    options=st.sampled_from([{}, {"field": "body"}]),
)


@settings(deadline=None)
@given(_SPECS)
def test_writing_and_reading_a_line_are_inverse(spec: CalibrationSpec) -> None:
    assert parse_line(spec.line()) == spec
