"""The memo's file: opened or refused, its tables, and the statements that fill and read them."""

from __future__ import annotations

import os
import re
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import astuple
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from depthprune.errors import OutputError
from depthprune.evaluator.memo.checks import BEFORE, add_checksums, checksum
from depthprune.evaluator.memo.records import Context
from depthprune.evaluator.prefix_walk import RemovedSet

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_APPLICATION = 0x64707275
_VERSION = 3
_BUSY_SECONDS = 30.0
# Two lists of keys in one statement stay below the 999 variables that older SQLites allow.
_CHUNK = 400
# SQLite keeps NaN as NULL: a loss that is NULL is NaN, and a loss that is not known has no row.
_SCHEMA = """
CREATE TABLE contexts (id INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL UNIQUE,
  weights TEXT NOT NULL, dtype TEXT NOT NULL, device TEXT NOT NULL, torch TEXT NOT NULL,
  objective TEXT NOT NULL, arithmetic TEXT NOT NULL, recovery TEXT NOT NULL,
  used REAL NOT NULL);
CREATE TABLE windows (id INTEGER PRIMARY KEY AUTOINCREMENT, key BLOB NOT NULL UNIQUE);
CREATE TABLE sets (id INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL UNIQUE);
CREATE TABLE losses (context_id INTEGER NOT NULL, set_id INTEGER NOT NULL,
  window_id INTEGER NOT NULL, loss REAL, checksum INTEGER,
  PRIMARY KEY (context_id, set_id, window_id)) WITHOUT ROWID;
CREATE TABLE names (name TEXT NOT NULL, weights TEXT NOT NULL, since REAL NOT NULL,
  PRIMARY KEY (name, weights)) WITHOUT ROWID"""
_TABLES = {"contexts", "windows", "sets", "losses", "names"}
_ORPHANS = (
    "DELETE FROM windows WHERE id NOT IN (SELECT window_id FROM losses)",
    "DELETE FROM sets WHERE id NOT IN (SELECT set_id FROM losses)",
    "DELETE FROM names WHERE weights NOT IN (SELECT weights FROM contexts)",
)
# What SQLite says, what it means here, and what helps.
_REASONS = (
    ("not a database", "it is no memo", "choose another path"),
    ("malformed", "it is damaged", "delete it"),
    ("full", "the disk is full", "free some space"),
    ("locked", "another process holds it", "wait for that"),
)

Key = TypeVar("Key", str, bytes)
Item = TypeVar("Item")


def connect(place: Path) -> tuple[sqlite3.Connection, bool]:
    """Open a file, for writing if that can be, and tell whether it was."""
    label = f"--memo {place}"
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"{label}: {place.parent} cannot be made ({error.strerror}); choose another path"
        ) from error
    if os.path.isdir(place):
        raise OutputError(f"{label}: expected a file, found a folder; name a file inside it")
    uri = place.absolute().as_uri()
    try:
        return prepared(f"{uri}?mode=rwc", label, writable=True), True
    except sqlite3.DatabaseError as error:
        failure = error
    if os.path.exists(place) and re.search("readonly|unable to open", str(failure)):
        # The second way is for a folder in which SQLite cannot put its files beside the memo. It
        # would not see what a killed process left in one of them.
        ways = ["mode=ro"] + ["mode=ro&immutable=1"] * (not size_of(log_beside(place)))
        for mode in ways:
            with suppress(sqlite3.OperationalError):
                return prepared(f"{uri}?{mode}", label, writable=False), False
    raise refusal(label, failure) from failure


def prepared(uri: str, label: str = "memo", *, writable: bool) -> sqlite3.Connection:
    """Open a file or refuse it; make the tables of one that is empty."""
    db = sqlite3.connect(uri, uri=True, timeout=_BUSY_SECONDS, isolation_level=None)
    try:
        fresh = _is_fresh(db, label)
        if not writable:
            if fresh:
                raise OutputError(f"{label}: is empty and cannot be written; choose another path")
            if _version(db) == BEFORE:
                raise OutputError(
                    f"{label}: its losses have no checksums, and it cannot be written to add them; "
                    "open it once as one who may write it, or choose another path"
                )
            return db
        if fresh:
            _write_ahead(db)
        # A commit need not wait for the disk: a kill loses nothing of it, and a power cut at most
        # the last ones, whole.
        db.execute("PRAGMA synchronous = NORMAL")
        with transaction(db, "IMMEDIATE"):
            if _is_fresh(db, label):
                for statement in _SCHEMA.split(";"):
                    db.execute(statement)
                db.execute(f"PRAGMA application_id = {_APPLICATION}")
                db.execute(f"PRAGMA user_version = {_VERSION}")
            # Changes nothing, and yet is an error where the file cannot be written; BEGIN is not.
            db.execute("DELETE FROM names WHERE 0")
    except BaseException as error:
        db.close()
        if isinstance(error, UnicodeDecodeError):
            raise _undecodable() from error
        raise
    return db


def _write_ahead(db: sqlite3.Connection) -> None:
    """Turn write-ahead logging on."""
    # SQLite does not wait by itself here while another process makes the same file.
    until = time.monotonic() + _BUSY_SECONDS
    while True:
        try:
            db.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > until:
                raise
            time.sleep(0.01)
        else:
            return


def _is_fresh(db: sqlite3.Connection, label: str) -> bool:
    """Whether the file is still empty; one that is not must be a memo of this version."""
    tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if not tables:
        return True
    application, version = _number(db, "application_id"), _version(db)
    if application != _APPLICATION:
        raise OutputError(f"{label}: it is another program's database; choose another path")
    if version not in (_VERSION, BEFORE):
        raise OutputError(
            f"{label}: expected a memo of version {_VERSION}, found {version}, which another "
            "depthprune made; choose another path, or delete it"
        )
    if not tables >= _TABLES:
        raise sqlite3.DatabaseError("malformed: tables are missing")
    return False


def _version(db: sqlite3.Connection) -> int:
    return _number(db, "user_version")


def _number(db: sqlite3.Connection, pragma: str) -> int:
    return int(db.execute(f"PRAGMA {pragma}").fetchone()[0])


def renewed(db: sqlite3.Connection) -> int | None:
    """Bring a file of the version before to this one; how many losses it has, None if it is new."""
    if _version(db) != BEFORE:
        return None
    with transaction(db, "IMMEDIATE"):
        if _version(db) != BEFORE:
            return None  # another process was faster
        losses = add_checksums(db)
        db.execute(f"PRAGMA user_version = {_VERSION}")
    return losses


@contextmanager
def transaction(db: sqlite3.Connection, kind: str) -> Iterator[None]:
    """Commit what the block does, or nothing of it."""
    db.execute(f"BEGIN {kind}")
    try:
        yield
        db.execute("COMMIT")
    except BaseException as error:
        with suppress(sqlite3.Error):
            db.execute("ROLLBACK")
        if isinstance(error, UnicodeDecodeError):
            raise _undecodable() from error
        raise


def _undecodable() -> sqlite3.DatabaseError:
    """In place of what Python raises where a message of SQLite quotes damaged text."""
    return sqlite3.DatabaseError("malformed: text cannot be decoded")


def _disagree() -> sqlite3.DatabaseError:
    return sqlite3.DatabaseError("malformed: an index and its table disagree")


def reason_of(error: sqlite3.DatabaseError) -> tuple[str, str]:
    """What is wrong with the file, and what helps."""
    for words, reason, remedy in _REASONS:
        if words in str(error):
            return f"{reason} ({error})", remedy
    return f"it cannot be used ({error})", "choose another path"


def refusal(label: str, error: sqlite3.DatabaseError) -> OutputError:
    """The error for a file that cannot be used from the start."""
    reason, remedy = reason_of(error)
    return OutputError(f"{label}: {reason}; {remedy}, or pass --memo off")


def log_beside(place: Path) -> Path:
    """The write-ahead log that SQLite keeps beside a file."""
    return place.with_name(place.name + "-wal")


def size_of(place: Path) -> int:
    """Bytes of a file, 0 if there is none."""
    try:
        return place.stat().st_size
    except OSError:
        return 0


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
                raise _disagree()
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
        raise _disagree()
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
