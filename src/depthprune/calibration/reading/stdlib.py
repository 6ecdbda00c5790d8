"""Text that every Python installation carries: prose and code, no download.

The prose is `pydoc_data.topics`, the language reference as `help()` shows it. The code is the
top-level modules of the standard library: a few million characters, far more than a draw takes, in
files that are wanted whole. Both change a little between Python versions; a calibration's
fingerprint shows it.
"""

from __future__ import annotations

import sysconfig
import tokenize
from collections.abc import Iterator
from pathlib import Path

from depthprune.errors import CalibrationError


def prose_documents() -> Iterator[tuple[str, str]]:
    """The topics of the language reference, by name, in alphabetical order.

    Raises:
        CalibrationError: If this Python was installed without `pydoc_data`.
    """
    try:
        from pydoc_data.topics import topics
    except ImportError as error:
        raise CalibrationError(
            "stdlib-prose: this Python was installed without pydoc_data; use text: instead"
        ) from error
    for name in sorted(topics):
        yield f"pydoc_data.topics/{name}", topics[name]


def code_documents() -> Iterator[tuple[str, str]]:
    """The top-level modules of the standard library, by file name, in alphabetical order.

    Raises:
        CalibrationError: If this Python carries no source files.
    """
    folder = Path(sysconfig.get_paths()["stdlib"])
    files = sorted(folder.glob("*.py"))
    if not files:
        raise CalibrationError(
            f"stdlib-code: no source files in {folder}; use text: or jsonl: instead"
        )
    for file in files:
        with tokenize.open(file) as stream:
            yield file.name, stream.read()
