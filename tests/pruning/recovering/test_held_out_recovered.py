"""What recovery made worse is said, with how sure that is."""

from __future__ import annotations

import math

import pytest

from depthprune.manifest import HeldOut
from depthprune.pruning.recovering.held_out_recovered import harmed


@pytest.mark.parametrize(
    ("change", "stderr", "told"),
    [
        (0.3, 0.1, "the loss rose by 0.300 ± 0.100"),
        (0.1, 0.3, None),
        (0.3, math.nan, "the loss rose by 0.300, on one window"),
        (-0.3, math.nan, None),
        (5e-7, 1e-7, None),
    ],
)
def test_a_rise_above_its_error_is_told_and_one_that_has_none_is_too(
    change: float, stderr: float, told: str | None
) -> None:
    record = HeldOut.model_construct(
        calibration="text:a.txt",
        objective="nll",
        recovered_change=change,
        recovered_change_stderr=stderr,
    )
    found = harmed([record])
    assert [told in line for line in found if told] == [True] * bool(told)
    assert len(found) == bool(told)
