"""Each dimension of a calibration is exposed: as a key, in YAML, in the schema and in the docs."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from depthprune.calibration import CalibrationSpec, file_schema
from depthprune.calibration.parsing import parse_line, parse_mapping

DIMENSIONS = {
    "source, revision, split": "hub:owner/set,revision=v1,split=test,name=en,rows=500",
    "mixture weight": "text:a.txt,weight=0.25",
    "number of windows": "text:a.txt,windows=7",
    "every window": "text:a.txt,windows=all",
    "window length": "text:a.txt,length=99",
    "token budget": "text:a.txt,tokens=8192",
    "one document a window": "text:a.txt,pack=false",
    "minimum length": "text:a.txt,pack=false,min_length=20",
    "BOS": "text:a.txt,bos=true",
    "chat template": "jsonl:a.jsonl,prompt=q,answer=a,format=chat",
    "zero-shot": "jsonl:a.jsonl,prompt=q,answer=a,format=zero-shot",
    "few-shot of n examples, with worked answers": (
        "jsonl:a.jsonl,prompt=q,answer=worked,format=few-shot,shots=3,shots_seed=1"
    ),
    "domain tag": "text:a.txt,domain=law",
    "documents' own domains": "jsonl:a.jsonl,pack=false,domain_field=topic",
    "mask: answer": "jsonl:a.jsonl,prompt=q,answer=a,format=zero-shot,mask=answer",
    "mask: last": "text:a.txt,mask=last",
    "reduction: per window": "text:a.txt,reduction=window",
    "reduction: worst domain": "text:a.txt,reduction=worst-domain",
    "self-generated: prompt, temperature, top-p, filter": (
        "self,prompt=Once,temperature=0.8,top_p=0.9,filter=0.3"
    ),
    "self-generated: prefix length": "self:a.txt,prefix=8",
    "draw": "text:a.txt,seed=5",
    "order": "text:a.txt,order=first",
    "document ids": "jsonl:a.jsonl,id=url",
    "sample of documents": "text:a.txt,documents=9",
    "de-duplication": "text:a.txt,dedupe=true",
    "contamination": "text:a.txt,against=test.txt;test.jsonl,ngram=8,overlap=0.1",
}


@pytest.mark.parametrize("line", DIMENSIONS.values(), ids=DIMENSIONS)
def test_it_is_said_in_a_line_and_in_yaml_alike(line: str) -> None:
    spec = parse_line(line)
    assert spec != CalibrationSpec(source=spec.source, target=spec.target)
    assert parse_line(spec.line()) == spec
    values = yaml.safe_load(yaml.safe_dump(spec.model_dump(mode="json", exclude_defaults=True)))
    assert parse_mapping(values, "c.yaml") == spec


def test_the_list_names_every_key() -> None:
    said = {key for line in DIMENSIONS.values() for key in _keys(line)}
    assert said >= {*CalibrationSpec.model_fields} - {"source", "target", "options"}


@pytest.mark.parametrize("line", DIMENSIONS.values(), ids=DIMENSIONS)
def test_it_is_in_the_schema_and_in_the_docs(line: str) -> None:
    properties = file_schema()["$defs"]["CalibrationSpec"]["properties"]
    docs = Path(__file__).parent.parent.parent / "docs" / "calibrations.md"
    text = docs.read_text(encoding="utf-8")
    for key in _keys(line):
        assert key in properties or key in properties["options"]["description"]
        assert f"`{key}=`" in text


def _keys(line: str) -> list[str]:
    return [piece.partition("=")[0] for piece in line.split(",")[1:]]
