"""The statements that fill and read the memo's tables."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple
from itertools import product
from typing import TYPE_CHECKING, TypeVar

from depthprune.evaluator.memo.checks import checksum
from depthprune.evaluator.memo.file import disagree
from depthprune.evaluator.memo.records import Context
from depthprune.evaluator.prefix_walk import RemovedSet

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# Two lists of keys in one statement stay below the 999 variables that older SQLites allow.
_CHUNK = 400
_ORPHANS = (
    "DELETE FROM windows WHERE id NOT IN (SELECT window_id FROM losses)",
    "DELETE FROM sets WHERE id NOT IN (SELECT set_id FROM losses)",
    "DELETE FROM names WHERE weights NOT IN (SELECT weights FROM contexts)",
)

Key = TypeVar("Key", str, bytes)
Item = TypeVar("Item")


def find_losses(
    db: sqlite3.Connection, context: str, rows: Mapping[str, int], columns: Mapping[bytes, int]
) -> Iterator[tuple[int, int, float | None]]:
    """The losses of a context on some sets and windows: row, column, loss."""
    context_id = _ids(db, "contexts", [context]).get(context)
    sets = {i: key for key, i in _ids(db, "sets", list(rows)).items()}
    windows = {i: key for key, i in _ids(db, "windows", list(columns)).items()}
    for some, others in product(_chunks(sorted(sets)), _chunks(sorted(windows))):
        found = db.execute(
            "SELECT set_id, window_id, loss, checksum FROM losses WHERE context_id = ? "
            f"AND set_id IN ({_marks(some)}) AND window_id IN ({_marks(others)})",
            [context_id, *some, *others],
        )
        for set_id, window_id, loss, stored in found:
            if set_id not in sets or window_id not in windows or isinstance(loss, (str, bytes)):
                raise disagree()
            removed, window = sets[set_id], windows[window_id]
            if stored != checksum(context, removed, window, loss):
                raise sqlite3.DatabaseError("malformed: a loss is not the one that was stored")
            yield rows[removed], columns[window], loss


def add_losses(
    db: sqlite3.Connection,
    context: Context,
    windows: Sequence[bytes],
    losses: Mapping[RemovedSet, NDArray[np.float64]],
) -> None:
    """Add losses, and the context, windows and sets that are new; see `Memo.store_all`."""
    key = context.key()
    db.execute(
        "INSERT OR IGNORE INTO contexts (key, weights, dtype, device, torch, objective, "
        "arithmetic, recovery, used) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (key, *astuple(context), time.time()),
    )
    context_id = _ids(db, "contexts", [key])[key]
    window_ids = _ids(db, "windows", windows, add=True)
    set_ids = _ids(db, "sets", [set_key(s) for s in losses], add=True)
    rows = (
        (context_id, set_ids[named], window_ids[window], loss, checksum(key, named, window, loss))
        for s, values in losses.items()
        for named in [set_key(s)]
        for window, loss in zip(windows, values.tolist(), strict=True)
    )
    db.executemany("INSERT OR IGNORE INTO losses VALUES (?, ?, ?, ?, ?)", rows)


def delete_contexts(db: sqlite3.Connection, used_before: float, weights: str) -> int:
    """Delete contexts and what only they needed; the number of losses that went."""
    gone = db.execute(
        "SELECT id FROM contexts WHERE used < ? AND substr(weights, 1, ?) = ?",
        (used_before, len(weights), weights),
    ).fetchall()
    deleted = db.executemany("DELETE FROM losses WHERE context_id = ?", gone).rowcount
    db.executemany("DELETE FROM contexts WHERE id = ?", gone)
    for statement in _ORPHANS:
        db.execute(statement)
    return max(0, deleted)


def _ids(
    db: sqlite3.Connection, table: str, keys: Sequence[Key], *, add: bool = False
) -> dict[Key, int]:
    """Ids of those keys that the table has, or of all after adding the others."""
    distinct = list(dict.fromkeys(keys))
    found: dict[Key, int] = {}
    for some in _chunks(distinct):
        found.update(
            db.execute(
                f"SELECT key, id FROM {table} WHERE key IN ({_marks(some)})", some
            ).fetchall()
        )
    if not found.keys() <= set(distinct):
        raise disagree()
    for key in distinct if add else ():
        if key not in found:
            inserted = db.execute(f"INSERT INTO {table} (key) VALUES (?)", (key,))
            found[key] = int(inserted.lastrowid or 0)
    return found


def set_key(removed: RemovedSet) -> str:
    """The key of a removed set."""
    return ",".join(map(str, removed))


def _marks(values: Sequence[object]) -> str:
    return ", ".join("?" * len(values))


def _chunks(values: Sequence[Item]) -> list[Sequence[Item]]:
    return [values[i : i + _CHUNK] for i in range(0, len(values), _CHUNK)]
