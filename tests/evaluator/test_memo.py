"""The memo gives back what was stored, to every process, and its failures never cost a run."""

from __future__ import annotations

import math
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from depthprune.errors import OutputError, UsageError
from depthprune.evaluator.memo import checks, tables
from depthprune.evaluator.memo import file as module
from depthprune.evaluator.memo.store import Context, KnownLosses, Memo, default_path, window_key

CONTEXT = Context("a1" * 32, "float32", "cpu", "2.8.0", "nll")
W = [bytes([i]) * 16 for i in range(40)]
posix = pytest.mark.skipif(sys.platform == "win32", reason="modes, limits and kills are POSIX's")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "memo.sqlite"


@pytest.fixture
def memo(path: Path) -> Iterator[Memo]:
    with Memo.open(path) as memo:
        yield memo


@pytest.fixture
def filled(path: Path) -> Path:
    """A memo of some thousand losses, closed."""
    with Memo.open(path) as memo:
        memo.store_all(CONTEXT, W, {(i, j): np.arange(40.0) for i in range(9) for j in range(9)})
    return path


def _one(memo: Memo, removed: tuple[int, ...], windows: list[bytes]) -> KnownLosses:
    return memo.look_up(CONTEXT, [removed], windows)[removed]


def _knows_nothing(found: KnownLosses) -> bool:
    return not found.known.any() and bool(np.isnan(found.losses).all())


# What is stored and what is found.


def test_losses_come_back_as_they_were_in_the_order_asked_for(memo: Memo) -> None:
    memo.store(CONTEXT, (4, 12), W[:3], np.array([0.1, 1e-300, 3.0]))
    found = _one(memo, (4, 12), [W[2], W[0], W[1], W[0]])
    assert found.losses.tolist() == [3.0, 0.1, 1e-300, 0.1]
    assert found.known.all()


def test_a_path_may_be_a_string(filled: Path) -> None:
    with Memo.open(str(filled)) as memo:
        assert _one(memo, (1, 2), W[:1]).known.all()


def test_losses_that_are_nan_or_infinite_are_known(memo: Memo) -> None:
    losses = np.array([math.nan, math.inf, -math.inf])
    memo.store(CONTEXT, (), W[:3], losses)
    found = _one(memo, (), W[:4])
    np.testing.assert_array_equal(found.losses[:3], losses)
    assert found.known.tolist() == [True, True, True, False]


def test_a_zero_is_known_whatever_its_sign(memo: Memo) -> None:
    memo.store(CONTEXT, (1,), W[:2], np.array([-0.0, 0.0]))
    assert memo.look_up(CONTEXT, [(1,)], W[:2])[1,].known.all()


def test_what_was_not_stored_is_not_known(memo: Memo) -> None:
    assert _knows_nothing(_one(memo, (1,), W[:2]))
    memo.store(CONTEXT, (1,), W[:1], np.ones(1))
    assert _knows_nothing(_one(memo, (2,), W[:1]))
    assert _knows_nothing(_one(memo, (1,), W[1:2]))
    assert memo.look_up(CONTEXT, [], W) == {}
    assert _one(memo, (1,), []).known.shape == (0,)


@pytest.mark.parametrize("field", list(vars(CONTEXT)))
def test_another_context_shares_nothing(field: str, memo: Memo) -> None:
    memo.store(CONTEXT, (1,), W[:1], np.ones(1))
    other = replace(CONTEXT, **{field: "other"})
    assert _knows_nothing(memo.look_up(other, [(1,)], W[:1])[(1,)])


def test_fields_of_a_context_do_not_run_into_each_other() -> None:
    assert Context("a", "b", "c", "d", "e").key() != Context("ab", "", "c", "d", "e").key()


def test_two_calibrations_share_their_windows(memo: Memo) -> None:
    memo.store(CONTEXT, (1,), W[:4], np.arange(4.0))
    assert _one(memo, (1,), W[2:6]).known.tolist() == [True, True, False, False]


def test_a_window_is_its_tokens_and_its_mask() -> None:
    tokens, mask = np.arange(9), np.arange(9) > 0
    key = window_key(tokens, mask)
    assert len(key) == 16
    assert window_key(tokens.astype(np.int32).astype(np.int64), mask.copy()) == key
    others = [(tokens + 1, mask), (tokens, ~mask), (tokens[:8], mask[:8])]
    # Padding of the packed mask is not taken for tokens that do not count.
    others.append((tokens, np.append(mask, False)))
    assert len({window_key(*other) for other in others} | {key}) == 5


def test_the_first_loss_stays(memo: Memo) -> None:
    memo.store(CONTEXT, (1,), W[:1], np.ones(1))
    memo.store(CONTEXT, (1,), W[:2], np.full(2, 2.0))
    assert _one(memo, (1,), W[:2]).losses.tolist() == [1.0, 2.0]


def test_more_sets_and_windows_than_a_statement_can_name(memo: Memo) -> None:
    windows = [i.to_bytes(16, "little") for i in range(1100)]
    sets = [(i,) for i in range(1100)]
    memo.store(CONTEXT, (7,), windows, np.arange(1100.0))
    memo.store_all(CONTEXT, W[:1], {s: np.ones(1) for s in sets})
    assert _one(memo, (7,), windows).losses.tolist() == list(range(1100))
    assert all(found.known.all() for found in memo.look_up(CONTEXT, sets, W[:1]).values())


def test_losses_and_windows_must_be_as_many_and_then_nothing_is_stored(memo: Memo) -> None:
    with pytest.raises(ValueError, match="zip"):
        memo.store(CONTEXT, (1,), W[:2], np.ones(1))
    assert _knows_nothing(_one(memo, (1,), W[:2]))


_losses = st.floats(allow_nan=True, allow_infinity=True)
_set = st.sampled_from([(), (1,), (2,), (1, 2), (12,)])
_context = st.sampled_from([CONTEXT, replace(CONTEXT, dtype="bfloat16")])
_store = st.tuples(_context, _set, st.dictionaries(st.integers(0, 7), _losses, max_size=5))


@settings(max_examples=40, deadline=None)
@given(st.lists(_store, max_size=8), st.lists(st.integers(0, 9), max_size=6))
def test_a_memo_is_a_dictionary_whose_first_entries_stay(
    stores: list[tuple[Context, tuple[int, ...], dict[int, float]]], asked: list[int]
) -> None:
    model: dict[tuple[Context, tuple[int, ...], int], float] = {}
    with tempfile.TemporaryDirectory() as folder, Memo.open(Path(folder) / "m") as memo:
        for context, removed, losses in stores:
            memo.store(context, removed, [W[i] for i in losses], np.array([*losses.values()]))
            for i, loss in losses.items():
                model.setdefault((context, removed, i), loss)
        for context in (CONTEXT, replace(CONTEXT, dtype="bfloat16")):
            found = memo.look_up(context, [(), (1,), (1, 2), (12,)], [W[i] for i in asked])
            for removed, answer in found.items():
                keys = [(context, removed, i) for i in asked]
                assert answer.known.tolist() == [key in model for key in keys]
                expected = [model.get(key, math.nan) for key in keys]
                np.testing.assert_array_equal(answer.losses, np.array(expected, dtype=float))


# Several processes, and kills.

_WRITER = """
import sys
from pathlib import Path
import numpy as np
from depthprune.evaluator.memo.store import Context, Memo
print("ready", flush=True)
sys.stdin.readline()
with Memo.open(Path(sys.argv[1])) as memo:
    context = Context("a1" * 32, "float32", "cpu", "2.8.0", "nll")
    windows = [bytes([i]) * 16 for i in range(40)]
    for i in range(int(sys.argv[2])):
        memo.store(context, (i,), windows, i + np.arange(40.0))
        print(i, flush=True)
    assert memo.notes == []
"""


@contextmanager
def _writer(path: Path, stores: int) -> Iterator[subprocess.Popen[str]]:
    """A process that stores sets (0,), (1,), … and tells each; it waits for a line to begin."""
    words = [sys.executable, "-c", _WRITER, str(path), str(stores)]
    pipe = subprocess.PIPE
    with subprocess.Popen(words, stdin=pipe, stdout=pipe, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def _begin(*processes: subprocess.Popen[str]) -> None:
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()


def test_two_processes_make_and_fill_one_memo_at_once(path: Path) -> None:
    with _writer(path, 300) as first, _writer(path, 300) as second:
        _begin(first, second)
        assert first.communicate()[0].split()[-1] == second.communicate()[0].split()[-1] == "299"
        assert (first.returncode, second.returncode) == (0, 0)
    with Memo.open(path) as memo:
        found = memo.look_up(CONTEXT, [(i,) for i in range(300)], W)
        assert all((found[(i,)].losses == i + np.arange(40)).all() for i in range(300))
        assert memo.statistics().contexts[0].losses == 300 * 40


@posix
def test_a_kill_loses_only_the_unfinished_transaction(path: Path) -> None:
    told = 0
    for wait in (0.0, 0.0517):
        with _writer(path, 10**6) as writer:
            _begin(writer)
            time.sleep(wait)
            assert writer.stdout is not None
            told = max(told, int(writer.stdout.readline()))
            writer.kill()
            told = max([told, *(int(line) for line in writer.stdout if line.endswith("\n"))])
        with closing(sqlite3.connect(path)) as db:
            assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        with Memo.open(path) as memo:
            found = memo.look_up(CONTEXT, [(i,) for i in range(told + 3)], W)
            assert memo.notes == []
        assert all(found[(i,)].known.all() for i in range(told + 1))
        # Behind what was told at most one store was finished and not told; none is half there.
        assert all(found[(i,)].known.sum() in (0, 40) for i in range(told + 1, told + 3))
        assert not found[(told + 2,)].known.any()


def test_an_interrupt_in_a_store_stores_nothing(
    memo: Memo, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(removed: tuple[int, ...]) -> str:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(tables, "set_key", interrupted)
        with pytest.raises(KeyboardInterrupt):
            memo.store(CONTEXT, (1,), W[:1], np.ones(1))
    assert memo.statistics().contexts == ()
    memo.store(CONTEXT, (1,), W[:1], np.ones(1))
    assert _one(memo, (1,), W[:1]).known.all()


# Files that are refused.


def _refused(path: Path) -> str:
    with pytest.raises(OutputError) as caught:
        Memo.open(path)
    return str(caught.value)


@pytest.mark.parametrize("content", [b"xy", b"not a database\n" * 1000])
def test_a_file_that_is_not_sqlite_is_refused_and_left_alone(content: bytes, path: Path) -> None:
    path.write_bytes(content)
    assert _refused(path) == (
        f"--memo {path}: it is no memo (file is not a database); choose another path, or pass "
        "--memo off"
    )
    assert path.read_bytes() == content
    assert os.listdir(path.parent) == [path.name]


def test_an_empty_file_becomes_a_memo(path: Path) -> None:
    path.touch()
    with Memo.open(path) as memo:
        memo.store(CONTEXT, (1,), W[:1], np.ones(1))
        assert _one(memo, (1,), W[:1]).known.all()


def _change(path: Path, statement: str) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.execute(statement)
        db.commit()


def test_another_program_s_database_is_refused_and_left_alone(path: Path) -> None:
    _change(path, "CREATE TABLE theirs (x)")
    before = path.read_bytes()
    assert _refused(path) == f"--memo {path}: it is another program's database; choose another path"
    assert path.read_bytes() == before


def test_a_memo_of_another_version_is_refused(filled: Path) -> None:
    _change(filled, "PRAGMA user_version = 7")
    assert _refused(filled) == (
        f"--memo {filled}: expected a memo of version 3, found 7, which another depthprune made; "
        "choose another path, or delete it"
    )


def test_a_memo_without_one_of_its_tables_is_refused(filled: Path) -> None:
    _change(filled, "DROP TABLE losses")
    assert "it is damaged (malformed: tables are missing); delete it, or" in _refused(filled)


def test_a_memo_that_was_cut_short_is_refused(filled: Path) -> None:
    os.truncate(filled, 4000)
    assert "it is damaged" in _refused(filled)


def test_a_folder_is_refused(tmp_path: Path) -> None:
    assert _refused(tmp_path) == (
        f"--memo {tmp_path}: expected a file, found a folder; name a file inside it"
    )


def test_a_path_through_a_file_is_refused(path: Path) -> None:
    path.touch()
    assert f"{path} cannot be made" in _refused(path / "memo")


def test_missing_folders_and_odd_names_are_made(tmp_path: Path) -> None:
    odd = tmp_path / "new" / "100% memo?#1.sqlite"
    Memo.open(odd).close()
    assert odd.is_file()


# Files that fail in mid-run.


def _damage(path: Path) -> None:
    """Overwrite all but the first page, which is all that is read of a file when it is opened."""
    size = path.stat().st_size
    with open(path, "r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * (size - 4096))


def test_damage_found_by_a_look_up_turns_the_memo_off(filled: Path) -> None:
    _damage(filled)
    with Memo.open(filled) as memo:
        assert _knows_nothing(_one(memo, (1, 1), W))
        memo.store(CONTEXT, (1, 1), W, np.ones(40))
        assert _knows_nothing(_one(memo, (1, 1), W))
        assert memo.notes == [
            f"--memo {filled}: it is damaged (database disk image is malformed); the run goes on "
            "without it; delete it before the next run"
        ]


def test_damage_found_by_a_store_turns_the_memo_off(filled: Path) -> None:
    _damage(filled)
    with Memo.open(filled) as memo:
        memo.store(CONTEXT, (1, 1), W, np.ones(40))
        assert _knows_nothing(_one(memo, (1, 1), W))
        assert len(memo.notes) == 1


def test_damage_is_refused_where_only_the_memo_is_looked_at(filled: Path) -> None:
    _damage(filled)
    with Memo.open(filled) as memo:
        with pytest.raises(OutputError, match="it is damaged"):
            memo.statistics()
        with pytest.raises(OutputError, match="it is damaged"):
            memo.prune(everything=True)


@pytest.mark.parametrize("kind", ["flip", "cut", "blank"])
def test_whatever_is_damaged_the_memo_refuses_notes_or_answers(kind: str, filled: Path) -> None:
    whole, ends = filled.read_bytes(), set()
    for seed in range(40):
        rng, damaged = np.random.default_rng(seed), bytearray(whole)
        at = int(rng.integers(1, len(whole)))
        if kind == "flip":
            for place in rng.integers(len(whole), size=20):
                damaged[place] ^= 1 << int(rng.integers(8))
        elif kind == "cut":
            del damaged[at:]
        else:
            damaged[at : at + 4096] = bytes(len(damaged[at : at + 4096]))
        filled.write_bytes(damaged)
        try:
            with Memo.open(filled) as memo:
                _one(memo, (1, 1), W)
                memo.store(CONTEXT, (20,), W, np.ones(40))
                memo.changed("demo", "b2")
                ends.add("noted" if memo.notes else "answered")
        except OutputError:
            ends.add("refused")
        for rest in filled.parent.glob(f"{filled.name}-*"):
            rest.unlink()
    assert "refused" in ends
    assert kind == "cut" or "noted" in ends


def test_an_index_that_disagrees_with_its_table_is_damage(filled: Path) -> None:
    content = filled.read_bytes()
    at = content.rindex(b"7,1")
    filled.write_bytes(content[:at] + b"7R1" + content[at + 3 :])
    with Memo.open(filled) as memo:
        found = memo.look_up(CONTEXT, [(i, j) for i in range(9) for j in range(9)], W)
        assert all(_knows_nothing(each) for each in found.values())
        assert "an index and its table disagree); the run goes on without it" in memo.notes[0]


def test_on_a_full_disk_the_run_goes_on_and_still_reads(filled: Path) -> None:
    with Memo.open(filled) as memo:
        memo._db.execute("PRAGMA max_page_count = 1")
        many = [i.to_bytes(16, "big") for i in range(1, 5001)]
        for _ in range(2):
            memo.store(CONTEXT, (1, 1), many, np.ones(5000))
        assert memo.changed("demo", "b2") is None
        assert memo.notes == [
            f"--memo {filled}: the disk is full (database or disk is full); nothing more is "
            "stored; free some space before the next run"
        ]
        assert _one(memo, (1, 1), W).known.all()
        assert _knows_nothing(_one(memo, (1, 1), many))


@posix
def test_a_write_that_fails_half_way_leaves_a_sound_memo(filled: Path) -> None:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    many = [i.to_bytes(16, "big") for i in range(1, 5001)]
    with Memo.open(filled) as memo:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
        try:
            memo.store(CONTEXT, (1, 1), many, np.ones(5000))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert len(memo.notes) == 1
        assert "it cannot be used (disk I/O error); nothing more is stored" in memo.notes[0]
    with Memo.open(filled) as memo:
        assert _one(memo, (1, 1), W).known.all()
        assert _knows_nothing(_one(memo, (1, 1), many))


def test_a_name_that_cannot_be_noted_does_not_stop_the_reading(filled: Path) -> None:
    with Memo.open(filled) as memo:
        memo._db.execute("PRAGMA max_page_count = 1")
        for i in range(200):
            assert memo.changed(f"model {i:0100}", "b2") is None
        assert "the disk is full" in memo.notes[0]
        assert len(memo.notes) == 1
        assert _one(memo, (1, 1), W).known.all()


def test_a_memo_that_another_process_holds_is_given_up(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_BUSY_SECONDS", 0.05)
    with Memo.open(path) as memo, closing(sqlite3.connect(path)) as db:
        db.execute("BEGIN IMMEDIATE")
        memo.store(CONTEXT, (1,), W[:1], np.ones(1))
        assert "another process holds it (database is locked); nothing more" in memo.notes[0]
        assert "another process holds it" in _refused(path)


def test_a_closed_memo_is_a_mistake_of_the_caller_s(path: Path) -> None:
    memo = Memo.open(path)
    memo.close()
    with pytest.raises(sqlite3.ProgrammingError):
        _one(memo, (1,), W)


# Files that may be read only.


@pytest.fixture
def shared() -> Iterator[Path]:
    """A filled memo, alone in a folder that other users can reach."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    with Memo.open(folder / "memo.sqlite") as memo:
        memo.store(CONTEXT, (1,), W, np.ones(40))
    yield folder / "memo.sqlite"
    folder.chmod(0o755)
    shutil.rmtree(folder)


@contextmanager
def _as_another_user() -> Iterator[None]:
    """Root may write everything, so root becomes somebody else for a while."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@posix
@pytest.mark.parametrize(("folder", "file"), [(0o777, 0o444), (0o555, 0o666), (0o555, 0o444)])
@pytest.mark.parametrize("in_use", [False, True], ids=["idle", "in use"])
def test_a_read_only_memo_is_read_and_says_so(
    folder: int, file: int, in_use: bool, shared: Path
) -> None:
    with Memo.open(shared) as writer:
        if in_use:
            writer.store(CONTEXT, (2,), W, np.ones(40))
        else:
            writer.close()
        for each in shared.parent.iterdir():
            each.chmod(0o444 if os.geteuid() else file & 0o644)
        shared.chmod(file)
        shared.parent.chmod(folder)
        with _as_another_user(), Memo.open(shared) as memo:
            assert memo.notes == [
                f"--memo {shared}: cannot be written; it is read, nothing is added"
            ]
            memo.store(CONTEXT, (3,), W, np.ones(40))
            assert _one(memo, (1,), W).known.all()
            assert _one(memo, (2,), W).known.all() == in_use
            assert _knows_nothing(_one(memo, (3,), W))
            assert memo.changed("demo", "b2") is None
            assert len(memo.notes) == 1
            with pytest.raises(OutputError, match="cannot be written; prune as one who may"):
                memo.prune(everything=True)


@posix
def test_a_memo_that_may_not_be_read_is_refused(shared: Path) -> None:
    shared.chmod(0)
    with _as_another_user():
        assert "unable to open database file); choose another path" in _refused(shared)


@posix
def test_a_damaged_memo_that_may_only_be_read_is_refused(shared: Path) -> None:
    os.truncate(shared, 4096)
    shared.chmod(0o444)
    shared.parent.chmod(0o555)
    with _as_another_user():
        assert "it is damaged (" in _refused(shared)


@posix
def test_without_a_place_of_its_own_the_memo_lasts_for_the_run(
    shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(shared.parent / "cache"))
    shared.parent.chmod(0o555)
    with _as_another_user(), Memo.open() as memo:
        assert memo.path is None
        assert "cannot be made (Permission denied)" in memo.notes[0]
        assert memo.notes[0].endswith("; losses are kept for this run only")
        memo.store(CONTEXT, (1,), W, np.ones(40))
        assert _one(memo, (1,), W).known.all()
        assert memo.statistics().bytes == 0


@contextmanager
def _nothing_can_be_written() -> Iterator[None]:
    """As on a full disk: files can be made, and hold nothing."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@posix
@pytest.mark.parametrize("times", [1, 2], ids=["first", "after what that left"])
def test_where_the_disk_is_full_a_new_memo_lasts_for_the_run(
    times: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for _ in range(times):
        with _nothing_can_be_written(), Memo.open() as memo:
            assert memo.path is None
            assert memo.notes[0].endswith("or pass --memo off; losses are kept for this run only")
            memo.store(CONTEXT, (1,), W, np.ones(40))
            assert _one(memo, (1,), W).known.all()


@posix
def test_where_the_disk_is_full_a_memo_is_read_and_says_so(filled: Path) -> None:
    with _nothing_can_be_written(), Memo.open(filled) as memo:
        assert memo.notes == [f"--memo {filled}: cannot be written; it is read, nothing is added"]
        assert _one(memo, (1, 1), W).known.all()


@posix
def test_where_the_disk_is_full_a_new_memo_that_was_named_is_refused(path: Path) -> None:
    with _nothing_can_be_written():
        assert _refused(path).startswith(f"--memo {path}: ")


# The default place.


@pytest.mark.parametrize(
    ("platform", "variables", "place"),
    [
        ("linux", {}, "home/.cache"),
        ("linux", {"XDG_CACHE_HOME": "{tmp}/xdg"}, "xdg"),
        ("linux", {"XDG_CACHE_HOME": "relative"}, "home/.cache"),
        ("darwin", {"XDG_CACHE_HOME": "{tmp}/xdg"}, "home/Library/Caches"),
        ("win32", {"LOCALAPPDATA": "{tmp}/local"}, "local"),
        ("win32", {}, "home/AppData/Local"),
    ],
)
def test_the_default_place_is_the_platform_s_cache_folder(
    platform: str,
    variables: dict[str, str],
    place: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")
    for name in ("XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value.format(tmp=tmp_path))
    assert default_path() == tmp_path / place / "depthprune" / "memo.sqlite"
    with Memo.open() as memo:
        assert memo.path == default_path()
        assert memo.path.is_file()


# Weights that changed, statistics and pruning.


def test_changed_weights_are_told_once_and_only_if_losses_are_lost_with_them(memo: Memo) -> None:
    old, new = CONTEXT.weights, "b2" * 32
    assert memo.changed("demo", "c3" * 32) is None
    assert memo.changed("demo", old) is None
    memo.store(CONTEXT, (1,), W[:1], np.ones(1))
    assert memo.changed("other", new) is None
    assert memo.changed("demo", new) == old
    assert memo.changed("demo", new) is None
    assert memo.changed("demo", old) is None


def test_of_several_earlier_weights_the_latest_are_told(
    memo: Memo, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time()
    for seconds, weights in enumerate(("f1" * 32, "a1" * 32)):
        monkeypatch.setattr(time, "time", lambda seconds=seconds: now + seconds)
        memo.changed("demo", weights)
        memo.store(replace(CONTEXT, weights=weights), (1,), W[:1], np.ones(1))
    assert memo.changed("demo", "b2" * 32) == "a1" * 32


def test_statistics_tell_each_context(memo: Memo, path: Path) -> None:
    memo.changed("demo", CONTEXT.weights)
    memo.store(CONTEXT, (1,), W[:3], np.ones(3))
    memo.store(CONTEXT, (2,), W[:3], np.ones(3))
    later = replace(CONTEXT, weights="b2" * 32)
    memo.store(later, (2,), W[:1], np.ones(1))
    found = memo.statistics()
    assert [row.context for row in found.contexts] == [later, CONTEXT]
    assert [(row.losses, row.names) for row in found.contexts] == [(1, ()), (6, ("demo",))]
    assert (found.sets, found.windows) == (2, 3)
    assert found.bytes >= path.stat().st_size
    assert abs(found.contexts[0].used - time.time()) < 60


def test_reading_counts_as_use(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time()
    with Memo.open(path) as memo:
        memo.store(CONTEXT, (1,), W[:1], np.ones(1))
    monkeypatch.setattr(time, "time", lambda: now + 9 * 86_400)
    with Memo.open(path) as memo:
        _one(memo, (2,), W[:1])
        assert memo.statistics().contexts[0].used == pytest.approx(now, abs=60)
        _one(memo, (1,), W[:1])
        assert memo.statistics().contexts[0].used == now + 9 * 86_400


def test_storing_more_counts_as_use(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time()
    with Memo.open(path) as memo:
        memo.store(CONTEXT, (1,), W[:1], np.ones(1))
    monkeypatch.setattr(time, "time", lambda: now + 9 * 86_400)
    with Memo.open(path) as memo:
        memo.store(CONTEXT, (2,), W[:1], np.ones(1))
        assert memo.statistics().contexts[0].used == now + 9 * 86_400


def test_use_is_noted_at_most_once_an_hour(memo: Memo, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time()
    for seconds, noted in ((0, 0), (3599, 0), (3601, 3601)):
        monkeypatch.setattr(time, "time", lambda seconds=seconds: now + seconds)
        memo.store(CONTEXT, (1,), W[:1], np.ones(1))
        _one(memo, (1,), W[:1])
        assert memo.statistics().contexts[0].used == now + noted


def test_pruning_by_age_and_weights_takes_what_both_name(
    memo: Memo, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time()
    for days, weights in ((9, "a1"), (9, "b2"), (1, "a1")):
        with monkeypatch.context() as patch:
            patch.setattr(time, "time", lambda days=days: now - days * 86_400)
            context = replace(CONTEXT, weights=weights, dtype=str(days))
            memo.store(context, (days,), W[days : days + 2], np.ones(2))
    assert memo.prune(older_than_days=20) == memo.prune(weights="c") == 0
    assert memo.prune(older_than_days=5, weights="A") == 2
    assert {(c.context.weights, c.context.dtype) for c in memo.statistics().contexts} == {
        ("b2", "9"),
        ("a1", "1"),
    }
    assert memo.prune(older_than_days=5) == 2
    assert (memo.statistics().sets, memo.statistics().windows) == (1, 2)
    assert memo.prune(everything=True) == 2
    assert memo.prune(everything=True) == 0


def test_pruning_frees_the_disk_and_forgets_names(filled: Path) -> None:
    before = filled.stat().st_size
    with Memo.open(filled) as memo:
        memo.changed("demo", CONTEXT.weights)
        assert memo.prune(weights="a1") == 81 * 40
        assert memo.changed("demo", "b2") is None
        memo.store(CONTEXT, (1,), W[:1], np.ones(1))
        assert memo.statistics().contexts[0].names == ()
    assert filled.stat().st_size <= before / 2


def test_what_another_process_prunes_is_unknown_and_can_be_stored_again(path: Path) -> None:
    with Memo.open(path) as one, Memo.open(path) as other:
        one.store(CONTEXT, (1,), W[:2], np.ones(2))
        assert other.prune(everything=True) == 2
        other.store(CONTEXT, (2,), W[2:4], np.ones(2))
        assert _knows_nothing(_one(one, (1,), W))
        one.store(CONTEXT, (1,), W[:2], np.full(2, 5.0))
        assert _one(other, (1,), W[:2]).losses.tolist() == [5.0, 5.0]


@pytest.mark.parametrize(
    "what", [{}, {"weights": ""}, {"everything": True, "older_than_days": 1.0}]
)
def test_pruning_nothing_or_everything_and_something_is_wrong_usage(
    what: dict[str, object], memo: Memo
) -> None:
    with pytest.raises(UsageError, match="expected an age, weights or both"):
        memo.prune(**what)


def _older(path: Path) -> None:
    """Make a memo one of the version before, whose losses had no checksums."""
    _change(path, "ALTER TABLE losses DROP COLUMN checksum")
    _change(path, "PRAGMA user_version = 2")


def test_a_loss_that_is_not_the_one_that_was_stored_is_damage(filled: Path) -> None:
    _change(filled, "UPDATE losses SET loss = loss + 1e-9 WHERE set_id = 3 AND window_id = 5")
    with Memo.open(filled) as memo:
        found = memo.look_up(CONTEXT, [(i, j) for i in range(9) for j in range(9)], W)
        assert all(_knows_nothing(each) for each in found.values())
        assert "a loss is not the one that was stored); the run goes on" in memo.notes[0]


@pytest.mark.parametrize("table", ["sets", "windows"])
def test_losses_whose_set_or_window_changed_places_are_damage(table: str, filled: Path) -> None:
    _change(filled, f"UPDATE {table} SET id = id + 1000 WHERE id = 1")
    _change(filled, f"UPDATE {table} SET id = 1 WHERE id = 2")
    with Memo.open(filled) as memo:
        memo.look_up(CONTEXT, [(i, j) for i in range(9) for j in range(9)], W)
        assert "a loss is not the one that was stored" in memo.notes[0]


def test_an_older_memo_is_given_checksums_once_and_says_so(filled: Path) -> None:
    sets = [(i, j) for i in range(9) for j in range(9)]
    with Memo.open(filled) as memo:
        before = memo.look_up(CONTEXT, sets, W)
    _older(filled)
    with Memo.open(filled) as memo:
        (line,) = memo.notes
        assert line.startswith(f"--memo {filled}: was made by an earlier depthprune; its ")
        assert line.endswith(" losses have checksums now")
        after = memo.look_up(CONTEXT, sets, W)
    assert any(before[s].known.any() for s in sets)
    for removed in sets:
        np.testing.assert_array_equal(after[removed].losses, before[removed].losses)
    with Memo.open(filled) as memo:
        assert memo.notes == []


def test_an_interrupt_while_an_older_memo_is_given_checksums_ends_the_run_and_changes_nothing(
    filled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> int:
        raise KeyboardInterrupt

    _older(filled)
    with monkeypatch.context() as patch:
        patch.setattr(checks, "checksum", interrupted)
        with pytest.raises(KeyboardInterrupt):
            Memo.open(filled)
    with Memo.open(filled) as memo:
        assert memo.notes[0].endswith("its 3,240 losses have checksums now")


def test_a_loss_of_an_older_memo_that_is_of_no_set_is_damage(filled: Path) -> None:
    _older(filled)
    _change(filled, "DELETE FROM sets WHERE id = 7")
    with Memo.open(filled) as memo:
        assert "a loss is of nothing that is there" in memo.notes[0]


def test_an_older_memo_that_cannot_be_written_is_refused_with_the_remedy(
    filled: Path,
) -> None:
    _older(filled)
    with pytest.raises(OutputError, match="no checksums, and it cannot be written to add them"):
        module.prepared(f"{filled.absolute().as_uri()}?mode=ro", writable=False)
