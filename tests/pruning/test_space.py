"""A disk that cannot hold the output is refused before anything is computed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import depthprune as dp
from depthprune import outputs
from depthprune.errors import OutputError
from depthprune.evaluator import Evaluator
from depthprune.models.source import find_model
from depthprune.outputs import as_target
from depthprune.pruning.apply import apply
from depthprune.pruning.space import least_bytes
from depthprune.study.run import run_study
from gguf_tiny import tiny_gguf

SPEC = "stdlib-prose,windows=4,length=16"


def _weights(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


@pytest.mark.parametrize("removed", [(2,), (0, 1, 4)])
def test_what_a_checkpoint_takes_at_least_is_just_below_what_it_takes(
    removed: tuple[int, ...], tiny_llama: Path, tmp_path: Path
) -> None:
    apply(tiny_llama, removed, tmp_path / "out")
    found = least_bytes(find_model(tiny_llama), as_target(tmp_path / "out"), 6 - len(removed)) - (
        1 << 20
    )
    assert 0 <= _weights(tmp_path / "out") - found < 10_000


def test_where_the_search_decides_how_many_go_all_but_one_may(tiny_llama: Path) -> None:
    source, out = find_model(tiny_llama), Path("out")
    assert least_bytes(source, as_target(out), None) == least_bytes(source, as_target(out), 1)
    assert least_bytes(source, as_target(out), 1) < least_bytes(source, as_target(out), 5)


def test_a_gguf_takes_what_is_left_of_it_and_as_a_folder_the_dense_weights_too(
    tmp_path: Path,
) -> None:
    tiny_gguf(tmp_path / "whole.gguf", blocks=4)
    source = find_model(tmp_path / "whole.gguf")
    size = (tmp_path / "whole.gguf").stat().st_size
    file = least_bytes(source, as_target(tmp_path / "x.gguf"), 3) - (1 << 20)
    assert size // 2 < file < size
    assert least_bytes(source, as_target(tmp_path / "x"), 3) > least_bytes(
        source, as_target(tmp_path / "x"), 2
    )


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk with 10 kB free, and an evaluator that must not come to work."""

    def never(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("the search began")

    monkeypatch.setattr(outputs.shutil, "disk_usage", lambda _: SimpleNamespace(free=10_000))
    monkeypatch.setattr(Evaluator, "__init__", never)


def _recover(folder: Path, cut: Path, out: Path) -> None:
    dp.recover_checkpoint(cut, folder, out=out, calibration=SPEC, memo="off")


def _prune(folder: Path, cut: Path, out: Path) -> None:
    dp.prune(folder, 1, out=out, calibration=SPEC, memo="off")


@pytest.mark.parametrize("work", [_prune, _recover])
def test_too_little_space_is_refused_before_the_search(
    work: Callable[[Path, Path, Path], None], tiny_llama: Path, tmp_path: Path, request: Any
) -> None:
    apply(tiny_llama, (2,), tmp_path / "cut")
    request.getfixturevalue("full")
    with pytest.raises(OutputError, match=r"needs 0\.00 GB and the disk has 0\.00 GB free"):
        work(tiny_llama, tmp_path / "cut", tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cut"]


@pytest.mark.parametrize("name", ["out", "out.gguf"])
def test_surgery_alone_names_the_output_that_has_too_little_space(
    name: str, tiny_llama: Path, tmp_path: Path, request: Any
) -> None:
    source = tiny_gguf(tmp_path / "tiny.gguf") if name.endswith(".gguf") else tiny_llama
    request.getfixturevalue("full")
    with pytest.raises(OutputError, match=f"^-o {tmp_path / name}: needs"):
        apply(source, (2,), tmp_path / name)


def test_what_is_shared_with_the_original_needs_no_room(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: Any
) -> None:
    out = as_target(tmp_path / "out")
    request.getfixturevalue("full")
    least = least_bytes(find_model(tiny_llama), out, 1)
    monkeypatch.setattr(outputs.shutil, "disk_usage", lambda _: SimpleNamespace(free=least - 1))
    with pytest.raises(OutputError, match="free some space"):
        dp.prune(tiny_llama, 1, out=out.path, calibration=SPEC, memo="off")
    with pytest.raises(AssertionError, match="the search began"):
        dp.prune(tiny_llama, 1, out=out.path, calibration=SPEC, memo="off", link=True)


def test_a_study_without_room_is_refused_before_its_first_cell(
    tiny_llama: Path, tmp_path: Path, request: Any
) -> None:
    plan = tmp_path / "plan.yaml"
    plan.write_text(
        f"name: x\nmodels: [{tiny_llama}]\nk: [1]\ncalibrations: {{a: '{SPEC}'}}\n"
        "searches: [one-shot]\n"
    )
    request.getfixturevalue("full")
    with pytest.raises(OutputError, match="free some space, or choose another disk"):
        run_study(plan, tmp_path / "out", memo="off")
    assert not (tmp_path / "out").exists()
