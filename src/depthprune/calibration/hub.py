"""Rows of data sets on the hub, the one source that touches the network, and only when named.

A large set is not downloaded for a small draw: with `rows=` the first so many rows are streamed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

from depthprune.calibration.documents import Document, row_document
from depthprune.errors import CalibrationError, first_line

HUB_OPTIONS = ("name", "split", "revision", "files", "rows")
"""Options that say which rows of a data set are read."""


def hub_rows(
    target: str, options: Mapping[str, str], instead: str = "jsonl: or parquet:"
) -> Iterator[tuple[str, Any]]:
    """The rows of a data set, each with its place, `hub:DATASET/SPLIT:ROW`.

    Args:
        target: `owner/name` on the hub.
        options: `name` (its configuration), `split` (default `train`), `revision`, `files` (one
            data file of the set), `rows` (stream the first so many).
        instead: The source that reads a downloaded file of it, for the message.

    Raises:
        CalibrationError: If the set cannot be reached or read.
    """
    try:
        import datasets
    except ImportError as error:
        raise CalibrationError(
            "hub: needs the extra 'data'; run: pip install 'depthprune[data]'"
        ) from error
    split = options.get("split", "train")
    extra: dict[str, Any] = {}
    if "files" in options:
        extra["data_files"] = {split: options["files"]}
    if "rows" in options:
        extra["streaming"] = True
    number = 0
    try:
        rows = datasets.load_dataset(
            target, options.get("name"), split=split, revision=options.get("revision"), **extra
        )
        for row in islice(rows, int(options["rows"])) if "rows" in options else rows:
            yield f"hub:{target}/{split}:{number}", dict(row)
            number += 1
    except Exception as error:
        raise CalibrationError(
            f"hub:{target}: could not be reached or read ({first_line(error)}); check its name, "
            f"name=, split= and the network, or download it and use {instead}"
        ) from error


def read_hub(target: str, options: Mapping[str, str]) -> Iterator[Document]:
    """The rows of a data set as documents.

    Raises:
        CalibrationError: If the set cannot be read, or a row lacks a field.
    """
    for where, row in hub_rows(target, options):
        yield row_document(row, options, where)


def check_hub(options: Mapping[str, str]) -> list[str]:
    """What is wrong with the options that are no plain text."""
    rows = options.get("rows", "1")
    if rows.isdecimal() and int(rows) > 0:
        return []
    return [f"rows= expects a whole number from 1, got {rows!r}"]
