"""Cells whose search has ended and which wait to be judged with others.

They are kept beside the table until they are in it, so that a stop loses no search, nor what it
cost. The file is a results table like any other, and goes when the study is done.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from depthprune.study.table import Key, Row, append, read, resume, write

WAITING_NAME = "searched.jsonl"


@dataclass(frozen=True)
class Waiting:
    """The rows that wait, in a study's folder.

    Attributes:
        path: Their file.
        plan: Fingerprint of the plan.
        rows: By what tells them apart, judged on nothing yet.
        noticed: Called with each that is added.
    """

    path: Path
    plan: str
    rows: dict[Key, Row]
    noticed: Callable[[Row], None]

    @classmethod
    def of(cls, folder: Path, plan: str, noticed: Callable[[Row], None]) -> Waiting:
        """Those that an earlier run left.

        Raises:
            UsageError: If the file is no table of this plan.
        """
        path = folder / WAITING_NAME
        rows = resume(path, plan).rows if path.exists() else ()
        return cls(path, plan, {row.key: row for row in rows}, noticed)

    def add(self, row: Row) -> None:
        """Keep one that was not known, on the disk before returning."""
        if row.key in self.rows:
            return
        if not self.path.exists():
            write(self.path, self.plan)
        append(self.path, row)
        self.rows[row.key] = row
        self.noticed(row)

    def drop(self, rows: Iterable[Row]) -> None:
        """Forget some: they are in the table."""
        for row in rows:
            self.rows.pop(row.key, None)
        if self.rows:
            write(self.path, self.plan, list(self.rows.values()))
        else:
            self.clear()

    def clear(self) -> None:
        """Forget them all."""
        self.rows.clear()
        self.path.unlink(missing_ok=True)


def count(folder: Path) -> int:
    """How many wait in a study's folder."""
    path = folder / WAITING_NAME
    return len(read(path).rows) if path.is_file() else 0
