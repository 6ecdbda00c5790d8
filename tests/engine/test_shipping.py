"""A model's files on a worker's machine, in a folder where anyone may write."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from depthprune.engine import shipping
from depthprune.engine.shipping import ModelOnWorker
from depthprune.errors import ModelError

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="users are POSIX's")

FILES = {"config.json": b"{}", "model.safetensors": b"weights"}


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The machine's folder for temporary files."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(get=lambda files: files))
    return tmp_path


def _found() -> Path:
    return Path(ModelOnWorker("/not/here", True, {}, FILES, "abc")._found())


def test_what_was_shipped_lies_in_one_folder_and_is_found_again(place: Path) -> None:
    assert _found() == _found()
    assert list(place.iterdir()) == [_found()]
    assert {file.name: file.read_bytes() for file in _found().iterdir()} == FILES


def test_what_another_user_laid_there_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = _found()
    user = folder.stat().st_uid
    monkeypatch.setattr(shipping.os, "getuid", lambda: user + 1)
    folder.rename(folder.with_name(f"depthprune-{user + 1}-abc"))
    with pytest.raises(ModelError, match="is another user's and is not read"):
        _found()


def test_windows_which_numbers_no_users_reads_what_was_shipped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.delattr(os, "getuid")
    monkeypatch.setattr(Path, "lstat", lambda _: SimpleNamespace(st_uid=0))
    assert _found().name == "depthprune-0-abc"


def test_a_disk_that_fills_up_is_left_as_it_was(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space"):
        _found()
    assert list(place.iterdir()) == []
