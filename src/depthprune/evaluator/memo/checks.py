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
    db.create_function("checksum_of", 4, checksum, deterministic=True)
    db.execute("ALTER TABLE losses ADD COLUMN checksum INTEGER")
    changed = db.execute(
        "UPDATE losses SET checksum = checksum_of("
        "(SELECT key FROM contexts WHERE id = context_id), (SELECT key FROM sets WHERE id = set_id)"
        ", (SELECT key FROM windows WHERE id = window_id), loss)"
    )
    return max(0, changed.rowcount)
