"""The memo: per-window losses in SQLite, shared by all searches, draws, runs and processes.

A row never changes once written and an id is never given twice, so what was read holds whatever
another process writes or prunes. Each store is one transaction in write-ahead logging: a kill
loses the unfinished one and nothing else. A memo that is wrong from the start is refused; one that
fails in mid-run must not cost the run, so it turns itself off and says so in `Memo.notes`.
"""

from __future__ import annotations

import math
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from depthprune.errors import OutputError, UsageError
from depthprune.evaluator.memo.file import (
    connect,
    log_beside,
    prepared,
    reason_of,
    refusal,
    renewed,
    size_of,
    transaction,
)
from depthprune.evaluator.memo.records import (
    Context,
    ContextStatistics,
    KnownLosses,
    MemoStatistics,
    default_path,
    window_key,
)
from depthprune.evaluator.memo.tables import (
    add_losses,
    delete_contexts,
    find_losses,
    set_key,
)
from depthprune.evaluator.prefix_walk import RemovedSet

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = [
    "Context",
    "ContextStatistics",
    "KnownLosses",
    "Memo",
    "MemoStatistics",
    "default_path",
    "window_key",
]

_TOUCH_EVERY = 3600.0
_DAY = 86_400.0


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
    def open(cls, path: str | Path | None = None) -> Memo:
        """Open the memo at a path, by default `default_path()`; make it if there is none.

        A file that can be read and not written is read. Where the default one cannot be made,
        losses are kept until the process ends. Either is said in `notes`.

        Raises:
            OutputError: If the file is no memo, of another version, damaged, or cannot be opened.
        """
        place = default_path() if path is None else Path(path)
        try:
            db, writable = connect(place)
        except OutputError as error:
            if path is not None or size_of(place):
                raise
            memory = prepared(":memory:", writable=True)
            return cls(memory, None, f"{error}; losses are kept for this run only")
        memo = cls(db, place)
        if writable:
            memo._renew()
        if not writable:
            memo._writes = False
            memo.notes.append(f"--memo {place}: cannot be written; it is read, nothing is added")
        return memo

    def _renew(self) -> None:
        with self._or_without_it(writing=True):
            losses = renewed(self._db)
            if losses is not None:
                self.notes.append(
                    f"{self._label}: was made by an earlier depthprune; its {losses:,} losses have "
                    "checksums now"
                )

    @classmethod
    def temporary(cls) -> Memo:
        """A memo that lasts until the process ends."""
        return cls(prepared(":memory:", writable=True), None)

    def __enter__(self) -> Memo:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; the memo must not be used again."""
        self._db.close()

    def look_up(
        self, context: Context, removed_sets: Sequence[RemovedSet], windows: Sequence[bytes]
    ) -> dict[RemovedSet, KnownLosses]:
        """What is known of some removed sets on some windows.

        Args:
            context: What the losses depend on.
            removed_sets: Sorted sets.
            windows: Keys of windows, in any order; one may come twice.

        Returns:
            For each set, its losses in the order of `windows`.
        """
        import numpy as np

        rows = {set_key(s): i for i, s in enumerate(dict.fromkeys(removed_sets))}
        columns = {w: i for i, w in enumerate(dict.fromkeys(windows))}
        losses = np.full((len(rows), len(columns)), np.nan)
        known = np.zeros(losses.shape, dtype=np.bool_)
        if self._reads:
            with self._or_without_it(), transaction(self._db, "DEFERRED"):
                for row, column, loss in find_losses(self._db, context.key(), rows, columns):
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
            s: KnownLosses(losses[rows[set_key(s)], places], known[rows[set_key(s)], places])
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
        with self._or_without_it(writing=True), transaction(self._db, "IMMEDIATE"):
            add_losses(self._db, context, windows, losses)
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
        kind = "IMMEDIATE" if self._writes else "DEFERRED"
        if self._reads:
            with self._or_without_it(writing=self._writes), transaction(self._db, kind):
                before = self._db.execute(
                    "SELECT weights FROM names WHERE name = :name AND NOT EXISTS "
                    "(SELECT 1 FROM names WHERE name = :name AND weights = :weights) "
                    "AND weights IN (SELECT weights FROM contexts) ORDER BY since DESC LIMIT 1",
                    {"name": name, "weights": weights},
                ).fetchone()
                if self._writes:
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
        with self._or_refuse(), transaction(self._db, "DEFERRED"):
            for weights, name in self._db.execute("SELECT weights, name FROM names ORDER BY name"):
                names.setdefault(weights, []).append(name)
            contexts = self._db.execute(
                "SELECT weights, dtype, device, torch, objective, arithmetic, recovery, used, "
                "(SELECT count(*) FROM losses WHERE context_id = id) FROM contexts "
                "ORDER BY used DESC, id"
            ).fetchall()
            sets, windows = (
                int(self._db.execute(f"SELECT count(*) FROM {table}").fetchone()[0])
                for table in ("sets", "windows")
            )
        rows = tuple(
            ContextStatistics(Context(*facts), tuple(names.get(facts[0], ())), losses, used)
            for *facts, used, losses in contexts
        )
        size = 0 if self.path is None else size_of(self.path) + size_of(log_beside(self.path))
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
            raise OutputError(f"{self._label}: cannot be written; prune as one who may write it")
        limit = math.inf if older_than_days is None else time.time() - older_than_days * _DAY
        with self._or_refuse(), transaction(self._db, "IMMEDIATE"):
            deleted = delete_contexts(self._db, float(limit), (weights or "").lower())
        # Neither is needed for what follows; both fail while another process reads.
        with suppress(sqlite3.OperationalError):
            self._db.execute("VACUUM")
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return deleted

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
            reason, remedy = reason_of(error)
            self.notes.append(f"{self._label}: {reason}; {rest}; {remedy} before the next run")

    @contextmanager
    def _or_refuse(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.ProgrammingError:
            raise
        except sqlite3.DatabaseError as error:
            raise refusal(self._label, error) from error
