"""The memo's file: opened or refused, brought up to date, and what is wrong with it in words."""

from __future__ import annotations

import os
import re
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from depthprune.errors import OutputError
from depthprune.evaluator.memo.checks import BEFORE, add_checksums

_APPLICATION = 0x64707275
_VERSION = 3
_BUSY_SECONDS = 30.0
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
# What SQLite says, what it means here, and what helps.
_REASONS = (
    ("not a database", "it is no memo", "choose another path"),
    ("malformed", "it is damaged", "delete it"),
    ("full", "the disk is full", "free some space"),
    ("locked", "another process holds it", "wait for that"),
)


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
    why = str(failure)
    closed = os.path.exists(place) and re.search("readonly|unable to open", why)
    if closed or (size_of(place) and re.search("full|disk I/O", why)):
        # The second way is for a folder in which SQLite cannot put its files beside the memo. It
        # would not see what a killed process left in one of them.
        ways = ["mode=ro"] + ["mode=ro&immutable=1"] * (not size_of(log_beside(place)))
        for mode in ways:
            try:
                return prepared(f"{uri}?{mode}", label, writable=False), False
            except sqlite3.OperationalError:
                continue
            except sqlite3.DatabaseError as error:
                failure = error
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


def disagree() -> sqlite3.DatabaseError:
    """What is raised where a file tells one thing in two ways."""
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
