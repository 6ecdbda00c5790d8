"""The one-line form of a calibration, and everything that can be wrong with one."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from depthprune.calibration import CalibrationSpec, parse_calibration
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
    assert (spec.weight, spec.pack, spec.bos, spec.format) == (1.0, True, "auto", "raw")


def test_every_key_is_read_with_its_type() -> None:
    line = "jsonl:a.jsonl,windows=8,length=64,order=first,seed=3,weight=0.5,pack=false,bos=true"
    spec = parse_line(f"{line},format=raw,field=body")
    assert (spec.windows, spec.length, spec.order, spec.seed) == (8, 64, "first", 3)
    assert (spec.weight, spec.pack, spec.bos, spec.format) == (0.5, False, True, "raw")
    assert spec.options == {"field": "body"}


def test_a_spec_may_be_made_of_the_keys_that_matter() -> None:
    # Without a plug-in of pydantic's, mypy knows a field's default by its name alone.
    made = CalibrationSpec(source="text", target="a.txt", tokens=64, length=32, bos=True)
    assert made == parse_line("text:a.txt,tokens=64,length=32,bos=true")


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
        ("text:a,bos=2", "bos= expects auto, true or false, got '2'"),
        (
            "text:a,format=html",
            "format= expects raw, chat, plain, zero-shot or few-shot, got",
        ),
        ("text:a,tokens=1", "tokens= expects a whole number of tokens from 2, got '1'"),
        ("text:a,mask=first", "mask= expects all, answer or last, got 'first'"),
        ("text:a,reduction=sum", "reduction= expects token, window or worst-domain, got 'sum'"),
        ("text:a,shots=-1", "shots= expects a whole number from 0, got '-1'"),
        ("text:a,shots_seed=x", "shots_seed= expects a whole number from 0, got 'x'"),
        ("text:a,min_length=1", "min_length= expects a whole number of tokens from 2, got '1'"),
        ("text:a,documents=0", "documents= expects a whole number from 1, got '0'"),
        ("text:a,dedupe=often", "dedupe= expects true or false, got 'often'"),
        ("text:a,ngram=4", "ngram= expects a whole number of words from 5, got '4'"),
        ("text:a,overlap=2", "overlap= expects a number from 0 to 1, got '2'"),
        ("text", "expected text:TARGET, got no target"),
        ("stdlib-prose:x", "takes nothing behind a colon, got 'x'"),
        ("hub:a/b,rows=0", "rows= expects a whole number from 1, got '0'"),
        ("self,temperature=0", "temperature= expects a number above 0, to 10, got '0'"),
        ("self,top_p=1.5", "top_p= expects a number above 0, to 1, got '1.5'"),
        ("self,filter=1", "filter= expects a number from 0, below 1, got '1'"),
        ("self,prefix=-1", "prefix= expects a whole number of tokens from 0, got '-1'"),
        ("self,prefix=4,prompt=a", "prompt= and prefix= are two ways to begin a text; give one"),
        ("default,seed=1", "a preset takes no keys; write its specs"),
        ("default:x", "a preset takes no keys; write its specs"),
    ],
)
def test_a_wrong_spec_is_refused_with_what_was_expected(text: str, message: str) -> None:
    assert message in _refusal(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("text:a,windows=4,tokens=900", "give windows= or tokens=, not both"),
        ("text:a,tokens=100", "tokens=100 is less than one window, of 512 tokens"),
        ("text:a,tokens=100,min_length=9", "tokens=100 is less than one window, of 512 tokens"),
        (
            "text:a,tokens=100,min_length=101,pack=false",
            "tokens=100 is less than one window, of 101 tokens",
        ),
        ("self,tokens=100", "tokens=100 is less than one window, of 512 tokens"),
        ("jsonl:a,prompt=q,answer=a,format=few-shot", "format=few-shot needs shots="),
        ("choices:a,shots=2", "shots= means nothing with format=raw; pass format=few-shot, chat"),
        ("choices:a,shots_seed=2", "shots_seed= means nothing without shots="),
        ("text:a,ngram=8", "ngram= means nothing without against=; drop it"),
        ("text:a,overlap=0.5", "overlap= means nothing without against=; drop it"),
        ("text:a,format=zero-shot", "format=zero-shot needs prompts; name their fields by"),
        ("text:a,format=chat", "format=chat needs prompts"),
        ("jsonl:a,prompt=q,answer=a,mask=answer", "mask=answer needs answers: choose a format"),
        ("text:a,mask=answer", "mask=answer needs answers: choose a format"),
        ("choices:a,reduction=token", "reduction=token means nothing for items"),
        ("choices:a,length=64", "length= means nothing with choices:; drop it"),
        ("choices:a,pack=false", "pack= means nothing with choices:; drop it"),
        ("choices:a,mask=last", "mask= means nothing with choices:; drop it"),
        ("self,order=first", "order= means nothing with self:; drop it"),
        ("self,windows=all", "windows=all never ends with text that a model writes"),
        ("self,prefix=3", "prefix= cuts from a text file; write self:FILE,prefix=N"),
        ("self:a.txt", "self:FILE is what prefixes are cut from; give prefix="),
        ("text:a,pack=false,min_length=600", "min_length=600 is more than length=512"),
        ("jsonl:a,prompt=q", "prompt= and answer= name two fields; give both"),
        ("jsonl:a,domain_field=d", "domain_field= needs windows of one document each"),
        ("jsonl:a,field=t,prompt=q,answer=a", "field= and prompt= are two ways to name the text"),
        (
            "jsonl:a,prompt=q,answer=a,format=zero-shot,pack=false",
            "pack= means nothing with format=zero-shot; drop it",
        ),
        (
            "text:a,weight=2,reduction=worst-domain",
            "weight= means nothing with reduction=worst-domain",
        ),
    ],
)
def test_keys_that_contradict_each_other_are_refused(text: str, message: str) -> None:
    assert message in _refusal(text)


def test_a_budget_below_the_length_is_enough_for_shorter_examples() -> None:
    spec = "jsonl:a,prompt=q,answer=a,format=zero-shot,tokens=100"
    assert parse_line(spec).tokens == 100
    assert parse_line("text:a,tokens=100,min_length=9,pack=false").tokens == 100


def test_a_spec_built_in_python_is_checked_as_well() -> None:
    with pytest.raises(UsageError, match="mask= means nothing with choices:"):
        parse_calibration(CalibrationSpec(source="choices", target="a", mask="last"))


def test_a_mixture_is_of_one_reduction_where_the_worst_domain_counts() -> None:
    with pytest.raises(UsageError, match="say it of every source, or of none"):
        parse_calibration(["text:a,reduction=worst-domain", "text:b"])


def test_everything_wrong_with_every_spec_is_named_at_once() -> None:
    with pytest.raises(UsageError) as caught:
        parse_calibration(["text:a,windows=x,mask=answer", "choices:b,shots=2,seed=-1", "txt:c"])
    for part in ("windows= expects", "mask=answer needs", "shots= means", "seed= expects", "'txt'"):
        assert part in str(caught.value)


def test_everything_wrong_is_named_at_once() -> None:
    refusal = _refusal("text:a,windows=x,sead=1,length=1,bos=true,bos=false")
    for part in (
        "windows= expects",
        "length= expects",
        "unknown key 'sead'",
        "bos= is given twice",
    ):
        assert part in refusal


def test_neither_an_unknown_source_nor_half_a_key_hides_what_else_is_wrong() -> None:
    refusal = _refusal("txt:a,windows=0,windws,overlap=2,seed=1,seed=1")
    for part in (
        "unknown calibration source 'txt'; did you mean 'text'?",
        "expected key=value, got 'windws'",
        "seed= is given twice",
        "windows= expects",
        "overlap= expects",
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
        "text:a.txt,windows=16,length=512,order=random,seed=0,weight=1,pack=true,bos=auto,"
        "format=raw"
    )


def test_the_line_leaves_out_what_means_nothing_for_the_source() -> None:
    line = CalibrationSpec(source="choices", target="a.jsonl", tokens=9000).line()
    assert line == "choices:a.jsonl,tokens=9000,order=random,seed=0,weight=1,bos=auto,format=raw"


def test_the_line_writes_the_rarer_keys_where_they_differ() -> None:
    spec = parse_line("text:a,mask=last,dedupe=true,against=b;c,ngram=8,overlap=0.5,domain=x")
    assert spec.against == ("b", "c")
    end = "mask=last,domain=x,dedupe=true,against=b;c,ngram=8,overlap=0.5"
    assert spec.line().endswith(f"format=raw,{end}")


def test_a_comma_in_a_value_is_written_with_a_backslash() -> None:
    spec = parse_line("self,prompt=Once\\, long ago,windows=2")
    assert (spec.options["prompt"], spec.windows) == ("Once, long ago", 2)
    assert parse_line(spec.line()) == spec


_TEXT = st.text("ab,=;\\:. ", min_size=1).map(str.strip).filter(bool)
_NAMES = _TEXT.filter(lambda text: not text.endswith("\\"))
_SHARED = {
    "seed": st.integers(0, 2**64),
    "domain": st.just("") | _NAMES,
    "against": st.lists(_NAMES.filter(lambda t: ";" not in t), max_size=2).map(tuple),
    "ngram": st.integers(5, 30),
    "overlap": st.floats(0, 1),
}


def _compared(spec: CalibrationSpec) -> CalibrationSpec:
    """With `ngram=` and `overlap=` only beside the files that they are about."""
    return spec if spec.against else spec.model_copy(update={"ngram": 13, "overlap": 0.01})


_WEIGHT = st.floats(min_value=0, exclude_min=True, allow_infinity=False)
_SPECS = (
    st.builds(
        CalibrationSpec,
        source=st.just("jsonl"),
        target=st.sampled_from(["a.jsonl", "a, b.jsonl", "C:/x.jsonl", "a,b=c.jsonl"]),
        windows=st.integers(1, 10_000) | st.just("all"),
        length=st.integers(2, 10_000),
        order=st.sampled_from(["random", "first"]),
        weight=_WEIGHT,
        pack=st.booleans(),
        bos=st.sampled_from(["auto", True, False]),
        min_length=st.none() | st.just(2),
        documents=st.none() | st.integers(1, 99),
        mask=st.sampled_from(["all", "last"]),
        reduction=st.sampled_from([None, "token", "window"]),
        dedupe=st.booleans(),
        options=st.sampled_from([{}, {"field": "body"}, {"id": "a,b"}]),
        **_SHARED,
    )
    | st.builds(
        CalibrationSpec,
        source=st.just("choices"),
        target=st.just("a.jsonl"),
        tokens=st.integers(2, 10_000),
        format=st.sampled_from(["few-shot", "chat"]),
        shots=st.integers(1, 9),
        shots_seed=st.integers(0, 9),
        weight=_WEIGHT,
        **_SHARED,
    )
    | st.builds(
        CalibrationSpec,
        source=st.just("self"),
        windows=st.integers(1, 99),
        length=st.integers(2, 99),
        mask=st.sampled_from(["all", "answer", "last"]),
        options=st.fixed_dictionaries({"prompt": _NAMES, "temperature": st.just("0.7")}),
        **_SHARED,
    )
).map(_compared)


@settings(deadline=None)
@given(_SPECS)
def test_writing_and_reading_a_line_are_inverse(spec: CalibrationSpec) -> None:
    assert parse_line(spec.line()) == spec


@settings(deadline=None)
@given(_SPECS)
def test_a_spec_survives_json(spec: CalibrationSpec) -> None:
    assert CalibrationSpec.model_validate_json(spec.model_dump_json()) == spec
