"""A dataclass is refused by the bounds that its fields declare."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import pytest
from pydantic import Field

from depthprune.bounds import check_bounds
from depthprune.errors import UsageError


@dataclass(frozen=True)
class _Bounded:
    count: Annotated[int, Field(ge=1)] = 1
    share: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = 0.5
    rate: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    small: Annotated[float, Field(gt=0, le=1)] = 1.0
    top: Annotated[int, Field(ge=0, description="0 (all) or more")] = 0
    way: Literal["up", "down"] = "up"
    free: float = 0.0


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("count", 0, "1 or more, got 0"),
        ("count", 1.5, "1 or more, got 1.5"),
        ("count", "3", "1 or more, got '3'"),
        ("share", 5.0, "0 to 1, got 5"),
        ("share", float("nan"), "0 to 1, got nan"),
        ("rate", 0.0, "a number above 0, got 0"),
        ("rate", float("inf"), "a number above 0, got inf"),
        ("small", 2.0, "a number above 0, at most 1, got 2"),
        ("top", -1, "0 (all) or more, got -1"),
        ("way", "left", "up or down, got 'left'"),
        ("free", "x", "a number, got 'x'"),
    ],
)
def test_a_value_out_of_bounds_is_named_with_them(field: str, value: Any, expected: str) -> None:
    with pytest.raises(UsageError) as caught:
        check_bounds("it", _Bounded(**{field: value}))
    assert str(caught.value) == f"it: {field}: expected {expected}"


def test_numpys_numbers_become_pythons() -> None:
    made = _Bounded(count=np.int64(3), rate=np.float32(0.5))  # type: ignore[arg-type]
    check_bounds("it", made)
    assert (type(made.count), made.count, type(made.rate), made.rate) == (int, 3, float, 0.5)


def test_the_bounds_themselves_are_within() -> None:
    check_bounds("it", _Bounded())
    check_bounds("it", _Bounded(count=1, share=0, rate=1, small=1.0, free=2))
