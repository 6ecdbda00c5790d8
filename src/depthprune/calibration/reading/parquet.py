"""Rows of Parquet files, read a few at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from depthprune.calibration.reading.files import opened
from depthprune.calibration.reading.unpacking import refuse_bomb
from depthprune.errors import CalibrationError, first_line
from depthprune.extras import require_extra


def parquet_rows(
    name: str, path: Path, wanted: Callable[[Sequence[str]], Sequence[str]]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows of a Parquet file, each with its place, `FILE:NUMBER` from 0.

    Args:
        name: What the file is called in messages.
        path: Where it is.
        wanted: Chooses columns, in the order in which rows have them, of those that it has.

    Raises:
        CalibrationError: If it cannot be read, is none, or unpacks beyond all measure.
    """
    pyarrow, parquet = require_extra(
        "parquet", "data", "pyarrow", "pyarrow.parquet", error=CalibrationError
    )
    if path.is_fifo():
        raise CalibrationError(f"{name}: a pipe; a Parquet file is read from its end, name one")
    opened(name).close()
    try:
        file = parquet.ParquetFile(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise CalibrationError(f"{name}: not a Parquet file ({first_line(error)})") from error
    with file:
        columns = list(wanted(file.schema_arrow.names))
        try:
            size, total, number = path.stat().st_size, 0, 0
            # A few rows at once: a short file may hold one long text many times.
            for batch in file.iter_batches(batch_size=16, columns=columns):
                total += batch.nbytes
                refuse_bomb(name, size, total)
                for row in batch.to_pylist():
                    yield f"{name}:{number}", {column: row[column] for column in columns}
                    number += 1
        except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
            raise CalibrationError(f"{name}: damaged ({first_line(error)})") from error
