"""The text that every Python carries."""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path

import pytest

from depthprune.calibration.reading.stdlib import code_documents, prose_documents
from depthprune.errors import CalibrationError


def test_prose_is_the_language_reference_in_alphabetical_order() -> None:
    documents = dict(prose_documents())
    assert list(documents) == sorted(documents)
    assert "yield" in documents["pydoc_data.topics/yield"]


def test_code_is_the_top_level_modules_in_alphabetical_order() -> None:
    documents = dict(code_documents())
    assert list(documents) == sorted(documents)
    assert "class JSONDecoder" not in documents["abc.py"]
    assert "def dataclass(" in documents["dataclasses.py"]


def test_code_is_read_in_the_encoding_it_declares(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "old.py").write_bytes(b"# -*- coding: latin-1 -*-\nNAME = 'caf\xe9'\n")
    monkeypatch.setattr(sysconfig, "get_paths", lambda: {"stdlib": str(tmp_path)})
    assert dict(code_documents())["old.py"].endswith("NAME = 'café'\n")


def test_a_python_without_the_reference_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    with pytest.raises(CalibrationError, match="without pydoc_data; use text: instead"):
        list(prose_documents())


def test_a_python_without_sources_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sysconfig, "get_paths", lambda: {"stdlib": str(tmp_path)})
    with pytest.raises(CalibrationError, match=r"no source files in .*; use text: or jsonl:"):
        list(code_documents())
