"""A study's plan: the levels of each axis of its grid, written in YAML.

What the sets are judged on is named apart from what they are chosen on. Tasks of the harness and
generation cost minutes a set, so only finalists are judged on them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from depthprune.calibration.problems import ANSWER_STOPS, ANSWER_TOKENS
from depthprune.errors import UsageError
from depthprune.untrusted import LARGEST_YAML, parse_yaml, read_text, shown


def listed(value: Any) -> Any:
    """A single level as a list of one."""
    return value if isinstance(value, list) else [value]


def _draws(value: Any) -> Any:
    """A number of draws as the draws' numbers."""
    if not isinstance(value, int) or isinstance(value, bool):
        return value
    if not 1 <= value <= MOST_CELLS:
        raise ValueError(f"expected 1 to {MOST_CELLS:,}, or a list of draws; got {shown(value)}")
    return list(range(value))


def _budget(value: Any) -> Any:
    """Evaluations, which YAML reads as a number, as `--budget` takes them."""
    return str(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else value


def _generation(value: Any) -> Any:
    """A spec alone as the mapping that holds it."""
    return {"spec": value} if isinstance(value, str) else value


def is_task_file(task: str) -> bool:
    """Whether a task of the harness is a file and not a name."""
    return task.endswith((".yaml", ".yml"))


MOST_CELLS = 100_000
"""Cells of a grid, and draws. A cell is a search, so a plan with more was written by mistake."""

Level = Annotated[int, Field(ge=0)]

_MOST_PROBLEMS = 20
"""Problems of a plan that are named; the rest would be more of the same."""

FINAL_KEYS = ("finalists", "tasks", "task_items", "generate")
"""The keys of what finalists are judged on; they decide nothing about a cell."""
STATED_KEYS = ("test", "margin")
"""The keys of how the results are read; once stated, they are part of what the plan is."""


class _Keys(BaseModel):
    """Keys of a plan. `true` is no number, though Python counts it as 1."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        asked = cls.model_fields[str(info.field_name)].annotation
        if asked is not bool and any(isinstance(each, bool) for each in listed(value)):
            raise ValueError(f"expected no true or false; got {shown(value)}")
        return value


class Generation(_Keys):
    """Problems that finalists answer in their own words."""

    spec: str = Field(description="Questions and answers, with a format= that asks.")
    max_new_tokens: int = Field(ANSWER_TOKENS, ge=1, description="Tokens that an answer may have.")
    stop: Annotated[list[str], BeforeValidator(listed)] = Field(
        list(ANSWER_STOPS), description="Texts that end an answer."
    )
    split: Literal["whole", "held-out"] = Field(
        "whole", description="held-out: from the last tenth of the source, which no draw contains."
    )


class Margin(_Keys):
    """The largest difference of two effects that still counts as alike."""

    perplexity: float = Field(
        default=0.02, gt=0, allow_inf_nan=False, description="In log-perplexity: 0.02 is 2%."
    )
    accuracy: float = Field(default=0.01, gt=0, lt=1, description="A fraction: 0.01 is one point.")


class Plan(_Keys):
    """What a study runs. Attributes are the keys of the YAML file."""

    name: str = Field("study", description="Of the study, for its page.")
    models: Annotated[list[str], BeforeValidator(listed)] = Field(
        min_length=1, description="Folders, hub ids, .gguf files, or demo."
    )
    k: Annotated[list[Annotated[int, Field(ge=1)]], BeforeValidator(listed)] = Field(
        min_length=1, description="How many blocks go."
    )
    protect: str = Field("", description="Blocks that stay, such as 0,29.")
    calibrations: dict[str, Any] = Field(
        min_length=1,
        description="By name: a spec, a list of specs that are mixed, or a mapping with `spec` and "
        "axes (windows, length, ...), each a list of values to be crossed.",
    )
    objectives: Annotated[list[str], BeforeValidator(listed)] = Field(["nll"], min_length=1)
    searches: Annotated[list[str], BeforeValidator(listed)] = Field(
        ["one-shot", "greedy"], min_length=1
    )
    draws: Annotated[list[Level], BeforeValidator(_draws)] = Field(
        [0], min_length=1, description="How many, or which; a draw raises every seed of a spec."
    )
    seeds: Annotated[list[Level], BeforeValidator(listed)] = Field(
        [0], min_length=1, description="Of the searches."
    )
    exclude: list[dict[str, Any]] = Field(
        default_factory=list,
        description="Cells to leave out: axes and the level, or levels, that they have.",
    )
    texts: dict[str, str] = Field(
        default_factory=dict, description="By name: specs whose perplexity is measured."
    )
    choices: dict[str, str] = Field(
        default_factory=dict, description="By name: specs of items whose accuracy is measured."
    )
    by: Literal["sum", "token", "char", "byte"] = Field(
        "byte", description="How the likelihoods of options are compared for accuracy."
    )
    homes: dict[str, str] = Field(
        default_factory=dict,
        description="Of a text or choices name, the calibration (without its axes) of its domain.",
    )
    test: Literal["joint"] | None = Field(
        None,
        description="joint: the question is put to the joint tests of docs/study.md; a plan that "
        "they cannot answer is refused.",
    )
    margin: Margin | None = Field(
        None, description="What counts as alike, stated before anything runs."
    )
    least_items: int | None = Field(
        None, ge=1, description="Items that each of choices must have at the least."
    )
    finalists: int = Field(
        3, ge=1, description="How many sets of each model and k go to the tasks and problems."
    )
    tasks: Annotated[list[str], BeforeValidator(listed)] = Field(
        default_factory=list,
        description="Tasks of lm-evaluation-harness, by name or as a YAML file, for finalists.",
    )
    task_items: int | None = Field(
        None, ge=1, description="Of each task the first so many items; all by default."
    )
    generate: dict[str, Annotated[Generation, BeforeValidator(_generation)]] = Field(
        default_factory=dict, description="By name: problems that finalists answer."
    )
    budget: Annotated[str | None, BeforeValidator(_budget)] = Field(
        None, description="What each search may spend, as for --budget."
    )
    exact: bool = Field(False, description="Score every set on every window; no racing.")
    dtype: str = "auto"
    device: str = "auto"


@dataclass(frozen=True)
class Stated:
    """What a plan states beforehand of how its results are read.

    Attributes:
        margin: What counts as alike; the default where the plan states none.
        has_margin: Whether the plan states one.
        has_test: Whether it states the joint test.
        by_another: Whether the plan is not the one that the results were run by; then nothing that
            it states was stated beforehand.
    """

    margin: Margin = field(default_factory=Margin)
    has_margin: bool = False
    has_test: bool = False
    by_another: bool = False

    @classmethod
    def of(cls, found: object, where: str = "plan.yaml") -> Stated:
        """What a plan's parsed file states; other keys are passed over.

        Raises:
            UsageError: If its margin is none.
        """
        if not isinstance(found, dict):
            return cls()
        given = found.get("margin")
        try:
            margin = Margin() if given is None else Margin.model_validate(given)
        except ValidationError as error:
            raise UsageError(f"{where}: margin: {_problems(error)}") from error
        return cls(margin, given is not None, found.get("test") is not None)


def read_plan(path: Path) -> Plan:
    """Read a plan's file.

    Raises:
        UsageError: If the file is not a plan, naming everything that is wrong with it.
    """
    text = read_text(path, error=UsageError, most=LARGEST_YAML)
    found = parse_yaml(text, str(path), error=UsageError)
    if not isinstance(found, dict):
        raise UsageError(
            f"{path}: expected a plan, with models, k and calibrations; got {shown(found, 60)}"
        )
    try:
        return Plan.model_validate(found)
    except ValidationError as error:
        raise UsageError(f"{path}: {_problems(error)}") from error


def _problems(error: ValidationError) -> str:
    lines = []
    for each in error.errors(include_input=False, include_url=False)[:_MOST_PROBLEMS]:
        where = ".".join(f"{part!s:.80}" for part in each["loc"])
        word = "unknown key" if each["type"] == "extra_forbidden" else each["msg"].lower()
        lines.append(f"{where}: {word}")
    return "; ".join(lines)
