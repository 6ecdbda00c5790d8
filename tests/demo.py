"""The real model of the slow tests, pruned once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

SMALL = "windows=4,length=48,seed=0"

DTYPE = ("--dtype", "float32")
"""A processor without units for bfloat16 takes seven times as long for it."""


def run(
    *words: str, cwd: Path | None = None, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own, without a network."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "COLUMNS": "100", **(environment or {})}
    return subprocess.run(
        [sys.executable, "-c", "from depthprune.cli import main; main()", *words],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=environment,
        check=False,
    )


def document(
    *words: str, cwd: Path | None = None, environment: Mapping[str, str] | None = None
) -> Any:
    """The JSON document that a run prints."""
    done = run(*words, "--json", cwd=cwd, environment=environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
