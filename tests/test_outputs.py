"""Outputs appear whole or not at all, and --overwrite touches only what depthprune wrote."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from depthprune import outputs, publishing
from depthprune.claims import staged
from depthprune.errors import ModelError, OutputError
from depthprune.outputs import (
    MANIFEST_NAME,
    as_target,
    check_space,
    check_target,
    disk_errors,
    whole_file,
)


def _write(out: Path, overwrite: bool = False, **files: str) -> Path:
    """An output as a verb makes it: some files and the manifest that lists them."""
    with staged(as_target(out), overwrite=overwrite) as stage:
        for name, text in files.items():
            (stage / name).write_text(text, encoding="utf-8")
        (stage / MANIFEST_NAME).write_text(json.dumps({"files": list(files)}), encoding="utf-8")
    return out


def _write_half(path: Path, failure: BaseException) -> None:
    path.write_text("half", encoding="utf-8")
    raise failure


def _contents(folder: Path) -> dict[str, str]:
    return {p.name: p.read_text(encoding="utf-8") for p in folder.iterdir() if p.is_file()}


def _names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_what_was_staged_becomes_the_output(tmp_path: Path) -> None:
    out = _write(tmp_path / "out", a="1", b="2")
    assert _names(out) == ["a", "b", MANIFEST_NAME]
    assert _names(tmp_path) == ["out"]


def test_missing_parents_are_made(tmp_path: Path) -> None:
    assert (_write(tmp_path / "new" / "deep" / "out", a="1") / "a").is_file()


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    assert _names(_write(tmp_path / "out", a="1")) == ["a", MANIFEST_NAME]
    assert _names(tmp_path) == ["out"]


def test_nothing_is_seen_of_an_output_before_it_is_whole(tmp_path: Path) -> None:
    with staged(as_target(tmp_path / "out")) as stage:
        (stage / "a").write_text("1", encoding="utf-8")
        assert not (tmp_path / "out").exists()
        assert stage.parent == tmp_path


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX's")
def test_an_output_has_the_modes_that_the_user_s_mask_gives(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        out = _write(tmp_path / "out", a="1")
        with whole_file(tmp_path / "f") as partial:
            partial.write_text("x", encoding="utf-8")
    finally:
        os.umask(old)
    assert out.stat().st_mode & 0o777 == 0o750
    assert (tmp_path / "f").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("failure", [ValueError("no"), KeyboardInterrupt(), SystemExit(1)])
def test_a_failure_leaves_nothing(failure: BaseException, tmp_path: Path) -> None:
    with pytest.raises(type(failure)), staged(as_target(tmp_path / "out")) as stage:
        _write_half(stage / "a", failure)
    assert _names(tmp_path) == []


@pytest.mark.parametrize("name", ["out", "out.gguf"])
def test_a_failure_takes_away_the_parents_that_were_made_and_no_others(
    name: str, tmp_path: Path
) -> None:
    (tmp_path / "mine").mkdir()
    with (
        pytest.raises(ValueError, match="no"),
        staged(as_target(tmp_path / "mine" / "a" / "b" / name)) as stage,
    ):
        _write_half(stage / "a" if stage.is_dir() else stage, ValueError("no"))
    assert _names(tmp_path) == ["mine"]
    assert _names(tmp_path / "mine") == []


def test_parents_into_which_another_wrote_meanwhile_stay(tmp_path: Path) -> None:
    theirs = tmp_path / "a" / "theirs"
    with pytest.raises(ValueError, match="no"), staged(as_target(tmp_path / "a" / "b" / "out")):
        _write_half(theirs, ValueError("no"))
    assert _names(tmp_path / "a") == ["theirs"]


def test_a_failure_leaves_an_earlier_output_as_it_was(tmp_path: Path) -> None:
    out = _write(tmp_path / "out", a="old")
    with pytest.raises(KeyboardInterrupt), staged(as_target(out), overwrite=True) as stage:
        _write_half(stage / "a", KeyboardInterrupt())
    assert _contents(out)["a"] == "old"
    assert _names(tmp_path) == ["out"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_is_an_output_error_and_leaves_nothing(code: int, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="the disk is full"), staged(as_target(tmp_path / "out")):
        raise OSError(code, os.strerror(code))
    assert _names(tmp_path) == []


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS, errno.EPERM])
def test_a_place_that_cannot_be_written_is_an_output_error(code: int, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot be written"), staged(as_target(tmp_path / "out")):
        raise OSError(code, os.strerror(code))


@pytest.mark.skipif(sys.platform == "win32", reason="the limit is POSIX's")
def test_a_full_disk_is_known_in_the_words_of_rust(tmp_path: Path) -> None:
    """safetensors and tokenizers raise no `OSError`."""
    import resource

    from safetensors.numpy import save_file
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel

    file = str(tmp_path / "file")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for write in (
        lambda: save_file({"a": np.zeros(999)}, file),
        lambda: Tokenizer(WordLevel({str(i): i for i in range(999)}, "0")).save(file),
    ):
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
        try:
            full = pytest.raises(OutputError, match=r"the disk is full \(File too large\)")
            with full, disk_errors(tmp_path / "out"):
                write()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_what_a_refusal_quotes_is_not_taken_for_the_disk_s_state(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot load it"), disk_errors(tmp_path / "out"):
        raise ModelError("a: transformers cannot load it: I/O error (os error 28)")


def test_another_error_of_the_system_is_not_dressed_up(tmp_path: Path) -> None:
    with pytest.raises(ConnectionResetError), staged(as_target(tmp_path / "out")):
        raise ConnectionResetError(errno.ECONNRESET, "reset")


_FILL = """
import resource, signal, sys
from pathlib import Path
from depthprune.errors import OutputError
from depthprune.claims import staged
from depthprune.outputs import as_target
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    with staged(as_target(Path(sys.argv[1]))) as stage:
        (stage / "small").write_bytes(b"x" * 900)
        (stage / "large").write_bytes(b"x" * 2000)
except OutputError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="the limit is POSIX's")
def test_a_real_write_that_fails_half_way_leaves_nothing(tmp_path: Path) -> None:
    found = subprocess.run(
        [sys.executable, "-c", _FILL, str(tmp_path / "out")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "the disk is full (File too large)" in found.stdout
    assert _names(tmp_path) == []


def test_an_output_that_cannot_take_its_place_leaves_the_earlier_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = _write(tmp_path / "out", a="old")
    rename = os.rename

    def failing(source: Path, target: Path) -> None:
        if Path(target) == out and ".partial-" in str(source):
            raise OSError(errno.ENOSPC, "No space left on device")
        rename(source, target)

    monkeypatch.setattr(publishing.os, "rename", failing)
    with pytest.raises(OutputError, match="the disk is full"):
        _write(out, overwrite=True, a="new")
    assert _contents(out)["a"] == "old"
    assert _names(tmp_path) == ["out"]


def test_a_folder_that_is_not_empty_is_refused_without_overwrite(tmp_path: Path) -> None:
    out = _write(tmp_path / "out", a="old")
    with pytest.raises(OutputError, match=r"exists and is not empty.*pass --overwrite"):
        check_target(as_target(out), overwrite=False)


def test_a_hidden_file_counts_as_something(tmp_path: Path) -> None:
    (tmp_path / ".keep").touch()
    with pytest.raises(OutputError, match="exists and is not empty"):
        check_target(as_target(tmp_path), overwrite=False)


def test_overwrite_replaces_what_the_manifest_lists_and_carries_the_rest(tmp_path: Path) -> None:
    out = _write(tmp_path / "out", a="old", b="old")
    (out / "mine.txt").write_text("mine", encoding="utf-8")
    (out / "notes").mkdir()
    (out / "notes" / "n.txt").write_text("note", encoding="utf-8")
    (out / "link").symlink_to("mine.txt")
    _write(out, overwrite=True, a="new", c="new")
    assert _names(out) == ["a", "c", MANIFEST_NAME, "link", "mine.txt", "notes"]
    assert (_contents(out)["a"], _contents(out)["mine.txt"]) == ("new", "mine")
    assert (out / "notes" / "n.txt").read_text(encoding="utf-8") == "note"
    assert os.readlink(out / "link") == "mine.txt"
    assert _names(tmp_path) == ["out"]


def test_a_file_of_the_user_s_is_not_replaced_by_one_of_the_same_name(tmp_path: Path) -> None:
    out = _write(tmp_path / "out", a="old")
    (out / "b").write_text("mine", encoding="utf-8")
    with pytest.raises(OutputError, match="b is not depthprune's"):
        _write(out, overwrite=True, b="new")
    assert (_contents(out)["a"], _contents(out)["b"]) == ("old", "mine")
    assert _names(tmp_path) == ["out"]


def test_overwrite_refuses_a_folder_without_a_manifest(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine", encoding="utf-8")
    with pytest.raises(OutputError, match=f"replaces only what .* holds no {MANIFEST_NAME}"):
        check_target(as_target(tmp_path), overwrite=True)


@pytest.mark.parametrize("manifest", ["", "[]", "{}", '{"files": 3}', "\xff"])
def test_overwrite_refuses_a_manifest_that_lists_no_files(manifest: str, tmp_path: Path) -> None:
    (tmp_path / MANIFEST_NAME).write_text(manifest, encoding="latin-1")
    with pytest.raises(OutputError, match="lists no files"):
        check_target(as_target(tmp_path), overwrite=True)


def test_a_file_in_the_output_s_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").touch()
    with pytest.raises(OutputError, match="expected a folder, found a file"):
        check_target(as_target(tmp_path / "out"), overwrite=True)


def test_a_file_among_the_output_s_parents_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="file is a file, not a folder"):
        check_target(as_target(tmp_path / "file" / "deep" / "out"), overwrite=False)


def test_the_current_folder_cannot_be_the_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OutputError, match="current folder cannot be replaced as a whole"):
        check_target(as_target(Path(".")), overwrite=False)


def test_a_mount_point_cannot_be_the_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outputs.os.path, "ismount", lambda path: True)
    with pytest.raises(OutputError, match=r"mount point .* cannot be replaced as a whole"):
        check_target(as_target(tmp_path), overwrite=False)


def test_a_folder_that_cannot_be_written_is_refused_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outputs.os, "access", lambda path, mode: False)
    with pytest.raises(OutputError, match="cannot be written; choose another path"):
        check_target(as_target(tmp_path / "out"), overwrite=False)


def test_too_little_space_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    check_space(tmp_path / "new" / "out", 1)
    with pytest.raises(OutputError, match=r"needs 1000000000\.00 GB and the disk has"):
        check_space(tmp_path / "new" / "out", 10**18)
    assert _names(tmp_path) == []


def test_a_whole_file_takes_the_place_of_another(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("old", encoding="utf-8")
    with whole_file(tmp_path / "f") as partial:
        partial.write_text("new", encoding="utf-8")
        assert (tmp_path / "f").read_text(encoding="utf-8") == "old"
    assert _contents(tmp_path) == {"f": "new"}


@pytest.mark.parametrize("failure", [ValueError("no"), KeyboardInterrupt()])
def test_a_file_that_fails_leaves_the_earlier_one(failure: BaseException, tmp_path: Path) -> None:
    (tmp_path / "f").write_text("old", encoding="utf-8")
    with pytest.raises(type(failure)), whole_file(tmp_path / "f") as partial:
        _write_half(partial, failure)
    assert _contents(tmp_path) == {"f": "old"}


def test_a_file_on_a_full_disk_is_an_output_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="the disk is full"), whole_file(tmp_path / "f"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert _names(tmp_path) == []


def _write_gguf(out: Path, overwrite: bool = False, text: str = "1") -> Path:
    """An output that is one file, with its manifest and page beside it."""
    with staged(as_target(out), overwrite=overwrite) as stage:
        stage.write_text(text, encoding="utf-8")
        as_target(stage).page.write_text("page", encoding="utf-8")
        files = [out.name, as_target(out).page.name]
        as_target(stage).manifest.write_text(json.dumps({"files": files}), encoding="utf-8")
    return out


def test_a_file_has_its_manifest_and_page_beside_it_under_its_name(tmp_path: Path) -> None:
    out = _write_gguf(tmp_path / "deep" / "model.Q4.gguf")
    assert _names(out.parent) == [
        "model.Q4.depthprune.json",
        "model.Q4.gguf",
        "model.Q4.report.html",
    ]
    assert as_target(tmp_path / "folder").manifest == tmp_path / "folder" / MANIFEST_NAME


@pytest.mark.parametrize("failure", [ValueError("no"), KeyboardInterrupt()])
def test_a_file_that_fails_leaves_nothing(tmp_path: Path, failure: BaseException) -> None:
    with pytest.raises(type(failure)), staged(as_target(tmp_path / "x.gguf")) as stage:
        _write_half(stage, failure)
    assert _names(tmp_path) == []


def test_a_full_disk_is_said_of_a_file_too(tmp_path: Path) -> None:
    with (
        pytest.raises(OutputError, match="the disk is full"),
        staged(as_target(tmp_path / "x.gguf")),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert _names(tmp_path) == []


def test_a_file_is_replaced_only_where_its_manifest_names_it(tmp_path: Path) -> None:
    out = _write_gguf(tmp_path / "x.gguf")
    with pytest.raises(OutputError, match=r"x\.gguf exists; choose another, or pass --overwrite"):
        check_target(as_target(out), overwrite=False)
    assert _write_gguf(out, overwrite=True, text="2").read_text(encoding="utf-8") == "2"
    assert len(_names(tmp_path)) == 3
    (tmp_path / "y.report.html").write_text("mine", encoding="utf-8")
    with pytest.raises(OutputError, match=r"no y\.depthprune\.json names y\.report\.html"):
        check_target(as_target(tmp_path / "y.gguf"), overwrite=True)
    (tmp_path / "z.gguf").mkdir()
    with pytest.raises(OutputError, match="expected a file, found a folder"):
        check_target(as_target(tmp_path / "z.gguf"), overwrite=True)
