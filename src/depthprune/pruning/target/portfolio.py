"""The calibrations that are tried for a target: a table, which a YAML file may replace.

A row names what is calibrated on (`target` is the part of `--for` that may be, the rest are
calibrations as `-c` takes them; several count alike), under which objective (`own` is what the
target is measured by), and how often it is drawn. The built-in rows are what is known to win
sometimes: text of all kinds, the task itself in three ways of looking at it, half of each, and what
the model itself would write.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from depthprune.calibration import CalibrationSpec, parse_calibration
from depthprune.calibration.parsing import beside, is_file, parse_line, parse_mapping
from depthprune.calibration.reading.files import whole_text
from depthprune.calibration.sources import SOURCES
from depthprune.errors import UsageError
from depthprune.objectives import parse_objective
from depthprune.untrusted import parse_yaml, shown

TARGET = "target"
OWN = "own"


class Row(BaseModel):
    """A calibration that is tried."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(min_length=1, description="By which the report calls it.")
    calibration: tuple[str | CalibrationSpec, ...] = Field(
        min_length=1, description="`target`, and calibrations as -c takes them; they count alike."
    )
    objective: str = Field(
        default=OWN, description="`own`: what the target is measured by; or another."
    )
    mask: str = Field(
        default="answer", pattern="^(answer|all)$",
        description="Of a target with answers, which tokens count: the answers', or all.",
    )  # fmt: skip
    draws: int = Field(default=2, ge=2, description="How often it is drawn.")
    summary: str = Field(default="", description="A line about it.")

    @field_validator("calibration", mode="before")
    @classmethod
    def _one(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @property
    def is_target(self) -> bool:
        """Whether this is the task itself, under what it is measured by."""
        return self.calibration == (TARGET,) and self.objective == OWN

    @property
    def is_default(self) -> bool:
        """Whether this is what is calibrated on where nothing is said."""
        return self.calibration == ("default",) and self.objective == "nll"


PORTFOLIO: tuple[Row, ...] = (
    Row(
        name="default", calibration=("default",), objective="nll",
        summary="the default mixture of prose and code, by its text",
    ),
    Row(
        name="target", calibration=(TARGET,),
        summary="the task itself, by what it is measured by",
    ),
    Row(
        name="target-nll", calibration=(TARGET,), objective="nll", mask="all",
        summary="the task's text, by every token of it",
    ),
    Row(
        name="target-kl", calibration=(TARGET,), objective="kl", mask="all",
        summary="the task's text, by how near the whole model stays",
    ),
    Row(
        name="half-and-half", calibration=(TARGET, "default"),
        summary="the task and the default mixture, one to one",
    ),
    Row(
        name="self", calibration=("self,windows=16,length=256",), objective="nll",
        summary="what the model itself writes, by its text",
    ),
)  # fmt: skip


def rows_for(portfolio: str | None, given: Sequence[str], objective: str) -> tuple[Row, ...]:
    """The rows of a job: of a file or of the built-in table, and one for each `-c`.

    Args:
        portfolio: A YAML file, or None.
        given: What `-c` names.
        objective: Of those.

    Raises:
        UsageError: If the file or a spec is wrong, or two rows have one name.
        CalibrationError: If the file cannot be read.
    """
    rows = PORTFOLIO if portfolio is None else read_portfolio(portfolio)
    taken = {row.name for row in rows}
    own = tuple(
        Row(
            name=f"-c {spec}" if spec in taken else spec,
            calibration=(spec,),
            objective=objective,
            summary="given by -c",
        )
        for spec in dict.fromkeys(given)
    )
    rows = (*rows, *own)
    names = [row.name for row in rows]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UsageError(f"--portfolio: expected each name once, got {twice!r} twice")
    for row in rows:
        specs_of(row)
        if row.objective != OWN:
            parse_objective(row.objective)
    return rows


def specs_of(row: Row) -> list[list[CalibrationSpec] | None]:
    """Each entry of a row as specs; None for the target."""
    return [None if entry == TARGET else parse_calibration(entry) for entry in row.calibration]


def files_named(rows: Iterable[Row]) -> list[CalibrationSpec]:
    """Every spec of some rows, whose files are to be looked at before a model is loaded."""
    return [spec for row in rows for specs in specs_of(row) for spec in specs or ()]


def read_portfolio(name: str) -> tuple[Row, ...]:
    """The rows of a YAML file: a list of mappings. Paths are resolved against the file.

    Raises:
        UsageError: If it is not YAML, or holds something else, naming the row and the key.
        CalibrationError: If it cannot be read.
    """
    found = parse_yaml(whole_text(name), name, error=UsageError)
    if not isinstance(found, list) or not found:
        raise UsageError(
            f"--portfolio {name}: expected a list of rows such as {{name: mine, calibration: "
            f"[target, default], objective: own}}; got {shown(found, 60)}"
        )
    rows = []
    for number, entry in enumerate(found):
        where = f"--portfolio {name}[{number}]"
        if not isinstance(entry, dict):
            raise UsageError(f"{where}: expected a mapping, got {shown(entry, 60)}")
        rows.append(_row(entry, where, Path(name).parent))
    return tuple(rows)


def _row(entry: dict[Any, Any], where: str, folder: Path) -> Row:
    values = {str(key): value for key, value in entry.items()}
    named = values.get("calibration")
    entries = named if isinstance(named, list) else [named]
    if named is not None:
        values["calibration"] = tuple(_entry(each, where, folder) for each in entries)
    try:
        return Row(**values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(map(str, first["loc"]))
        raise UsageError(
            f"{where}: {key}: {first['msg'].lower()}; expected the keys "
            f"{', '.join(Row.model_fields)}, got {shown(first['input'], 60)}"
        ) from error


def _entry(entry: Any, where: str, folder: Path) -> str | CalibrationSpec:
    if isinstance(entry, dict):
        return beside(parse_mapping(entry, where), folder)
    if not isinstance(entry, str):
        raise UsageError(f"{where}: calibration: expected a spec, got {shown(entry, 60)}")
    if is_file(entry):
        return str(folder / entry)
    if entry.replace(":", ",").split(",", 1)[0].strip() in SOURCES.names():
        return beside(parse_line(entry), folder)
    return entry
