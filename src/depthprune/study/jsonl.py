"""Tables kept as JSON lines: a header, then a record a line, only ever appended to.

What is written as each piece of a study ends may be stopped at any time; a line cut short by the
stop is passed over, and cut off when the table is opened again. The header names the kind, the
schema and the plan: records of another version or another plan are refused, since mixing them would
compare what is not comparable.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from depthprune.errors import DepthpruneError, NoWorkersError, UsageError, first_line
from depthprune.outputs import whole_file
from depthprune.untrusted import decoded, read_bytes

LARGEST_TABLE = 4 << 30
"""Bytes. A table is as long as its grid, and a study that cannot read its own table has lost it."""


class Record(BaseModel):
    """What stands in a line; infinite values are the strings `"Infinity"` and `"NaN"`."""

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="strings")


R = TypeVar("R", bound=Record)


@dataclass(frozen=True)
class Outcome:
    """How a table was added to.

    Attributes:
        done: Records in it that ran, of all times.
        failed: Records in it that failed.
        new: Records that this run wrote.
    """

    done: int
    failed: int
    new: int


def _agree(first: Record, second: Record) -> bool:
    """Whether two records say the same, but for what it took to find out."""
    one, two = (each.model_dump_json(exclude={"cost", "seconds"}) for each in (first, second))
    return one == two


@dataclass(frozen=True)
class JsonLines(Generic[R]):
    """A kind of table.

    Attributes:
        kind: As its header has it.
        schema: Version of its records.
        what: In words, for errors.
        parse: Makes a record of a line.
        key: What tells a record from every other.
        piece: What a record is, for errors.
    """

    kind: str
    schema: int
    what: str
    parse: Callable[[str], R]
    key: Callable[[R], Hashable]
    piece: str

    def write(self, path: Path, plan: str, records: Sequence[R] = ()) -> None:
        """Write a table as a whole; an existing file is replaced.

        Args:
            path: The file.
            plan: Fingerprint of the plan.
            records: May be empty: a table that is to be appended to.
        """
        lines = [json.dumps({"kind": self.kind, "schema": self.schema, "plan": plan})]
        lines += [record.model_dump_json() for record in records]
        with whole_file(path) as partial:
            partial.write_text("\n".join(lines) + "\n", encoding="utf-8")

    def append(self, path: Path, record: R) -> None:
        """Add a record and have it on the disk before returning."""
        with path.open("a", encoding="utf-8") as file:
            file.write(record.model_dump_json() + "\n")
            file.flush()
            os.fsync(file.fileno())

    def resume(self, path: Path, plan: str) -> tuple[R, ...]:
        """Open a table to append to: made where there is none, its torn last line cut off.

        Records that were written twice, as two processes do that run into one folder, stay once.

        Raises:
            UsageError: As `read`.
        """
        if not path.exists() or not path.read_bytes().strip():
            self.write(path, plan)
        _, records = self.read(path, plan)
        content = path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if content.count(b"\n") - 1 > len(records):
            self.write(path, plan, records)
        elif whole < len(content):
            os.truncate(path, whole)
        return records

    def read(self, path: Path, plan: str | None = None) -> tuple[str, tuple[R, ...]]:
        """The plan's fingerprint and the records, in the order written.

        Args:
            path: The file.
            plan: Fingerprint that the table must have; None takes any.

        Raises:
            UsageError: If it is no such table, is of another version or plan, or has a record that
                does not fit the schema, or two that say different things of the same piece.
        """
        raw = read_bytes(path, error=UsageError, most=LARGEST_TABLE)
        # A stop may have cut a last line within a character.
        text = decoded(raw[: raw.rfind(b"\n") + 1], str(path), UsageError)
        lines = text.split("\n")[:-1]
        found = self._header(path, lines[0] if lines else "")
        if plan is not None and found != plan:
            raise UsageError(
                f"{path}: its plan is {found}, expected {plan}; choose another folder, or remove it"
            )
        records: dict[Hashable, tuple[int, R]] = {}
        for number, line in enumerate(lines[1:], start=2):
            record = self._record(path, number, line)
            first, known = records.setdefault(self.key(record), (number, record))
            if first != number and not _agree(known, record):
                raise UsageError(
                    f"{path} line {number}: this {self.piece} was given in line {first} with "
                    "another result; remove one of the two lines"
                )
        return found, tuple(record for _, record in records.values())

    def _header(self, path: Path, line: str) -> str:
        try:
            header: Any = json.loads(line)
        except (ValueError, RecursionError):
            header = None
        if not isinstance(header, dict) or header.get("kind") != self.kind:
            raise UsageError(f"{path}: expected {self.what}, whose first line says {self.kind}")
        if header.get("schema") != self.schema:
            raise UsageError(
                f"{path}: expected schema {self.schema}, found {header.get('schema')}; read it "
                "with the version of depthprune that wrote it, or run the study again"
            )
        return str(header.get("plan"))

    def _record(self, path: Path, number: int, line: str) -> R:
        try:
            return self.parse(line)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise UsageError(
                f"{path} line {number}: {where + ': ' if where else ''}{first['msg']}; remove the "
                f"line to have the {self.piece} run again"
            ) from error


def only_line(error: DepthpruneError) -> str:
    """An error as it stands in a table.

    Raises:
        NoWorkersError: If it is one, which says nothing of the cell.
    """
    if isinstance(error, NoWorkersError):
        raise error
    return first_line(error, 300)
