"""The processor matrix shows each kind of arithmetic once, and says what it cannot show."""

from __future__ import annotations

import os

import pytest

import processors
from processors import VARIABLE, distinct, environment


def test_every_setting_that_changes_the_kernels_is_shown() -> None:
    assert distinct({"AVX2": "two", "AVX512_CORE_BF16": "bf16", None: "amx"}) == [
        *(None, "AVX2", "AVX512_CORE_BF16")
    ]


def test_a_setting_beyond_the_processor_is_not_shown_twice() -> None:
    assert distinct({"AVX2": "two", "AVX512_CORE_BF16": "two", None: "two"}) == [None]
    assert distinct({"AVX2": "", "AVX512_CORE_BF16": "", None: ""}) == [None]


def test_the_setting_is_all_that_differs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "SSE41")
    assert VARIABLE not in environment(None)
    assert environment("AVX2") == {**os.environ, VARIABLE: "AVX2"}


def test_a_failure_under_one_setting_fails_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processors, "instructions", str)
    monkeypatch.setattr(processors, "passes", lambda setting: setting != "AVX2")
    with pytest.raises(SystemExit, match="failed under ONEDNN_MAX_CPU_ISA = AVX2"):
        processors.main()
