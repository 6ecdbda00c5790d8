"""What an extra brings is imported, or refused in one line that installs it."""

from __future__ import annotations

import json

import pytest

from depthprune.errors import CalibrationError, UsageError
from depthprune.extras import check_extra, require_extra


def test_the_modules_come_in_order() -> None:
    assert require_extra("a test", "data", "json", "json.decoder") == (json, json.decoder)
    check_extra("a test", "data", "json")


def test_a_missing_one_is_refused_by_the_caller_s_kind_of_error() -> None:
    with pytest.raises(CalibrationError) as caught:
        require_extra("parquet", "data", "json", "no_such.part", error=CalibrationError)
    assert str(caught.value) == (
        "parquet: needs no-such, which is not installed; run: pip install 'depthprune[data]'"
    )
    with pytest.raises(UsageError, match="tasks: needs no-such, which is not installed"):
        check_extra("tasks", "eval", "json", "no_such")
