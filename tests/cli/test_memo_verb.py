"""`depthprune memo` shows the store of losses and prunes what is named, and nothing else."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pytest

from command import Command
from depthprune.cli import memo as verb
from depthprune.cli.app import app
from depthprune.evaluator.memo.store import Context, Memo, default_path
from gguf_tiny import tiny_gguf

OLD = Context("a1" * 32, "float32", "cpu", "2.8.0", "nll")
NEW = Context("b2" * 32, "bfloat16", "cuda", "2.8.0", "kl:top=64", recovery="bias")


@pytest.fixture(autouse=True)
def _verb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The verb is there, its columns have room, and the default place is the test's own."""
    monkeypatch.setattr(app, "registered_commands", list(app.registered_commands))
    if not any(command.name == "memo" for command in app.registered_commands):
        app.command("memo")(verb.memo)
    monkeypatch.setenv("COLUMNS", "200")
    for name in ("XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.setenv(name, str(tmp_path / "cache"))
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A memo of two contexts, the old one last used thirty days ago."""
    path = tmp_path / "memo.sqlite"
    windows = [bytes([i]) * 16 for i in range(1000 // 5)]
    with Memo.open(path) as memo:
        memo.changed("demo", OLD.weights)
        memo.store_all(NEW, windows[:1], {(1,): np.ones(1)})
        with pytest.MonkeyPatch.context() as patch:
            now = time.time()
            patch.setattr(time, "time", lambda: now - 30 * 86_400)
            memo.store_all(OLD, windows, {(i,): np.ones(200) for i in range(6)})
    return path


def test_each_context_has_a_line_the_last_used_first(depthprune: Command, path: Path) -> None:
    lines = depthprune("memo", "--memo", path).out.splitlines()
    assert lines[0].split()[:4] == ["model", "weights", "dtype", "device"]
    assert lines[1].split()[:6] == ["b2b2b2b2b2b2", "bfloat16", "cuda", "2.8.0", "kl:top=64", "1"]
    assert lines[1].split()[-1] == "bias"
    assert lines[2].split()[:5] == ["demo", "a1a1a1a1a1a1", "float32", "cpu", "2.8.0"]
    assert "1,200" in lines[2]
    assert lines[3].startswith(f"{path}: 1,201 losses of 6 sets on 200 windows, ")
    assert len(lines) == 4


def test_in_eighty_columns_nothing_of_a_line_is_cut_off(
    depthprune: Command, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with Memo.open(path) as memo:
        memo.changed("/home/someone/of/a/long/name/models/small", NEW.weights)
    out = depthprune("memo", "--memo", path).out
    assert "…" not in out
    assert {"small", "demo", "b2b2b2b2b2b2", "bfloat16"} <= set(out.split())


def test_json_tells_the_same(depthprune: Command, path: Path) -> None:
    document = depthprune("memo", "--memo", path, "--json").document
    assert document["bytes"] > 10_000
    del document["bytes"]
    new, old = document.pop("contexts")
    assert document == {
        "schema": 1,
        "path": str(path),
        "sets": 6,
        "windows": 200,
        "losses": 1201,
        "pruned": None,
        "unpacked": None,
    }
    assert old.pop("last_used").endswith("+00:00")
    assert old == {**vars(OLD), "names": ["demo"], "losses": 1200}
    assert (new["recovery"], new["names"], new["losses"]) == ("bias", [], 1)


@pytest.mark.parametrize(
    ("flags", "pruned", "left"),
    [
        (["--older-than", "7"], 1200, 1),
        (["--weights", "b2b2"], 1, 1200),
        (["--weights", "b2b2", "--older-than", "7"], 0, 1201),
        (["--weights", "c3"], 0, 1201),
        (["--all"], 1201, 0),
    ],
)
def test_what_is_named_is_pruned(
    flags: list[str], pruned: int, left: int, depthprune: Command, path: Path
) -> None:
    document = depthprune("memo", "--memo", path, "--prune", *flags, "--json").document
    assert (document["pruned"], document["losses"]) == (pruned, left)
    assert depthprune("memo", "--memo", path, "--json").document["losses"] == left


def test_pruning_says_how_much_it_took(depthprune: Command, path: Path) -> None:
    out = depthprune("memo", "--memo", path, "--prune", "--all").out
    assert out.startswith(f"1,201 losses pruned; {path}: nothing is stored, ")
    assert len(out.splitlines()) == 1


def test_the_default_store_need_not_exist_and_is_not_made(depthprune: Command) -> None:
    place = default_path()
    assert depthprune("memo").out == f"{place}: nothing is stored, 0 bytes\n"
    pruned = depthprune("memo", "--prune", "--all", "--json").document
    assert (pruned["pruned"], pruned["losses"], pruned["contexts"]) == (0, 0, [])
    assert not place.exists()


def test_the_default_store_is_shown(depthprune: Command) -> None:
    with Memo.open() as memo:
        memo.store(OLD, (1,), [b"w" * 16], np.ones(1))
    document = depthprune("memo", "--json").document
    assert (document["path"], document["losses"]) == (str(default_path()), 1)


@pytest.mark.parametrize(
    ("flags", "error"),
    [
        (["--all"], "--older-than, --weights and --all say what to prune; add --prune"),
        (["--older-than", "7"], "--older-than, --weights and --all say what to prune; add --prune"),
        (["--prune"], "--prune: expected --older-than DAYS, --weights PREFIX or --all"),
        (
            ["--prune", "--all", "--weights", "a1"],
            "--all prunes everything; drop --older-than and --weights, or drop --all",
        ),
        (
            ["--prune", "--weights", ""],
            "--weights: expected the beginning of a fingerprint, got nothing",
        ),
    ],
)
def test_flags_that_do_not_go_together_are_wrong_usage(
    flags: list[str], error: str, depthprune: Command, path: Path
) -> None:
    outcome = depthprune("memo", "--memo", path, *flags)
    assert (outcome.status, outcome.error) == (2, error)


def test_a_negative_age_is_wrong_usage(depthprune: Command, path: Path) -> None:
    outcome = depthprune("memo", "--memo", path, "--prune", "--older-than", "-1")
    assert outcome.status == 2
    assert "--older-than" in outcome.error


def test_a_named_store_must_exist(depthprune: Command, tmp_path: Path) -> None:
    outcome = depthprune("memo", "--memo", tmp_path / "none")
    assert outcome.status == 2
    assert outcome.error.startswith(f"--memo {tmp_path / 'none'}: no such file; a run with")
    assert os.listdir(tmp_path) == []


def test_a_file_that_is_no_memo_is_one_line(depthprune: Command, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no memo " * 100, encoding="utf-8")
    outcome = depthprune("memo", "--memo", tmp_path / "text")
    assert outcome.status == 1
    assert "it is no memo (file is not a database); choose another path" in outcome.error


def test_unpacked_files_are_shown_and_pruned_with_the_losses(
    depthprune: Command, tmp_path: Path, spec: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DEPTHPRUNE_UNPACKED")
    model = tiny_gguf(tmp_path / "tiny.gguf", tokenizer=True)
    assert depthprune("evaluate", model, "-c", spec, "--dtype", "float32").status == 0
    found = depthprune("memo", "--json").document["unpacked"]
    assert [(row["name"], row["dtype"]) for row in found["models"]] == [("tiny.gguf", "float32")]
    assert 0 < found["bytes"] < found["limit_bytes"]
    assert "1 unpacked GGUF file, " in depthprune("memo").out
    elsewhere = tmp_path / "memo.sqlite"
    depthprune("evaluate", model, "-c", spec, "--memo", elsewhere, "--dtype", "float32")
    assert depthprune("memo", "--memo", elsewhere, "--json").document["unpacked"] is None
    kept = depthprune("memo", "--prune", "--older-than", "1", "--json").document["unpacked"]
    assert (len(kept["models"]), kept["pruned"]) == (1, 0)
    gone = depthprune("memo", "--prune", "--all", "--json").document["unpacked"]
    assert (gone["models"], gone["pruned"], gone["bytes"]) == ([], 1, 0)


def test_a_memo_that_is_off_has_nothing_to_show(depthprune: Command) -> None:
    assert "--memo off: keeps nothing" in depthprune("memo", "--memo", "off").error
