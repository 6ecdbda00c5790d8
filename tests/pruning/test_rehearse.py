"""What is said before a long search is true of where its losses are kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from command import run
from depthprune.pruning import rehearse


@pytest.mark.parametrize(
    ("memo", "says", "not_said"),
    [
        ("memo.sqlite", "less what the memo already holds; ", "begins anew"),
        ("off", "with --memo off a run that is stopped begins anew", "goes on from there"),
    ],
)
def test_a_run_that_is_stopped_goes_on_where_losses_are_kept_and_only_there(
    memo: str,
    says: str,
    not_said: str,
    tiny_llama: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(rehearse, "_LONG", 0.0)
    Path("text.txt").write_text("The mill turns and turns. " * 80, encoding="utf-8")
    spec = "text:text.txt,windows=2,length=16"
    flags = ("--no-bench", "--memo", memo, "--dtype", "float32")
    ended = run(capsys, "prune", tiny_llama, "-k", 1, "-c", spec, "-o", "out", *flags)
    assert ended.status == 0
    assert says in ended.err
    assert not_said not in ended.err
