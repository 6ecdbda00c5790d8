"""A calibration's spec: every dimension of one source's draw, as data.

A spec says what is read, how it becomes windows, how windows make one loss and which draw is
taken, and nothing else: together with the source's text and the tokenizer (and, for text that a
model writes itself, the model) it fixes every token. Its own `seed` is the draw's; the search has
another. The one-line form writes the common keys out always and the others where they differ from
their defaults, so that a line stays readable and still says everything.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from depthprune.calibration.sources import SOURCES

DEFAULT_WINDOWS = 16
DEFAULT_LENGTH = 512

Reduction = Literal["token", "window", "worst-domain"]


def _names(value: Any) -> Any:
    """A list from its one-line form, `a;b`."""
    return tuple(filter(None, value.split(";"))) if isinstance(value, str) else value


class CalibrationSpec(BaseModel):
    """One source and what is drawn from it.

    Attributes are the spec's keys; `source` and `target` are what stands before the first comma,
    as in `text:wiki.txt`. `options` holds the keys that the source itself adds.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: str = Field(description="Kind of the source, such as `text` or `choices`.")
    target: str = Field(default="", description="What it reads: a file, or a data set's name.")
    windows: Annotated[int, Field(ge=1)] | Literal["all"] | None = Field(
        default=None,
        description="How many windows, or `all`: every consecutive one. 16, unless tokens= is "
        "given.",
    )
    tokens: int | None = Field(
        default=None,
        ge=2,
        description="Instead of windows=: as many whole windows as fit in so many.",
    )
    length: int = Field(
        default=DEFAULT_LENGTH, ge=2, description="Tokens in a window; at most so many where a "
        "window is one document or example.",
    )  # fmt: skip
    order: Literal["random", "first"] = Field(
        default="random", description="Seeded places that do not overlap, or one after the other."
    )
    seed: int = Field(default=0, ge=0, description="Of this draw.")
    weight: float = Field(default=1.0, gt=0, allow_inf_nan=False, description="Share in a mixture.")
    pack: bool = Field(
        default=True, description="Windows run across documents; else each lies in one."
    )
    bos: Literal["auto"] | bool = Field(
        default="auto",
        description="Whether every window begins with the BOS token; `auto`: where the model's own "
        "tokenizer puts it there.",
    )
    format: Literal["raw", "chat", "plain", "zero-shot", "few-shot"] = Field(
        default="raw", description="How text, or a prompt with its answer, becomes a window."
    )
    shots: int = Field(default=0, ge=0, description="Worked examples before each prompt.")
    shots_seed: int = Field(default=0, ge=0, description="Of the choice of examples.")
    min_length: int | None = Field(
        default=None, ge=2, description="Documents of fewer tokens are left out; with pack=false, "
        "documents from this length on make windows of their own length.",
    )  # fmt: skip
    documents: int | None = Field(
        default=None, ge=1, description="Read only a seeded sample of so many documents."
    )
    mask: Literal["all", "answer", "last"] = Field(
        default="all", description="Which tokens count: all but the first, the answer's, the last."
    )
    reduction: Reduction | None = Field(
        default=None,
        description="How windows make one loss: the mean over tokens (default), the mean over "
        "windows (default for choices), the mean of the domain that is worst.",
    )
    domain: str = Field(
        default="", description="Tag of the source's text; by default what is read."
    )
    dedupe: bool = Field(
        default=False, description="Leave out documents that repeat an earlier one."
    )
    against: Annotated[tuple[str, ...], BeforeValidator(_names)] = Field(
        default=(), description="Evaluation files that the windows are checked for overlap with."
    )
    ngram: int = Field(default=13, ge=5, description="Words in a row that two texts must share.")
    overlap: float = Field(
        default=0.01, ge=0, le=1, description="Share of windows that may overlap; 1 allows any."
    )
    options: dict[str, str] = Field(
        default_factory=dict, description="Keys that the source itself adds."
    )

    @model_validator(mode="before")
    @classmethod
    def _default_windows(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("windows") is values.get("tokens") is None:
            return {**values, "windows": DEFAULT_WINDOWS}
        return values

    def line(self) -> str:
        """The spec in its one-line form: the common keys, and what differs from its default.

        Keys that mean nothing for the source are left out.
        """
        idle = idle_keys(self)
        values: dict[str, Any] = {}
        for key, field in type(self).model_fields.items():
            value = getattr(self, key)
            if key in ("source", "target", "options") or value is None or key in idle:
                continue
            if key in _ALWAYS or value != field.get_default():
                values[key] = value
        pairs = [f"{key}={_escape(written(value))}" for key, value in values.items()]
        pairs += [f"{key}={_escape(value)}" for key, value in self.options.items()]
        return ",".join([_escape_target(self.short()), *pairs])

    def short(self) -> str:
        """What is read, without how: `text:wiki.txt`."""
        return f"{self.source}:{self.target}" if self.target else self.source

    @property
    def amount(self) -> str:
        """How much is drawn, as a key of the one-line form."""
        return f"windows={self.windows}" if self.tokens is None else f"tokens={self.tokens}"

    @property
    def consecutive(self) -> bool:
        """Whether windows are taken one after the other and not at random."""
        return self.order == "first" or self.windows == "all"


_ALWAYS = ("windows", "tokens", "length", "order", "seed", "weight", "pack", "bos", "format")

KEYS = tuple(
    key for key in CalibrationSpec.model_fields if key not in ("source", "target", "options")
)
"""The keys that every source has."""


def written(value: Any) -> str:
    """A key's value in the one-line form."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return repr(value).removesuffix(".0")
    return ";".join(value) if isinstance(value, tuple) else str(value)


def _escape(value: str) -> str:
    return value.replace(",", "\\,")


def _escape_target(head: str) -> str:
    """Only a comma that would seem to begin a key needs to be escaped."""
    first, *rest = head.split(",")
    return first + "".join(("\\," if "=" in piece else ",") + piece for piece in rest)


def idle_keys(spec: CalibrationSpec) -> frozenset[str]:
    """The keys that mean nothing for this spec's source and format."""
    kind = SOURCES.get(spec.source).kind if spec.source in SOURCES.names() else "text"
    if kind == "choices":
        return frozenset({"length", "pack", "min_length", "mask", "documents"})
    if kind == "generated":
        return frozenset({"pack", "order", "min_length", "documents", "dedupe", "bos"})
    if spec.format != "raw":
        return frozenset({"pack", "min_length", "documents"})
    return frozenset()
