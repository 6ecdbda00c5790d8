"""One read in the background: the next block's bytes come while this one computes.

Which block is next is learned: the one that followed last time, else the next by number. There is
never more than one read under way or waiting to be used, so what it takes is one more block of
memory; one that turns out not to be wanted is dropped. A read that fails is forgotten, since
whoever needs the block reads it again and says what is wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

T = TypeVar("T")


class ReadAhead(Generic[T]):
    """Holds at most one block that is read before it is asked for.

    Args:
        blocks: How many there are.
        drop: Is given what was read and is not wanted.
    """

    def __init__(self, blocks: int, drop: Callable[[T], None]) -> None:
        self._blocks = blocks
        self._drop = drop
        self._pool: ThreadPoolExecutor | None = None
        self._under_way: tuple[int, Future[T]] | None = None
        self._followers: dict[int, int] = {}
        self._last: int | None = None

    def next_after(self, block: int) -> int | None:
        """Which block is likely to be asked for after this one; None where none is known."""
        following = self._followers.get(block, block + 1)
        return following if following < self._blocks and following != block else None

    def begin(self, block: int, read: Callable[[], T]) -> None:
        """Start reading a block; nothing may be under way."""
        if self._pool is None:
            self._pool = ThreadPoolExecutor(1, thread_name_prefix="depthprune-read-ahead")
        self._under_way = (block, self._pool.submit(read))

    def take(self, block: int) -> T | None:
        """The block, if it was read ahead; after this no read is under way."""
        if self._last is not None:
            self._followers[self._last] = block
        self._last = block
        return self._settled(block)

    def abandon(self) -> None:
        """Drop what was read ahead."""
        self._settled(None)

    def _settled(self, wanted: int | None) -> T | None:
        if self._under_way is None:
            return None
        block, future = self._under_way
        self._under_way = None
        try:
            found = future.result()
        except Exception:
            return None
        if block == wanted:
            return found
        self._drop(found)
        return None
