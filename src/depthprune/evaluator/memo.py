"""The memo: per-window losses in SQLite, shared by all searches, draws, runs and processes.

A row never changes once written and an id is never given twice, so what was read holds whatever
another process writes or prunes. Each store is one transaction in write-ahead logging: a kill
loses the unfinished one and nothing else. A memo that is wrong from the start is refused; one that
fails in mid-run must not cost the run, so it turns itself off and says so in `Memo.notes`.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sqlite3
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import astuple, dataclass
from itertools import product
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from depthprune.errors import OutputError, UsageError
from depthprune.evaluator.walk import RemovedSet

_APPLICATION = 0x64707275
_VERSION = 1
_BUSY_SECONDS = 30.0
_TOUCH_EVERY = 3600.0
_DAY = 86_400.0
# Two lists of keys in one statement stay below the 999 variables that older SQLites allow.
_CHUNK = 400
# SQLite keeps NaN as NULL: a loss that is NULL is NaN, and a loss that is not known has no row.
_SCHEMA = """
CREATE TABLE contexts (id INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL UNIQUE,
  weights TEXT NOT NULL, dtype TEXT NOT NULL, device TEXT NOT NULL, torch TEXT NOT NULL,
  objective TEXT NOT NULL, recovery TEXT NOT NULL, used REAL NOT NULL);
CREATE TABLE windows (id INTEGER PRIMARY KEY AUTOINCREMENT, key BLOB NOT NULL UNIQUE);
CREATE TABLE sets (id INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL UNIQUE);
CREATE TABLE losses (context_id INTEGER NOT NULL, set_id INTEGER NOT NULL,
  window_id INTEGER NOT NULL, loss REAL,
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


@dataclass(frozen=True)
class Context:
    """All that a loss depends on besides the window and the removed set.

    Attributes:
        weights: Fingerprint of the weights.
        dtype: What the model computes in.
        device: Kind of the device: `cpu`, `cuda` or `mps`.
        torch: Version of torch.
        objective: The objective's name with all its parameters.
        recovery: What was done to repair the pruned model, if anything.
    """

    weights: str
    dtype: str
    device: str
    torch: str
    objective: str
    recovery: str = ""

    def key(self) -> str:
        """SHA-256 of all fields, in hexadecimal."""
        return hashlib.sha256(json.dumps(astuple(self)).encode()).hexdigest()


@dataclass(frozen=True)
class Remembered:
    """The losses of one removed set on the windows asked for, and where they are known.

    The losses are NaN where they are not known; a known one may be NaN or infinite too.
    """

    losses: NDArray[np.float64]
    known: NDArray[np.bool_]


@dataclass(frozen=True)
class ContextStatistics:
    """A context, its models' names, its number of losses and its last use (seconds since 1970)."""

    context: Context
    names: tuple[str, ...]
    losses: int
    used: float


@dataclass(frozen=True)
class MemoStatistics:
    """A memo's size on disk, its distinct sets and windows, and its contexts, last used first."""

    bytes: int
    sets: int
    windows: int
    contexts: tuple[ContextStatistics, ...]


def window_key(tokens: NDArray[np.int64], scored: NDArray[np.bool_]) -> bytes:
    """Sixteen bytes that stand for a window: its tokens, and which of them count."""
    digest = hashlib.blake2b(digest_size=16)
    digest.update(len(tokens).to_bytes(8, "little") + len(scored).to_bytes(8, "little"))
    digest.update(tokens.astype("<i8").tobytes())
    digest.update(np.packbits(scored).tobytes())
    return digest.digest()


def default_path() -> Path:
    """The memo's place in the user's cache folder."""
    try:
        if sys.platform == "win32":
            folder = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
        elif sys.platform == "darwin":
            folder = Path.home() / "Library" / "Caches"
        else:
            # The XDG specification has a relative path ignored.
            named = Path(os.environ.get("XDG_CACHE_HOME", ""))
            folder = named if named.is_absolute() else Path.home() / ".cache"
    except RuntimeError as error:
        raise OutputError(f"memo: {error}; set HOME, or pass --memo PATH or --memo off") from error
    return folder / "depthprune" / "memo.sqlite"


class Memo:
    """A store of losses, made by `Memo.open`; each process and thread opens its own.

    Attributes:
        path: The file; None where losses are kept only until the process ends.
        notes: Lines that the user should read once; the caller shows and clears them.
    """

    def __init__(self, db: sqlite3.Connection, path: Path | None, *notes: str) -> None:
        self.path = path
        self.notes = list(notes)
        self._db = db
        self._reads = self._writes = True
        self._touched: dict[str, float] = {}

    @classmethod
    def open(cls, path: Path | None = None) -> Memo:
        """Open the memo at a path, by default `default_path()`; make it if there is none.

        A file that can be read and not written is read. Where the default place cannot be made,
        losses are kept until the process ends. Either is said in `notes`.

        Raises:
            OutputError: If the file is no memo, of another version, damaged, or cannot be opened.
        """
        place = default_path() if path is None else path
        try:
            db, writable = _connect(place)
        except OutputError as error:
            if path is not None or os.path.exists(place):
                raise
            memory = _prepared(":memory:", writable=True)
            return cls(memory, None, f"{error}; losses are kept for this run only")
        memo = cls(db, place)
        if not writable:
            memo._writes = False
            memo.notes.append(f"--memo {place}: cannot be written; it is read, nothing is added")
        return memo

    def __enter__(self) -> Memo:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; the memo must not be used again."""
        self._db.close()

    def look_up(
        self, context: Context, removed_sets: Sequence[RemovedSet], windows: Sequence[bytes]
    ) -> dict[RemovedSet, Remembered]:
        """What is known of some removed sets on some windows.

        Args:
            context: What the losses depend on.
            removed_sets: Sorted sets.
            windows: Keys of windows, in any order; one may come twice.

        Returns:
            For each set, its losses in the order of `windows`.
        """
        rows = {_text(s): i for i, s in enumerate(dict.fromkeys(removed_sets))}
        columns = {w: i for i, w in enumerate(dict.fromkeys(windows))}
        losses = np.full((len(rows), len(columns)), np.nan)
        known = np.zeros(losses.shape, dtype=np.bool_)
        if self._reads:
            with self._or_without_it(), _transaction(self._db, "DEFERRED"):
                for row, column, loss in _found(self._db, context.key(), rows, columns):
                    losses[row, column] = np.nan if loss is None else loss
                    known[row, column] = True
        if not self._reads:
            # Of a file that turned out to be damaged nothing is believed.
            known[:] = False
            losses[:] = np.nan
        if known.any():
            self._touch(context.key())
        places = [columns[w] for w in windows]
        return {
            s: Remembered(losses[rows[_text(s)], places], known[rows[_text(s)], places])
            for s in removed_sets
        }

    def _touch(self, key: str) -> None:
        """Note that a context was used, seldom enough that readers need not wait for writers."""
        now = time.time()
        if self._writes and now - self._touched.get(key, 0.0) > _TOUCH_EVERY:
            self._touched[key] = now
            with self._or_without_it(writing=True):
                self._db.execute("UPDATE contexts SET used = ? WHERE key = ?", (now, key))

    def store(
        self,
        context: Context,
        removed: RemovedSet,
        windows: Sequence[bytes],
        losses: NDArray[np.float64],
    ) -> None:
        """Store the losses of one removed set, as `store_all` does."""
        self.store_all(context, windows, {removed: losses})

    def store_all(
        self,
        context: Context,
        windows: Sequence[bytes],
        losses: Mapping[RemovedSet, NDArray[np.float64]],
    ) -> None:
        """Store the losses of some removed sets in one transaction.

        What is stored already stays as it is. If it cannot be done, the memo stores nothing from
        then on, and `notes` says why.

        Args:
            context: What the losses depend on.
            windows: Keys of windows.
            losses: For each sorted set, a loss a window; NaN and infinities are losses too.
        """
        if not self._writes:
            return
        with self._or_without_it(writing=True), _transaction(self._db, "IMMEDIATE"):
            _add(self._db, context, windows, losses)
        self._touch(context.key())

    def changed(self, name: str, weights: str) -> str | None:
        """Remember whose weights these are, and tell whether they changed.

        Args:
            name: The model, told so that it means the same in every folder.
            weights: Fingerprint of its weights now.

        Returns:
            The earlier fingerprint, if these weights are new under the name and losses of earlier
            ones are stored, which are not reused; None at every later call, and where there is
            nothing to say.
        """
        before = None
        if self._reads:
            with self._or_without_it():
                before = self._db.execute(
                    "SELECT weights FROM names WHERE name = :name AND NOT EXISTS "
                    "(SELECT 1 FROM names WHERE name = :name AND weights = :weights) "
                    "AND weights IN (SELECT weights FROM contexts) ORDER BY since DESC LIMIT 1",
                    {"name": name, "weights": weights},
                ).fetchone()
        if self._writes:
            with self._or_without_it(writing=True):
                self._db.execute(
                    "INSERT OR IGNORE INTO names VALUES (?, ?, ?)", (name, weights, time.time())
                )
        return None if before is None else str(before[0])

    def statistics(self) -> MemoStatistics:
        """What the memo holds.

        Raises:
            OutputError: If the file is damaged, or cannot be read any more.
        """
        names: dict[str, list[str]] = {}
        with self._or_refuse(), _transaction(self._db, "DEFERRED"):
            for weights, name in self._db.execute("SELECT weights, name FROM names ORDER BY name"):
                names.setdefault(weights, []).append(name)
            contexts = self._db.execute(
                "SELECT weights, dtype, device, torch, objective, recovery, used, (SELECT count(*) "
                "FROM losses WHERE context_id = id) FROM contexts ORDER BY used DESC, id"
            ).fetchall()
            sets, windows = (
                int(self._db.execute(f"SELECT count(*) FROM {table}").fetchone()[0])
                for table in ("sets", "windows")
            )
        rows = tuple(
            ContextStatistics(Context(*facts), tuple(names.get(facts[0], ())), losses, used)
            for *facts, used, losses in contexts
        )
        size = 0 if self.path is None else _size(self.path) + _size(_ahead(self.path))
        return MemoStatistics(size, sets, windows, rows)

    def prune(
        self,
        *,
        older_than_days: float | None = None,
        weights: str | None = None,
        everything: bool = False,
    ) -> int:
        """Delete contexts with their losses, and what only they needed; the file shrinks.

        Args:
            older_than_days: Those last used longer ago than this.
            weights: Those whose weights' fingerprint begins so; with `older_than_days`, both hold.
            everything: All of them.

        Returns:
            Number of losses deleted.

        Raises:
            UsageError: If nothing, or everything and something, was asked for.
            OutputError: If the file cannot be written, or is damaged.
        """
        some = older_than_days is not None or bool(weights)
        if some == everything:
            raise UsageError("memo: expected an age, weights or both to prune, or else everything")
        if not self._writes:
            raise OutputError(f"{self._label}: cannot be written; prune as a user who may write it")
        limit = np.inf if older_than_days is None else time.time() - older_than_days * _DAY
        prefix = (weights or "").lower()
        with self._or_refuse(), _transaction(self._db, "IMMEDIATE"):
            gone = self._db.execute(
                "SELECT id FROM contexts WHERE used < ? AND substr(weights, 1, length(?)) = ?",
                (limit, prefix, prefix),
            ).fetchall()
            deleted = self._db.executemany("DELETE FROM losses WHERE context_id = ?", gone).rowcount
            self._db.executemany("DELETE FROM contexts WHERE id = ?", gone)
            for statement in _ORPHANS:
                self._db.execute(statement)
        # Neither is needed for what follows; both fail while another process reads.
        with suppress(sqlite3.OperationalError):
            self._db.execute("VACUUM")
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return max(0, deleted)

    @property
    def _label(self) -> str:
        return "memo" if self.path is None else f"--memo {self.path}"

    @contextmanager
    def _or_without_it(self, *, writing: bool = False) -> Iterator[None]:
        """Let the run go on when the file fails: without storing, or without the memo at all."""
        try:
            yield
        except sqlite3.ProgrammingError:
            raise
        except sqlite3.DatabaseError as error:
            self._writes = False
            self._reads = self._reads and writing and isinstance(error, sqlite3.OperationalError)
            rest = "nothing more is stored" if self._reads else "the run goes on without it"
            reason, remedy = _reason(error)
            self.notes.append(f"{self._label}: {reason}; {rest}; {remedy} before the next run")

    @contextmanager
    def _or_refuse(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.ProgrammingError:
            raise
        except sqlite3.DatabaseError as error:
            raise _refusal(self._label, error) from error


def _connect(place: Path) -> tuple[sqlite3.Connection, bool]:
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
        return _prepared(f"{uri}?mode=rwc", label, writable=True), True
    except sqlite3.DatabaseError as error:
        failure = error
    if os.path.exists(place) and re.search("readonly|unable to open", str(failure)):
        # The second way is for a folder in which SQLite cannot put its files beside the memo. It
        # would not see what a killed process left in one of them.
        ways = ["mode=ro"] + ["mode=ro&immutable=1"] * (not _size(_ahead(place)))
        for mode in ways:
            with suppress(sqlite3.OperationalError):
                return _prepared(f"{uri}?{mode}", label, writable=False), False
    raise _refusal(label, failure) from failure


def _prepared(uri: str, label: str = "memo", *, writable: bool) -> sqlite3.Connection:
    db = sqlite3.connect(uri, uri=True, timeout=_BUSY_SECONDS, isolation_level=None)
    try:
        fresh = _is_fresh(db, label)
        if not writable:
            if fresh:
                raise OutputError(f"{label}: is empty and cannot be written; choose another path")
            return db
        if fresh:
            _write_ahead(db)
        # A commit need not wait for the disk: a kill loses nothing of it, and a power cut at most
        # the last ones, whole.
        db.execute("PRAGMA synchronous = NORMAL")
        with _transaction(db, "IMMEDIATE"):
            if _is_fresh(db, label):
                for statement in _SCHEMA.split(";"):
                    db.execute(statement)
                db.execute(f"PRAGMA application_id = {_APPLICATION}")
                db.execute(f"PRAGMA user_version = {_VERSION}")
    except BaseException:
        db.close()
        raise
    return db


def _write_ahead(db: sqlite3.Connection) -> None:
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
    application, version = (
        int(db.execute(f"PRAGMA {name}").fetchone()[0])
        for name in ("application_id", "user_version")
    )
    if application != _APPLICATION:
        raise OutputError(f"{label}: it is another program's database; choose another path")
    if version != _VERSION:
        raise OutputError(
            f"{label}: expected a memo of version {_VERSION}, found {version}, which another "
            "depthprune made; choose another path, or delete it"
        )
    if not tables >= _TABLES:
        raise sqlite3.DatabaseError("malformed: tables are missing")
    return False


@contextmanager
def _transaction(db: sqlite3.Connection, kind: str) -> Iterator[None]:
    db.execute(f"BEGIN {kind}")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        with suppress(sqlite3.Error):
            db.execute("ROLLBACK")
        raise


def _reason(error: sqlite3.DatabaseError) -> tuple[str, str]:
    """What is wrong with the file, and what helps."""
    for words, reason, remedy in _REASONS:
        if words in str(error):
            return f"{reason} ({error})", remedy
    return f"it cannot be used ({error})", "choose another path"


def _refusal(label: str, error: sqlite3.DatabaseError) -> OutputError:
    reason, remedy = _reason(error)
    return OutputError(f"{label}: {reason}; {remedy}, or pass --memo off")


def _ahead(place: Path) -> Path:
    return place.with_name(place.name + "-wal")


def _size(place: Path) -> int:
    try:
        return place.stat().st_size
    except OSError:
        return 0


def _found(
    db: sqlite3.Connection, context: str, rows: Mapping[str, int], columns: Mapping[bytes, int]
) -> Iterator[tuple[int, int, float | None]]:
    """The losses of a context on some sets and windows: row, column, loss."""
    context_id = _ids(db, "contexts", [context]).get(context)
    sets = {i: rows[key] for key, i in _ids(db, "sets", list(rows)).items()}
    windows = {i: columns[key] for key, i in _ids(db, "windows", list(columns)).items()}
    for some, others in product(_chunks(sorted(sets)), _chunks(sorted(windows))):
        found = db.execute(
            "SELECT set_id, window_id, loss FROM losses WHERE context_id = ? "
            f"AND set_id IN ({_marks(some)}) AND window_id IN ({_marks(others)})",
            [context_id, *some, *others],
        )
        for set_id, window_id, loss in found:
            yield sets[set_id], windows[window_id], loss


def _add(
    db: sqlite3.Connection,
    context: Context,
    windows: Sequence[bytes],
    losses: Mapping[RemovedSet, NDArray[np.float64]],
) -> None:
    key = context.key()
    db.execute(
        "INSERT OR IGNORE INTO contexts (key, weights, dtype, device, torch, objective, recovery, "
        "used) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (key, *astuple(context), time.time()),
    )
    context_id = _ids(db, "contexts", [key])[key]
    window_ids = _ids(db, "windows", windows, add=True)
    set_ids = _ids(db, "sets", [_text(s) for s in losses], add=True)
    rows = (
        (context_id, set_ids[_text(s)], window_ids[window], loss)
        for s, values in losses.items()
        for window, loss in zip(windows, values.tolist(), strict=True)
    )
    db.executemany("INSERT OR IGNORE INTO losses VALUES (?, ?, ?, ?)", rows)


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
    for key in distinct if add else ():
        if key not in found:
            inserted = db.execute(f"INSERT INTO {table} (key) VALUES (?)", (key,))
            found[key] = int(inserted.lastrowid or 0)
    return found


def _text(removed: RemovedSet) -> str:
    return ",".join(map(str, removed))


def _marks(values: Sequence[object]) -> str:
    return ", ".join("?" * len(values))


def _chunks(values: Sequence[Item]) -> list[Sequence[Item]]:
    return [values[i : i + _CHUNK] for i in range(0, len(values), _CHUNK)]
