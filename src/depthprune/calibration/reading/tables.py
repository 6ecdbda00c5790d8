"""Rows of tables: CSV and TSV, whose first row names the columns."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from typing import Any

from depthprune.calibration.reading.files import LONGEST_LINE, Bounded, lines
from depthprune.errors import CalibrationError


def table_rows(target: str, bound: Bounded, delimiter: str) -> Iterator[tuple[str, Any]]:
    """The rows of a CSV or TSV file by their column names, each with its place, `FILE:LINE`.

    Args:
        target: The file, whose first row names the columns.
        bound: How much may still be read.
        delimiter: What stands between two fields.

    Raises:
        CalibrationError: If the file cannot be read, or a row has more fields than there are names.
    """
    csv.field_size_limit(LONGEST_LINE)
    reader = csv.DictReader(
        (f"{line}\n" for line in lines(target, bound)), delimiter=delimiter, strict=True
    )
    try:
        names = [name for name in reader.fieldnames or () if name]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise CalibrationError(f"{target}:1: two columns are called {twice!r}; rename one")
        for row in reader:
            where = f"{target}:{reader.line_num}"
            if None in row:
                raise CalibrationError(_too_many_fields(where, reader.fieldnames or (), delimiter))
            yield where, {name: value or "" for name, value in row.items()}
    except csv.Error as error:
        # The outer reader counts a row's lines only once it has them all.
        raise CalibrationError(
            f"{target}:{reader.reader.line_num}: not a table ({error}); a field that begins with "
            "a '\"' ends with one, and has those inside it doubled"
        ) from error


def _too_many_fields(where: str, names: Sequence[str], delimiter: str) -> str:
    other = next((mark for mark in ";|\t," if len(names) == 1 and mark in names[0]), None)
    remedy = f"quote what holds a {delimiter!r}"
    if other is not None:
        remedy = f"its names seem to be separated by {other!r}, put {delimiter!r} between fields"
    return f"{where}: more fields than its {len(names)} columns; {remedy}"
