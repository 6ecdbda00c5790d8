"""Whatever is read ends in a result that holds, or in one clear line.

`DEPTHPRUNE_FUZZ` is how many inputs of each kind are tried (`make fuzz`: 10,000). Each has a seed
of its own, so that one that fails is tried again by its number alone: DEPTHPRUNE_FUZZ_FROM=417.
"""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from depthprune.errors import DepthpruneError
from fuzz.targets import TARGETS

COUNT = int(os.environ.get("DEPTHPRUNE_FUZZ", "60"))
FIRST = int(os.environ.get("DEPTHPRUNE_FUZZ_FROM", "0"))


def check_line(error: DepthpruneError) -> None:
    line = str(error)
    assert 10 < len(line) <= 2_000
    assert line.isprintable()
    assert "Traceback" not in line


@pytest.mark.parametrize("kind", TARGETS)
def test_every_input_ends_in_a_clear_line_or_a_result_that_holds(kind: str, tmp_path: Path) -> None:
    target = TARGETS[kind]
    target.make(tmp_path)
    refused = 0
    count = max(COUNT // target.each, 20)
    for number in range(FIRST, FIRST + count):
        try:
            target.attempt(tmp_path, random.Random(f"{kind} {number}"))
        except DepthpruneError as error:
            check_line(error)
            refused += 1
        except Exception as error:
            raise AssertionError(f"{kind} {number}: {type(error).__name__}: {error}") from error
    # Damage that nothing notices, and nothing but refusals, would both be no test at all.
    assert 0 < refused < count
