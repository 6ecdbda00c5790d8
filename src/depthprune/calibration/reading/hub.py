"""Rows of data sets on the hub, the one source that touches the network, and only when named.

A large set is not downloaded for a small draw: with `rows=` the first so many rows are streamed.
Without network, what `datasets` or the hub's client keeps on this machine is read.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any

from depthprune.calibration.reading.documents import Document, json_lines, row_document
from depthprune.errors import CalibrationError, first_line
from depthprune.extras import require_extra

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
    (datasets,) = require_extra("hub", "data", "datasets", error=CalibrationError)
    split = options.get("split", "train")
    number = 0
    try:
        for row in _limited(_loaded(datasets, target, split, options), options):
            yield f"hub:{target}/{split}:{number}", dict(row)
            number += 1
    except CalibrationError:
        raise
    except Exception as error:
        raise CalibrationError(
            f"hub:{target}: could not be reached or read ({first_line(error)}); check its name, "
            f"name=, split= and the network, or download it and use {instead}"
        ) from error


def _limited(rows: Iterable[Any], options: Mapping[str, str]) -> Iterable[Any]:
    return islice(rows, int(options["rows"])) if "rows" in options else rows


def _loaded(datasets: Any, target: str, split: str, options: Mapping[str, str]) -> Iterable[Any]:
    """The rows from the hub, or without network from what `datasets` or the hub's client keeps."""
    revision = options.get("revision")
    extra: dict[str, Any] = {"split": split, "revision": revision}
    if "files" in options:
        extra["data_files"] = {split: options["files"]}
    streaming = {"streaming": True} if "rows" in options else {}
    with _said(datasets) as said:
        try:
            found = datasets.load_dataset(target, options.get("name"), **extra, **streaming)
        except Exception:
            kept = _downloaded(target, options)
            if kept is not None:
                return (row for _, row in json_lines(kept))
            if not streaming:
                raise
            # What is kept from another run can be read, and in older versions not streamed.
            found = datasets.load_dataset(target, options.get("name"), **extra)
    _require_revision(target, revision, said)
    return found  # type: ignore[no-any-return]


def _downloaded(target: str, options: Mapping[str, str]) -> str | None:
    """A data file of the set that the hub's client has downloaded before, if it is JSON lines."""
    from huggingface_hub import try_to_load_from_cache

    name = options.get("files", "")
    if not any(ending in name for ending in (".json", ".jsonl", ".ndjson")):
        return None
    try:
        found = try_to_load_from_cache(
            target, name, repo_type="dataset", revision=options.get("revision")
        )
    except ValueError:
        return None
    return found if isinstance(found, str) else None


def _require_revision(target: str, revision: str | None, said: Sequence[str]) -> None:
    """Refuse what `datasets` keeps of another commit than was asked for; it would only log it."""
    kept = [found for line in said if "cached" in line for found in _COMMIT.findall(line)]
    if revision and _COMMIT.fullmatch(revision) and kept and revision not in kept:
        raise CalibrationError(
            f"hub:{target}: there is no network, and what is kept is of revision {kept[0]}, not "
            f"{revision}; drop revision=, or connect"
        )


_COMMIT = re.compile(r"\b[0-9a-f]{40}\b")


@contextmanager
def _said(datasets: Any) -> Iterator[list[str]]:
    """What `datasets` logs, which would stand between what this program says."""
    lines: list[str] = []

    class _Kept(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    logger = logging.getLogger("datasets")
    handlers, propagate = logger.handlers[:], logger.propagate
    bars = not datasets.are_progress_bars_disabled()
    logger.handlers[:], logger.propagate = [_Kept()], False
    datasets.disable_progress_bars()
    try:
        yield lines
    finally:
        logger.handlers[:], logger.propagate = handlers, propagate
        if bars:
            datasets.enable_progress_bars()


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
