r"""Reading specs: the one-line form `SOURCE[,key=value]…`, and YAML files of them.

Both come to the same `CalibrationSpec`. Whatever is wrong is said at once, for all specs of a
mixture. A comma inside a value is written `\,`; in what stands behind the colon, a comma needs it
only before something that would look like a key.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from depthprune.calibration.reading.files import is_there, source_for, whole_text
from depthprune.calibration.rules import clashes
from depthprune.calibration.sources import SOURCES, check_target
from depthprune.calibration.spec import KEYS, CalibrationSpec
from depthprune.errors import UsageError, unknown
from depthprune.untrusted import parse_yaml, shown

_EXPECTED = {
    "source": "the name of a source",
    "target": "a text",
    "options": "texts by their keys",
    "windows": "a whole number from 1, or all",
    "tokens": "a whole number of tokens from 2",
    "length": "a whole number of tokens from 2",
    "order": "random or first",
    "seed": "a whole number from 0",
    "weight": "a number above 0",
    "pack": "true or false",
    "bos": "auto, true or false",
    "format": "raw, chat, plain, zero-shot or few-shot",
    "shots": "a whole number from 0",
    "shots_seed": "a whole number from 0",
    "min_length": "a whole number of tokens from 2",
    "documents": "a whole number from 1",
    "mask": "all, answer or last",
    "reduction": "token, window or worst-domain",
    "domain": "a text",
    "dedupe": "true or false",
    "against": "files, separated by ;",
    "ngram": "a whole number of words from 5",
    "overlap": "a number from 0 to 1",
}


class SpecProblems(UsageError):
    """What is wrong with one spec, so that several specs' problems can be told together."""


def parse_line(text: str, also: Iterable[str] = ()) -> CalibrationSpec:
    """Read the one-line form.

    Args:
        text: `SOURCE[,key=value]…`.
        also: Other names that a user may have meant by an unknown source.

    Raises:
        UsageError: Naming everything that is wrong, with what was expected.
    """
    head, pieces = _split(text)
    source, _, target = head.partition(":")
    values: dict[str, Any] = {}
    problems: list[str] = []
    for piece in pieces:
        key, equals, value = (part.strip() for part in piece.partition("="))
        if not equals or not value:
            problems.append(f"expected key=value, got {piece!r}")
        elif key in values:
            problems.append(f"{key}= is given twice; give it once")
        else:
            values[key] = value
    return _build(text, source, target, values, problems, also)


def parse_mapping(values: dict[str, Any], where: str) -> CalibrationSpec:
    """Read a spec from a YAML mapping: `source`, `target`, the keys, and `options` of the source.

    Args:
        values: The mapping.
        where: Its place, for messages.

    Raises:
        UsageError: Naming everything that is wrong, with what was expected.
    """
    values = dict(values)
    source, target = values.pop("source", ""), values.pop("target", "")
    options = values.pop("options", {})
    if not source:
        raise SpecProblems(
            f"calibration {where}: expected a source, such as source: text; got none"
        )
    if not isinstance(options, dict):
        raise SpecProblems(f"calibration {where}: options expects texts by their keys")
    problems = [f"{key}= is given twice; give it once" for key in options if key in values]
    options = {str(k): v if isinstance(v, str) else yaml_text(v) for k, v in options.items()}
    merged = {**{str(k): v for k, v in values.items()}, **options}
    return _build(where, str(source), str(target), merged, problems)


def yaml_text(value: Any) -> str:
    """A plain YAML value as the one-line form writes it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _build(
    text: str,
    source: str,
    target: str,
    values: dict[str, Any],
    problems: list[str],
    also: Iterable[str] = (),
) -> CalibrationSpec:
    if source not in SOURCES.names():
        # Which other keys there are depends on the source; what the shared ones say does not.
        names = [*SOURCES.names(), *also]
        wrong = _wrong({key: value for key, value in values.items() if key in KEYS})
        first = str(unknown("calibration source", source, names))
        # A colon may be a name's own, such as behind the letter of a drive.
        file = f"{source}:{target}" if target else source
        if is_there(file):
            first = f"{file}: a file needs its source, pass {source_for(file)}:{file}"
        raise SpecProblems("; ".join([first, *problems, *wrong.values()]))
    kind = SOURCES.get(source)
    own: dict[str, str] = {}
    keys: dict[str, Any] = {}
    for key, value in values.items():
        if key in kind.options:
            own[key] = value if isinstance(value, str) else yaml_text(value)
        elif key in KEYS:
            keys[key] = value
        else:
            problems.append(str(unknown("key", key, [*KEYS, *kind.options])))
    try:
        check_target(kind, source, target)
    except UsageError as error:
        problems.append(str(error).partition(": ")[2])
    problems += kind.check(own)
    wrong = _wrong(keys)
    problems += wrong.values()
    right = {key: value for key, value in keys.items() if key not in wrong}
    spec = CalibrationSpec(source=source, target=target, options=own, **right)
    problems += [line for line in clashes(spec) if not any(f"{key}=" in line for key in wrong)]
    if problems:
        raise SpecProblems(f"calibration {text!r}: {'; '.join(problems)}")
    return spec


def _wrong(keys: dict[str, Any]) -> dict[str, str]:
    """The shared keys whose values are not what is expected, each with words that say so."""
    try:
        CalibrationSpec(source="", target="", **keys)
    except ValidationError as error:
        found = {str(e["loc"][0]): e["input"] for e in error.errors()}
        return {
            key: f"{key}= expects {_EXPECTED[key]}, got {keys.get(key, got)!r}"
            for key, got in found.items()
        }
    return {}


def _split(text: str) -> tuple[str, list[str]]:
    pieces = re.split(r"(?<!\\),", text.strip())
    while len(pieces) > 1 and "=" not in pieces[1]:
        pieces[:2] = [",".join(pieces[:2])]
    pieces = [piece.replace("\\,", ",") for piece in pieces]
    if not pieces[0].strip():
        raise SpecProblems(f"calibration {text!r}: expected SOURCE[,key=value]…, got no source")
    return pieces[0].strip(), pieces[1:]


def is_file(text: str) -> bool:
    """Whether a `-c` names a YAML file and not a spec."""
    return Path(text).suffix in (".yaml", ".yml") and text.partition(":")[0] not in SOURCES.names()


def read_file(name: str) -> list[str | CalibrationSpec]:
    """The entries of a YAML file: one spec or a list, each a mapping or a one-line form.

    Paths are resolved against the file.

    Raises:
        CalibrationError: If the file cannot be read.
        UsageError: If it is not YAML, or holds something else.
    """
    text = whole_text(name)
    found = parse_yaml(text, name, error=UsageError)
    entries = found if isinstance(found, list) else [found]
    folder = Path(name).parent
    specs: list[str | CalibrationSpec] = []
    problems: list[str] = []
    for number, entry in enumerate(entries):
        where = f"{name}[{number}]" if isinstance(found, list) else name
        if isinstance(entry, str):
            try:
                specs.append(_line_in(entry, where, folder))
            except SpecProblems as error:
                problems.append(str(error))
        elif isinstance(entry, dict):
            try:
                specs.append(beside(parse_mapping(entry, where), folder))
            except SpecProblems as error:
                problems.append(str(error))
        else:
            problems.append(f"{where}: expected a spec, got {shown(entry, 60)}")
    if problems:
        raise UsageError("; ".join(problems))
    return specs


def _line_in(line: str, where: str, folder: Path) -> str | CalibrationSpec:
    """A one-line form within a file, its paths beside it; a preset's name as it is."""
    if is_file(line):
        raise SpecProblems(f"{where}: names another file, {line!r}; write its specs out")
    if line.replace(":", ",").split(",", 1)[0].strip() in SOURCES.names():
        return beside(parse_line(line), folder)
    return line


def beside(spec: CalibrationSpec, folder: Path) -> CalibrationSpec:
    """A spec whose files are looked for in a folder, unless their paths are absolute.

    Args:
        spec: As it was written.
        folder: Of the file that it was written in.
    """
    return _renamed(spec, lambda name: name if name.startswith("~") else str(folder / name))


def seen_from(spec: CalibrationSpec, folder: Path) -> CalibrationSpec:
    """A spec as it was written before `beside`, wherever the folder lies now.

    Args:
        spec: Of `beside`.
        folder: That was given to it.
    """

    def written(name: str) -> str:
        path = Path(name)
        return str(path.relative_to(folder)) if path.is_relative_to(folder) else name

    return _renamed(spec, written)


def _renamed(spec: CalibrationSpec, change: Callable[[str], str]) -> CalibrationSpec:
    changed: dict[str, Any] = {}
    if spec.target and SOURCES.get(spec.source).reads_file:
        changed["target"] = change(spec.target)
    if spec.against:
        changed["against"] = tuple(change(name) for name in spec.against)
    return spec.model_copy(update=changed)


def file_schema() -> dict[str, Any]:
    """JSON schema of a YAML file of specs, the sources' own options said in words."""
    spec = CalibrationSpec.model_json_schema()
    own = {name: SOURCES.get(name).options for name in SOURCES.names()}
    spec["properties"]["source"]["enum"] = list(own)
    lines = [f"{name}: {', '.join(keys)}" for name, keys in own.items() if keys]
    spec["properties"]["options"]["description"] += " " + "; ".join(lines)
    entry = {"anyOf": [{"$ref": "#/$defs/CalibrationSpec"}, {"type": "string"}]}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A depthprune calibration: one spec, or several that are mixed",
        "anyOf": [*entry["anyOf"], {"type": "array", "items": entry, "minItems": 1}],
        "$defs": {"CalibrationSpec": spec},
    }
