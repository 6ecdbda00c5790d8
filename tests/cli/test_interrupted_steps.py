"""What an interruption costs in the long steps besides a search: fits, own text, bench."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from command import Command
from depthprune.calibration import generated
from depthprune.cli import DONE, INTERRUPTED
from depthprune.models import speed
from depthprune.outputs import cache_folder
from depthprune.recovery.linear.layerwise_fit import Walk

_FAST = ("--dtype", "float32", "--device", "cpu")
_LATER = 2
"""The call that is interrupted, not the first."""


def _at_call(number: int, own: Callable[..., Any]) -> Callable[..., Any]:
    """A function that is interrupted when it is called for the so many-th time."""
    calls = iter(range(1, 1_000))

    def work(*arguments: Any, **options: Any) -> Any:
        if next(calls) == number:
            raise KeyboardInterrupt
        return own(*arguments, **options)

    return work


def _all_below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_an_interrupted_fit_of_prune_costs_the_fit_and_not_the_search(
    depthprune: Command, tiny_llama: Path, spec: str, tmp_path: Path, monkeypatch: Any
) -> None:
    out = tmp_path / "out"
    words = ("prune", tiny_llama, "-k", 2, "-c", spec, "-o", out, *_FAST, "--no-bench",
             "--recover", "linear", "--protect", "0", "--search", "one-shot")  # fmt: skip
    with monkeypatch.context() as patch:
        patch.setattr(Walk, "_fit_block", _at_call(1, Walk._fit_block))
        outcome = depthprune(*words)
    assert outcome.status == INTERRUPTED
    assert outcome.err.splitlines()[-1] == "error: interrupted; nothing was written"
    assert _all_below(tmp_path) == []
    found = depthprune(*words, "--json").document
    assert found["search"]["cost"]["block_tokens"] == 0
    assert found["search"]["cost"]["recalled"] > 0
    assert found["recovery"]["runs"]


def test_an_interrupted_fit_of_recover_leaves_both_checkpoints_as_they_were(
    depthprune: Command, tiny_llama: Path, spec: str, tmp_path: Path, monkeypatch: Any
) -> None:
    cut = tmp_path / "cut"
    assert depthprune("apply", tiny_llama, "--remove", "2,4", "-o", cut).status == DONE
    before = {path.name: path.read_bytes() for path in cut.iterdir()}
    words = ("recover", cut, "--original", tiny_llama, "-c", spec, "-o", tmp_path / "out", *_FAST,
             "--no-bench")  # fmt: skip
    with monkeypatch.context() as patch:
        patch.setattr(Walk, "_fit_block", _at_call(_LATER, Walk._fit_block))
        outcome = depthprune(*words)
    assert outcome.status == INTERRUPTED
    assert outcome.err.splitlines()[-1] == "error: interrupted; nothing was written"
    assert [path.name for path in tmp_path.iterdir()] == ["cut"]
    assert {path.name: path.read_bytes() for path in cut.iterdir()} == before
    assert depthprune(*words).status == DONE


@pytest.fixture
def writes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How often the model is asked for its own text, and the calls of it so far."""
    seen: list[int] = []
    own = generated.GeneratedPool._write

    def noting(*arguments: Any) -> Any:
        seen.append(1)
        return own(*arguments)

    monkeypatch.setattr(generated.GeneratedPool, "_write", noting)
    return seen


def test_own_text_that_was_being_written_is_lost_and_what_was_finished_is_not(
    depthprune: Command, tiny_llama: Path, tmp_path: Path, monkeypatch: Any, writes: list[int]
) -> None:
    words = ("prune", tiny_llama, "-k", 1, "-c", "self,windows=12,length=16,prompt=The river",
             "-o", tmp_path / "out", *_FAST, "--no-bench", "--search", "one-shot")  # fmt: skip
    kept = cache_folder() / "self"
    with monkeypatch.context() as patch:
        patch.setattr(generated, "_loss", _at_call(_LATER, generated._loss))
        assert depthprune(*words).error == "interrupted; nothing was written"
    assert not kept.exists() or list(kept.iterdir()) == []
    with monkeypatch.context() as patch:
        patch.setattr(Walk, "_fit_block", _at_call(1, Walk._fit_block))
        patch.setattr("depthprune.pruning.write.reload_like", _at_call(1, print))
        assert depthprune(*words).status == INTERRUPTED
    (file,) = kept.iterdir()
    content, before = file.read_bytes(), len(writes)
    assert depthprune(*words).status == DONE
    assert len(writes) == before
    assert file.read_bytes() == content


def test_an_interrupted_bench_loses_what_it_measured_and_writes_nothing(
    depthprune: Command, tiny_llama: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    before = _all_below(cache_folder().parent)
    words = ("bench", tiny_llama, "--repeats", 3, "--prompt-tokens", 16, "--new-tokens", 4, *_FAST)
    monkeypatch.chdir(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(speed, "_run", _at_call(_LATER, speed._run))
        outcome = depthprune(*words)
    assert outcome.error == "interrupted; nothing was written"
    assert _all_below(tmp_path) == []
    assert _all_below(cache_folder().parent) == before
    assert depthprune(*words, "--json").document["results"]
    assert torch.is_grad_enabled()
