"""The one-line form of a calibration: `SOURCE[,key=value]…`.

A spec says what is read, how it is windowed and which draw is taken, and nothing else: together
with the source's text and the tokenizer it fixes every token. Its own `seed` is the draw's; the
search has another.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from depthprune.errors import UsageError, unknown

DEFAULT_WINDOWS = 16
DEFAULT_LENGTH = 512


class CalibrationSpec(BaseModel):
    """One source and what is drawn from it.

    Attributes are the spec's keys; `source` and `target` are what stands before the first comma,
    as in `text:wiki.txt`. `options` holds the keys that the source itself adds.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: str
    target: str = ""
    windows: Annotated[int, Field(ge=1)] | Literal["all"] = Field(
        DEFAULT_WINDOWS, description="How many windows, or `all`: every consecutive one."
    )
    length: int = Field(DEFAULT_LENGTH, ge=2, description="Tokens in a window.")
    order: Literal["random", "first"] = Field(
        "random", description="Seeded places that do not overlap, or one after the other."
    )
    seed: int = Field(0, ge=0, description="Of this draw.")
    weight: float = Field(1.0, gt=0, allow_inf_nan=False, description="Share in a mixture.")
    pack: bool = Field(True, description="Windows run across documents; else each lies in one.")
    bos: bool = Field(False, description="Every window begins with the BOS token.")
    format: Literal["raw"] = Field("raw", description="How an item becomes text.")
    options: dict[str, str] = Field(default_factory=dict)

    def line(self) -> str:
        """The spec in its one-line form, every key written out."""
        head = f"{self.source}:{self.target}" if self.target else self.source
        values = {
            "windows": self.windows,
            "length": self.length,
            "order": self.order,
            "seed": self.seed,
            "weight": repr(self.weight).removesuffix(".0"),
            "pack": str(self.pack).lower(),
            "bos": str(self.bos).lower(),
            "format": self.format,
            **self.options,
        }
        return ",".join([head, *(f"{key}={value}" for key, value in values.items())])

    def short(self) -> str:
        """What is read, without how: `text:wiki.txt`."""
        return f"{self.source}:{self.target}" if self.target else self.source


def parse_spec(text: str, options: dict[str, tuple[str, ...]]) -> CalibrationSpec:
    """Read the one-line form.

    Args:
        text: `SOURCE[,key=value]…`.
        options: For each known source, the keys that it adds.

    Raises:
        UsageError: Naming every key that is wrong, with what was expected.
    """
    head, pairs = _split(text)
    source, _, target = head.partition(":")
    if source not in options:
        raise unknown("calibration source", source, options)
    own = options[source]
    values: dict[str, Any] = {}
    extra: dict[str, str] = {}
    problems: list[str] = []
    for key, value in pairs:
        if key in extra or key in values:
            problems.append(f"{key}= is given twice; give it once")
        elif key in own:
            extra[key] = value
        elif key in _EXPECTED:
            values[key] = value
        else:
            problems.append(str(unknown("key", key, [*_EXPECTED, *own])))
    try:
        spec = CalibrationSpec(source=source, target=target, options=extra, **values)
    except ValidationError as error:
        problems.extend(_problems(error))
    if problems:
        raise UsageError(f"calibration {text!r}: {'; '.join(problems)}")
    return spec


def _split(text: str) -> tuple[str, list[tuple[str, str]]]:
    pieces = text.strip().split(",")
    while len(pieces) > 1 and "=" not in pieces[1]:
        pieces[:2] = [",".join(pieces[:2])]
    pairs = []
    for piece in pieces[1:]:
        key, equals, value = piece.partition("=")
        if not equals or not value.strip():
            raise UsageError(f"calibration {text!r}: expected key=value, got {piece!r}")
        pairs.append((key.strip(), value.strip()))
    if not pieces[0].strip():
        raise UsageError(f"calibration {text!r}: expected SOURCE[,key=value]…, got no source")
    return pieces[0].strip(), pairs


_EXPECTED = {
    "windows": "a whole number from 1, or all",
    "length": "a whole number of tokens from 2",
    "order": "random or first",
    "seed": "a whole number from 0",
    "weight": "a number above 0",
    "pack": "true or false",
    "bos": "true or false",
    "format": "raw",
}


def _problems(error: ValidationError) -> list[str]:
    wrong = {str(e["loc"][0]): e["input"] for e in error.errors()}
    return [f"{key}= expects {_EXPECTED[key]}, got {got!r}" for key, got in wrong.items()]
