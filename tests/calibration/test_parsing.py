"""YAML files of specs say what the one-line form says, and are refused as clearly."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from depthprune.calibration import CalibrationSpec, file_schema, parse_calibration, parsing
from depthprune.calibration.parsing import parse_line, parse_mapping
from depthprune.calibration.spec import KEYS
from depthprune.errors import CalibrationError, UsageError

_LINES = [
    "text:wiki.txt,windows=64,length=512,seed=3,bos=true",
    "text:wiki.txt,tokens=4096,pack=false,min_length=8,mask=last,dedupe=true",
    "jsonl:a.jsonl,prompt=q,answer=a,format=few-shot,shots=4,shots_seed=2,mask=answer",
    "choices:b.jsonl,windows=all,weight=0.5,domain=science,against=c.txt;d.jsonl,ngram=8",
    "self,prompt=Once\\, long ago,temperature=0.7,top_p=0.9,filter=0,windows=4",
    "hub:owner/set,name=en,split=test,revision=v1,rows=500,documents=9",
    "stdlib-prose",
]


def _file(folder: Path, content: object, name: str = "c.yaml") -> str:
    path = folder / name
    path.write_text(
        content if isinstance(content, str) else yaml.safe_dump(content), encoding="utf-8"
    )
    return str(path)


@pytest.mark.parametrize("line", _LINES)
def test_a_mapping_and_the_line_give_the_same_spec(line: str) -> None:
    spec = parse_line(line)
    whole = yaml.safe_load(yaml.safe_dump(spec.model_dump(mode="json")))
    short = yaml.safe_load(yaml.safe_dump(spec.model_dump(mode="json", exclude_defaults=True)))
    assert parse_mapping(whole, "x") == parse_mapping(short, "x") == spec


def test_a_file_is_one_spec_or_a_mixture_of_mappings_and_lines(tmp_path: Path) -> None:
    one = _file(tmp_path, {"source": "stdlib-prose", "windows": 4})
    assert parse_calibration(one) == [CalibrationSpec(source="stdlib-prose", windows=4)]
    several = _file(tmp_path, [{"source": "stdlib-prose"}, "stdlib-code,seed=2", "default"])
    assert [spec.short() for spec in parse_calibration(several)] == [
        "stdlib-prose",
        "stdlib-code",
        "stdlib-prose",
        "stdlib-code",
    ]


def test_plain_yaml_values_need_no_quotes(tmp_path: Path) -> None:
    text = "source: hub\ntarget: owner/set\npack: no\noptions: {rows: 500, split: train}\n"
    (spec,) = parse_calibration(_file(tmp_path, text))
    assert (spec.pack, spec.options) == (False, {"rows": "500", "split": "train"})


def test_paths_are_resolved_against_the_file(tmp_path: Path) -> None:
    spec = {"source": "text", "target": "a.txt", "against": ["b.txt", "/c.txt"]}
    (found,) = parse_calibration(_file(tmp_path, spec))
    assert found.target == str(tmp_path / "a.txt")
    assert found.against == (str(tmp_path / "b.txt"), "/c.txt")
    (found,) = parse_calibration(_file(tmp_path, {"source": "hub", "target": "owner/set"}))
    assert found.target == "owner/set"


def test_paths_in_one_line_forms_are_resolved_against_the_file_too(tmp_path: Path) -> None:
    file = _file(tmp_path, ["choices:a.jsonl,against=b.txt", "text:~/c.txt", "text:/d.txt"])
    first, second, third = parse_calibration(file)
    assert (first.target, first.against) == (str(tmp_path / "a.jsonl"), (str(tmp_path / "b.txt"),))
    assert (second.target, third.target) == ("~/c.txt", "/d.txt")


def test_a_text_file_that_ends_in_yaml_is_a_text(tmp_path: Path) -> None:
    (spec,) = parse_calibration(f"text:{tmp_path / 'a.yaml'}")
    assert spec.source == "text"


@pytest.mark.parametrize(
    ("content", "messages"),
    [
        ("source: [", ["not YAML"]),
        ("source: text\nsource: text", ["not YAML", "source is given twice"]),
        ("", ["expected a spec, got None"]),
        ("- 3\n- text:a,sead=1", ["c.yaml[0]: expected a spec, got 3"]),
        ("source: txt", ["unknown calibration source 'txt'"]),
        ("target: a.txt", ["c.yaml: expected a source, such as source: text; got none"]),
        ("source: txt\nseed: -1", ["unknown calibration source 'txt'", "seed= expects", "got -1"]),
        ("- c.yaml\n- text:a,seed=x", ["names another file, 'c.yaml'", "seed= expects"]),
        ("source: text\ntarget: a\nsead: 1\nseed: x", ["unknown key 'sead'", "seed= expects"]),
        ("source: jsonl\ntarget: a\noptions: [field]", ["options expects texts by their keys"]),
        ("source: jsonl\ntarget: a\nfield: b\noptions: {field: b}", ["field= is given twice"]),
        (
            "- {source: text, target: a, seed: -1}\n- {source: text, target: b, seed: -2}",
            ["c.yaml[0]", "got -1", "c.yaml[1]", "got -2"],
        ),
    ],
)
def test_a_wrong_file_is_refused_with_everything_that_is_wrong(
    content: str, messages: list[str], tmp_path: Path
) -> None:
    with pytest.raises(UsageError) as caught:
        parse_calibration(_file(tmp_path, content))
    assert "\n" not in str(caught.value)
    for message in messages:
        assert message in str(caught.value)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match=r"none\.yml: no such file"):
        parse_calibration(str(tmp_path / "none.yml"))


def test_python_objects_in_yaml_are_not_made(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not YAML"):
        parse_calibration(_file(tmp_path, "source: !!python/object/apply:os.getcwd []"))


def test_the_schema_names_every_key_and_source() -> None:
    schema = file_schema()
    spec = schema["$defs"]["CalibrationSpec"]
    assert set(spec["properties"]) == {"source", "target", "options", *KEYS}
    assert {"text", "choices", "self"} <= set(spec["properties"]["source"]["enum"])
    assert all(field.get("description") for field in spec["properties"].values())
    assert "self: prompt, prefix, temperature" in spec["properties"]["options"]["description"]


def test_what_every_key_expects_can_be_said() -> None:
    assert set(parsing._EXPECTED) == set(CalibrationSpec.model_fields)


@pytest.mark.parametrize(
    ("name", "source"),
    [("faq.csv", "csv"), ("chats.jsonl.gz", "jsonl"), ("a.parquet", "parquet"), ("a.py", "text")],
)
def test_a_file_without_its_source_is_told_which_reads_it(
    name: str, source: str, tmp_path: Path
) -> None:
    (tmp_path / name).touch()
    with pytest.raises(UsageError, match=f"pass {source}:{tmp_path / name}"):
        parse_line(str(tmp_path / name))


def test_what_can_be_no_file_s_name_is_no_file() -> None:
    with pytest.raises(UsageError, match="unknown calibration source '999"):
        parse_line("9" * 5000)


def test_a_file_without_its_source_is_known_by_a_name_with_a_drive(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name = "C:\\data\\a.jsonl"
    monkeypatch.setattr(parsing, "is_there", lambda file: file == name)
    with pytest.raises(UsageError) as caught:
        parse_line(f"{name},windows=4")
    assert str(caught.value) == f"{name}: a file needs its source, pass jsonl:{name}"
