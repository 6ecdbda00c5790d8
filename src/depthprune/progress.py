"""How long work shows itself, without any room knowing about terminals.

A step is announced with its total; the work calls `advance`. The command line passes a reporter
that draws on stderr; everyone else gets `SILENT`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


class ProgressStep(Protocol):
    """One running step of known size."""

    def advance(self, amount: float = 1.0) -> None:
        """Say that `amount` more of the step's total is done."""


class Progress(Protocol):
    """Something that can show steps."""

    def step(
        self, label: str, total: float | None, unit: str
    ) -> AbstractContextManager[ProgressStep]:
        """Show a step of `total` units (None where the size is not known beforehand)."""


class _SilentStep:
    def advance(self, amount: float = 1.0) -> None:
        pass


class _Silent:
    @contextmanager
    def step(self, label: str, total: float | None, unit: str) -> Iterator[ProgressStep]:
        yield _SilentStep()


SILENT: Progress = _Silent()
"""Shows nothing."""


_LOG = logging.getLogger("depthprune")


def note(message: str) -> None:
    """Log what a user may want to know; silent unless the program listens."""
    _LOG.info(message)


def warn(message: str) -> None:
    """Log what a user should know."""
    _LOG.warning(message)
