"""A checksum of each loss in the memo, over the loss and all that it is of.

A flipped bit in a number that is stored makes another number, which SQLite cannot tell. The sum is
over the keys of context, set and window and not their ids, so that an id that changed is found too.
Files of the version before had none; they are given them once, when they are opened for writing.
"""

from __future__ import annotations

import math
import sqlite3
import struct
import zlib

BEFORE = 2
"""The version of a memo whose losses have no checksums."""

_LOSSES = (
    "SELECT w.id, c.key, s.key, w.key, loss FROM losses JOIN contexts c ON c.id = context_id "
    "JOIN sets s ON s.id = set_id JOIN windows w ON w.id = window_id "
    "WHERE context_id = ? AND set_id = ?"
)
_ADD = "UPDATE losses SET checksum = ? WHERE context_id = ? AND set_id = ? AND window_id = ?"


def checksum(context: str, removed: str, window: bytes, loss: float | None) -> int:
    """The sum of one loss.

    Args:
        context: Key of what it depends on.
        removed: Key of its set.
        window: Key of its window.
        loss: None, as SQLite keeps it, for NaN.
    """
    # SQLite keeps no sign of a zero either.
    value = math.nan if loss is None or math.isnan(loss) else loss + 0.0
    named = zlib.crc32(f"{context} {removed} ".encode())
    return zlib.crc32(window + struct.pack("<d", value), named)


def add_checksums(db: sqlite3.Connection) -> int:
    """Give the losses of an earlier version their sums, inside a transaction; how many there are.

    Raises:
        sqlite3.DatabaseError: If a loss is of a set or a window that is not there.
    """
    db.execute("ALTER TABLE losses ADD COLUMN checksum INTEGER")
    added = 0
    # Not by a function of SQLite's, which would swallow an interrupt that arrives inside it.
    sets = db.execute("SELECT context_id, set_id, count(*) FROM losses GROUP BY 1, 2").fetchall()
    for context_id, set_id, count in sets:
        found = db.execute(_LOSSES, (context_id, set_id)).fetchall()
        if len(found) < count:
            raise sqlite3.DatabaseError("malformed: a loss is of nothing that is there")
        try:
            sums = [(checksum(*facts), context_id, set_id, window) for window, *facts in found]
        except (TypeError, struct.error) as error:
            raise sqlite3.DatabaseError("malformed: a loss is no number") from error
        db.executemany(_ADD, sums)
        added += count
    return added
