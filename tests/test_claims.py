"""An output is one process's, appears in one step, and survives kills at any moment."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from depthprune import claims, publishing
from depthprune.claims import claimed, forget_claims, held, published, staged
from depthprune.errors import OutputError
from depthprune.outputs import MANIFEST_NAME, as_target, whole_file
from depthprune.renames import exchange, rename_new

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the locks are POSIX's")

_WRITE = """
import json, os, sys, time
from pathlib import Path
from depthprune import publishing
from depthprune.claims import claimed
from depthprune.errors import OutputError
from depthprune.outputs import as_target

out, text, flags = Path(sys.argv[1]), sys.argv[2], sys.argv[3:]

def counting(real, steps):
    left = [steps]
    def call(*arguments):
        if not left[0]:
            os.kill(os.getpid(), 9)
        left[0] -= 1
        return real(*arguments)
    return call

for flag in flags:
    if flag.startswith("die="):
        steps = int(flag[4:])
        publishing.rename_new = counting(publishing.rename_new, steps)
        publishing.os.replace = counting(os.replace, steps)
    if flag.startswith("die-renaming="):
        publishing.os.rename = counting(os.rename, int(flag[13:]))
    if flag == "no-exchange":
        publishing.exchange = lambda *_: False
try:
    with claimed(as_target(out), overwrite="overwrite" in flags) as claim:
        print("claimed", flush=True)
        if "wait" in flags:
            time.sleep(60)
        if "meet" in flags:
            sys.stdin.readline()
        if out.suffix == ".gguf":
            files = [out.name, as_target(out).page.name]
            claim.place.write_text(text)
            as_target(claim.place).page.write_text(text)
        else:
            files = ["a"]
            (claim.place / "a").write_text(text)
        as_target(claim.place).manifest.write_text(json.dumps({"files": files, "text": text}))
        claim.publish()
except OutputError as error:
    sys.exit(f"error: {error}")
"""


def _start(out: Path, text: str, *flags: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", _WRITE, str(out), text, *flags],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Under nohup, or in a job of it, the signal is ignored, and that is handed down.
        preexec_fn=partial(signal.signal, signal.SIGHUP, signal.SIG_DFL),
    )


def _write(out: Path, text: str, *flags: str) -> tuple[int, str]:
    """The exit status of a process that writes an output, and what it was refused for."""
    process = _start(out, text, *flags)
    _, said = process.communicate(timeout=60)
    return process.returncode, said.strip()


def _until_claimed(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    assert process.stdout.readline() == "claimed\n"


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_stage_carries_its_process_and_output_in_its_name(tmp_path: Path) -> None:
    with claimed(as_target(tmp_path / "out")) as claim:
        assert claim.place.name.startswith(f".out.partial-{os.getpid()}-")
    assert _names(tmp_path) == []


@pytest.mark.parametrize("name", ["out", "x.gguf"])
def test_an_output_that_another_process_is_writing_is_refused_until_it_dies(
    name: str, tmp_path: Path
) -> None:
    out = tmp_path / name
    first = _start(out, "1", "wait")
    _until_claimed(first)
    try:
        with pytest.raises(OutputError, match=f"process {first.pid} is writing there"):
            claimed(as_target(out)).__enter__()
        with pytest.raises(OutputError, match=f"process {first.pid} is writing there"):
            claimed(as_target(out), overwrite=True).__enter__()
        with claimed(as_target(tmp_path / "other")):
            pass
    finally:
        first.kill()
        first.communicate()
    assert len(_names(tmp_path)) == 1
    assert _write(out, "2") == (0, "")
    assert [each for each in _names(tmp_path) if "partial" in each] == []


def test_an_earlier_output_that_is_being_replaced_is_refused_to_others(tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert _write(out, "1") == (0, "")
    with (
        claimed(as_target(out), overwrite=True),
        pytest.raises(OutputError, match=f"process {os.getpid()} is writing there"),
        claimed(as_target(out), overwrite=True),
    ):
        pass


def test_an_output_stays_its_process_s_after_it_was_published(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with claimed(as_target(out)) as claim:
        (claim.place / MANIFEST_NAME).write_text('{"files": []}', encoding="utf-8")
        claim.publish()
        with (
            pytest.raises(OutputError, match="is writing there"),
            claimed(as_target(out), overwrite=True),
        ):
            pass
    with claimed(as_target(out), overwrite=True):
        pass


@pytest.mark.parametrize("name", ["out", "x.gguf"])
def test_of_many_that_begin_at_once_one_wins_and_the_others_say_so(
    name: str, tmp_path: Path
) -> None:
    running = [_start(tmp_path / name, str(number), "wait") for number in range(3)]
    try:
        until = time.monotonic() + 60
        while sum(each.poll() is None for each in running) > 1 and time.monotonic() < until:
            time.sleep(0.02)
        lost = [each for each in running if each.poll() is not None]
        assert len(lost) == 2
        for each in lost:
            assert each.stderr is not None
            assert "is writing there" in each.stderr.read()
            assert each.returncode == 1
    finally:
        for each in running:
            each.kill()
            each.communicate()


@pytest.mark.parametrize("name", ["out", "x.gguf"])
def test_what_came_to_be_meanwhile_is_not_replaced(name: str, tmp_path: Path) -> None:
    out = tmp_path / name
    with claimed(as_target(out)) as claim:
        if name == "out":
            out.mkdir()
            (out / "mine").touch()
        else:
            claim.place.write_text("new", encoding="utf-8")
            out.write_text("mine", encoding="utf-8")
        with pytest.raises(OutputError, match="while this run was at work"):
            claim.publish()
    assert not claim.published
    assert _names(tmp_path) == [name]


def test_a_file_that_comes_between_two_of_an_output_s_is_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "x.gguf"

    def late(source: Path, target: Path) -> None:
        if target == out:
            out.write_text("mine", encoding="utf-8")
        rename_new(source, target)

    monkeypatch.setattr(publishing, "rename_new", late)
    with claimed(as_target(out)) as claim:
        claim.place.write_text("new", encoding="utf-8")
        as_target(claim.place).manifest.write_text("{}", encoding="utf-8")
        with pytest.raises(OutputError, match="came to be while"):
            claim.publish()
    assert _names(tmp_path) == ["x.gguf"]
    assert out.read_text(encoding="utf-8") == "mine"


def test_names_are_exchanged_in_one_step(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    if not exchange(tmp_path / "a", tmp_path / "b"):
        pytest.skip("this file system cannot")
    assert _names(tmp_path / "a") == ["b"]
    assert _names(tmp_path / "b") == ["a"]
    with pytest.raises(FileNotFoundError):
        exchange(tmp_path / "a", tmp_path / "none")


@pytest.mark.parametrize("native", [True, False])
def test_a_name_that_is_taken_is_not_renamed_to(
    native: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not native:
        monkeypatch.setattr("depthprune.renames._system_call", lambda: None)
    (tmp_path / "a").write_text("a", encoding="utf-8")
    (tmp_path / "b").write_text("b", encoding="utf-8")
    with pytest.raises(FileExistsError):
        rename_new(tmp_path / "a", tmp_path / "b")
    rename_new(tmp_path / "a", tmp_path / "c")
    assert _names(tmp_path) == ["b", "c"]


def test_a_kill_between_two_renames_loses_neither_output(tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert _write(out, "old") == (0, "")
    (out / "mine").write_text("mine", encoding="utf-8")
    # The first rename finds OUT full, the second puts it aside, the third would put the new one.
    status, _ = _write(out, "new", "overwrite", "no-exchange", "die-renaming=2")
    assert status == -signal.SIGKILL
    assert not out.exists()
    assert _write(out, "new")[1].startswith("error: -o ")
    assert ((out / "a").read_text("utf-8"), (out / "mine").read_text("utf-8")) == ("old", "mine")
    assert _write(out, "new", "overwrite", "no-exchange") == (0, "")
    assert ((out / "a").read_text("utf-8"), (out / "mine").read_text("utf-8")) == ("new", "mine")
    assert _names(tmp_path) == ["out"]


@pytest.mark.parametrize("steps", [0, 1, 2])
@pytest.mark.parametrize("flags", [(), ("overwrite",)])
def test_a_gguf_killed_between_its_files_is_written_by_the_next_run(
    steps: int, flags: tuple[str, ...], tmp_path: Path
) -> None:
    out = tmp_path / "x.gguf"
    if flags:
        assert _write(out, "old") == (0, "")
    assert _write(out, "killed", *flags, f"die={steps}")[0] == -signal.SIGKILL
    assert _write(out, "new", *flags) == (0, "")
    assert _names(tmp_path) == ["x.depthprune.json", "x.gguf", "x.report.html"]
    for name in ("x.gguf", "x.report.html"):
        assert (tmp_path / name).read_text("utf-8") == "new"
    assert json.loads((tmp_path / "x.depthprune.json").read_text("utf-8"))["text"] == "new"


def test_remains_of_a_gguf_do_not_take_the_place_of_a_user_s_file(tmp_path: Path) -> None:
    out = tmp_path / "x.gguf"
    assert _write(out, "killed", "die=2")[0] == -signal.SIGKILL
    out.write_text("mine", encoding="utf-8")
    assert _write(out, "new")[0] == 1
    assert out.read_text("utf-8") == "mine"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGHUP])
def test_what_a_killed_process_left_is_swept_by_the_next(number: int, tmp_path: Path) -> None:
    first = _start(tmp_path / "out", "1", "wait")
    _until_claimed(first)
    first.send_signal(number)
    first.communicate()
    left = _names(tmp_path)
    assert [name.rsplit("-", 1)[0] for name in left] == [f".out.partial-{first.pid}"]
    (tmp_path / ".out.partial-mine").touch()
    assert _write(tmp_path / "out", "2") == (0, "")
    assert _names(tmp_path) == [".out.partial-mine", "out"]


def test_a_file_half_written_by_a_killed_process_is_swept_by_the_next(tmp_path: Path) -> None:
    code = (
        "import os, sys\nfrom pathlib import Path\nfrom depthprune.outputs import whole_file\n"
        "with whole_file(Path(sys.argv[1])) as f: f.write_text('half'); os.kill(os.getpid(), 9)"
    )
    for _ in range(2):
        subprocess.run([sys.executable, "-c", code, str(tmp_path / "f")], check=False)
        assert len(_names(tmp_path)) == 1
    with whole_file(tmp_path / "f") as partial:
        partial.write_text("whole", encoding="utf-8")
    assert _names(tmp_path) == ["f"]


def test_files_of_the_user_s_are_carried_over_as_the_same_files(tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert _write(out, "old") == (0, "")
    (out / "mine").write_text("mine", encoding="utf-8")
    number = (out / "mine").stat().st_ino
    assert _write(out, "new", "overwrite") == (0, "")
    assert (out / "mine").stat().st_ino == number


def test_a_file_that_came_into_the_earlier_output_at_the_last_moment_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    assert _write(out, "old") == (0, "")

    def late(first: Path, second: Path) -> bool:
        (out / "late").touch()
        return exchange(first, second)

    monkeypatch.setattr(publishing, "exchange", late)
    with staged(as_target(out), overwrite=True) as place:
        (place / MANIFEST_NAME).write_text('{"files": []}', encoding="utf-8")
    assert _names(out) == [MANIFEST_NAME, "late"]


def test_a_link_to_an_empty_folder_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "disk" / "real").mkdir(parents=True)
    (tmp_path / "out").symlink_to(tmp_path / "disk" / "real")
    assert _write(tmp_path / "out", "1") == (0, "")
    assert (tmp_path / "out").is_symlink()
    assert _names(tmp_path / "disk" / "real") == ["a", MANIFEST_NAME]
    assert _write(tmp_path / "out", "2", "overwrite") == (0, "")
    assert (tmp_path / "out" / "a").read_text("utf-8") == "2"
    assert _names(tmp_path / "disk") == ["real"]


def test_a_link_to_nothing_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").symlink_to("none")
    with (
        pytest.raises(OutputError, match="found a link to nothing"),
        claimed(as_target(tmp_path / "out")),
    ):
        pass


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("x" * 300, "File name too long"),
        ("x" * 245 + ".gguf", "File name too long"),
        ("a\udcff", "is not UTF-8"),
        ("a\0b", "null"),
    ],
)
def test_a_name_that_cannot_be_is_refused_before_any_work(
    name: str, why: str, tmp_path: Path
) -> None:
    with pytest.raises(OutputError, match=why), claimed(as_target(tmp_path / name)):
        pass
    assert _names(tmp_path) == []


def test_the_longest_name_that_can_be_is_written(tmp_path: Path) -> None:
    assert _write(tmp_path / ("x" * 255), "1") == (0, "")


def test_published_files_are_written_anew_while_they_are_this_process_s(tmp_path: Path) -> None:
    forget_claims()
    with claimed(as_target(tmp_path / "out")) as claim:
        (claim.place / "a").write_text("1", encoding="utf-8")
        assert published() == []
        claim.publish()
        assert published() == [tmp_path / "out"]
        claim.amend({"a": "2"})
        assert (tmp_path / "out" / "a").read_text("utf-8") == "2"
        os.rename(tmp_path / "out", tmp_path / "moved")
        assert published() == []
        with pytest.raises(OutputError, match="was replaced or removed"):
            claim.amend({"a": "3"})


def test_a_gguf_stands_from_its_last_file_on(tmp_path: Path) -> None:
    forget_claims()
    with claimed(as_target(tmp_path / "x.gguf")) as claim:
        claim.place.write_text("1", encoding="utf-8")
        as_target(claim.place).page.write_text("1", encoding="utf-8")
        claim.publish()
        assert published() == [tmp_path / "x.gguf"]
        claim.amend({"x.report.html": "2"})
    assert (tmp_path / "x.report.html").read_text("utf-8") == "2"


def test_a_folder_that_is_written_piece_by_piece_is_held(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    with (
        held(tmp_path),
        pytest.raises(OutputError, match="another process is writing there"),
        held(tmp_path / "link"),
    ):
        pass
    with held(tmp_path):
        pass


def test_without_locks_nothing_is_refused_and_nothing_swept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    assert _write(out, "1", "die-renaming=0")[0] == -signal.SIGKILL
    monkeypatch.setattr("depthprune.staging._lock", lambda path: None)
    with claimed(as_target(out)) as claim:
        claim.publish()
    assert len(_names(tmp_path)) == 2
    assert claims.published()
