"""What is wrong with a spec whose keys are each right.

Together they may make no sense, or name files that are not there. Both are said before anything is
loaded.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

from depthprune.calibration.reading.files import check_target_files
from depthprune.calibration.sources import SOURCES, Source
from depthprune.calibration.spec import KEYS, CalibrationSpec, idle_keys
from depthprune.errors import UsageError


def check_spec(spec: CalibrationSpec) -> None:
    """Refuse a spec whose keys contradict each other.

    Raises:
        UsageError: Naming every contradiction.
    """
    found = clashes(spec)
    if found:
        raise UsageError(f"calibration {spec.short()!r}: {'; '.join(found)}")


def check_files(specs: Iterable[CalibrationSpec]) -> None:
    """Refuse specs that name files which cannot be opened.

    Raises:
        CalibrationError: Naming the first.
    """
    for spec in specs:
        for name in files_of(spec):
            check_target_files(name, spec.source)


def files_of(spec: CalibrationSpec) -> tuple[str, ...]:
    """Every file that a spec names: what it reads, and what its overlap is measured with."""
    read = (spec.target,) if spec.target and SOURCES.get(spec.source).reads_file else ()
    return *read, *spec.against


def clashes(spec: CalibrationSpec) -> list[str]:
    """Every way in which a spec's keys contradict each other, in words.

    Args:
        spec: Whose keys are each valid alone.
    """
    source = SOURCES.get(spec.source)
    idle = idle_keys(spec)
    what = f"{spec.source}:" if source.kind != "text" else f"format={spec.format}"
    found = [
        f"{key}= means nothing with {what}; drop it"
        for key in KEYS
        if key in idle and _given(spec, key)
    ]
    rules = {
        **_of_size(spec, source),
        **_of_shots(spec),
        **_of_overlap(spec),
        **_of_prompts(spec, source),
        **_of_reduction(spec, source),
        **_of_source(spec, source),
    }
    return found + [line for line, broken in rules.items() if broken]


_Rules: TypeAlias = dict[str, bool]
"""What is said where a rule is broken, and whether it is."""


def _of_size(spec: CalibrationSpec, source: Source) -> _Rules:
    shortest = _shortest_window(spec, source.kind)
    return {
        "give windows= or tokens=, not both": spec.windows is not None and spec.tokens is not None,
        f"tokens={spec.tokens} is less than one window, of {shortest} tokens": (
            spec.tokens is not None and spec.tokens < shortest
        ),
    }


def _of_shots(spec: CalibrationSpec) -> _Rules:
    return {
        "format=few-shot needs shots=, the number of examples": (
            spec.format == "few-shot" and not spec.shots
        ),
        f"shots= means nothing with format={spec.format}; pass format=few-shot, chat or plain": (
            spec.shots > 0 and spec.format not in ("few-shot", "chat", "plain")
        ),
        "shots_seed= means nothing without shots=": spec.shots_seed > 0 and not spec.shots,
    }


def _of_overlap(spec: CalibrationSpec) -> _Rules:
    return {
        f"{key}= means nothing without against=; drop it": (_given(spec, key) and not spec.against)
        for key in ("ngram", "overlap")
    }


def _of_prompts(spec: CalibrationSpec, source: Source) -> _Rules:
    # A row may say itself that it is a conversation, which is known when it is read.
    rows = source.kind == "choices" or (source.kind == "text" and "field" in source.options)
    prompts = rows and not ("field" in spec.options and spec.format in ("zero-shot", "few-shot"))
    return {
        f"format={spec.format} needs prompts; name their fields by prompt= and answer=": (
            spec.format != "raw" and not prompts
        ),
        "mask=answer needs answers: choose a format other than raw": (
            spec.mask == "answer"
            and source.kind == "text"
            and spec.format == "raw"
            and ("prompt" in spec.options or not rows)
        ),
    }


def _of_reduction(spec: CalibrationSpec, source: Source) -> _Rules:
    return {
        "reduction=token means nothing for items, each of which has one loss": (
            source.kind == "choices" and spec.reduction == "token"
        ),
        "weight= means nothing with reduction=worst-domain, which takes the worst source": (
            spec.reduction == "worst-domain" and spec.weight != 1
        ),
    }


def _of_source(spec: CalibrationSpec, source: Source) -> _Rules:
    generated, text = source.kind == "generated", source.kind == "text"
    return {
        "windows=all never ends with text that a model writes; give a number": (
            generated and spec.windows == "all"
        ),
        f"min_length={spec.min_length} is more than length={spec.length}": (
            not spec.pack and spec.min_length is not None and spec.min_length > spec.length
        ),
        "prefix= cuts from a text file; write self:FILE,prefix=N": (
            generated and _prefix(spec) and not spec.target
        ),
        "self:FILE is what prefixes are cut from; give prefix=": (
            generated and bool(spec.target) and not _prefix(spec)
        ),
        "prompt= and answer= name two fields; give both": (
            text and ("prompt" in spec.options) != ("answer" in spec.options)
        ),
        "field= and prompt= are two ways to name the text; give one": (
            text and "field" in spec.options and "prompt" in spec.options
        ),
        "domain_field= needs windows of one document each; pass pack=false": (
            "domain_field" in spec.options and text and spec.format == "raw" and spec.pack
        ),
    }


def _given(spec: CalibrationSpec, key: str) -> bool:
    """Whether a key says something other than its default."""
    return bool(getattr(spec, key) != CalibrationSpec.model_fields[key].get_default())


def _prefix(spec: CalibrationSpec) -> bool:
    return spec.options.get("prefix", "0") != "0"


def _shortest_window(spec: CalibrationSpec, kind: str) -> int:
    """Tokens of the shortest window that a spec may give, as far as it says."""
    if kind == "choices" or (kind == "text" and spec.format != "raw"):
        return 2
    if kind == "text" and not spec.pack and spec.min_length is not None:
        return spec.min_length
    return spec.length
