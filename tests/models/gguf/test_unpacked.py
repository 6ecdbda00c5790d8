"""A GGUF that was unpacked before is the same model, and is only ever a shortcut."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from depthprune.errors import UsageError
from depthprune.models.gguf import unpacked
from depthprune.models.gguf.unpacked import (
    forget_kept,
    kept_models,
    unpacked_folder,
)
from depthprune.models.pretrained import load_module
from depthprune.models.source import find_model
from gguf_tiny import tiny_gguf

CPU = torch.device("cpu")
posix = pytest.mark.skipif(os.name == "nt", reason="limits of POSIX")
HEADS = {"attention.key_length": 16, "attention.value_length": 16}


@pytest.fixture(autouse=True)
def _kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DEPTHPRUNE_UNPACKED")


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return tiny_gguf(tmp_path / "tiny.gguf", "gemma3", tokenizer=True, fields=HEADS)


def loaded(file: Path, dtype: torch.dtype = torch.float32) -> nn.Module:
    return load_module(find_model(file), dtype, CPU)


def same(one: Any, other: Any) -> bool:
    ours, theirs = one.state_dict(), other.state_dict()
    buffers = dict(other.named_buffers())
    return (
        list(ours) == list(theirs)
        and all(torch.equal(ours[name], theirs[name]) for name in ours)
        and all(torch.equal(b, buffers[name]) for name, b in one.named_buffers())
        and one.config.to_dict() == other.config.to_dict()
        and one.generation_config.to_dict() == other.generation_config.to_dict()
    )


@pytest.fixture
def never_unpacked(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A context in which unpacking fails the test."""

    def refuse(*_: object) -> None:
        pytest.fail("the file was unpacked again")

    def forbid() -> None:
        monkeypatch.setattr("depthprune.models.pretrained.gguf_options", refuse)

    return forbid


def test_the_first_load_lies_in_memory_as_the_second_does(tiny: Path) -> None:
    """A product of one row rounds by where its matrix begins."""
    first, second = (
        [parameter.data_ptr() % 512 for parameter in loaded(tiny).parameters()] for _ in range(2)
    )
    assert first == second


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_second_load_is_the_same_model_to_the_bit(
    tiny: Path, never_unpacked: Any, dtype: torch.dtype
) -> None:
    first = loaded(tiny, dtype)
    never_unpacked()
    second = loaded(tiny, dtype)
    assert same(first, second)
    assert {p.dtype for p in second.parameters()} == {dtype}
    ids = torch.arange(5, 25)[None]
    with torch.inference_mode():
        assert torch.equal(first(ids).logits, second(ids).logits)


def test_every_dtype_is_kept_apart(tiny: Path) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        assert {p.dtype for p in loaded(tiny, dtype).parameters()} == {dtype}
    assert {kept.dtype for kept in kept_models()} == {"float32", "bfloat16"}
    assert {kept.name for kept in kept_models()} == {"tiny.gguf"}


def test_another_file_at_the_same_place_is_another_model(tiny: Path) -> None:
    first = loaded(tiny)
    tiny_gguf(tiny, "gemma3", tokenizer=True, fields=HEADS, seed=1)
    second = loaded(tiny)
    assert not same(first, second)
    assert len(kept_models()) == 2


def test_a_file_touched_since_is_unpacked_again(tiny: Path) -> None:
    loaded(tiny)
    os.utime(tiny, (1, 1))
    loaded(tiny)
    assert len(kept_models()) == 2


@pytest.mark.parametrize("damage", [b"", b"x" * 64, None])
def test_a_damaged_one_is_unpacked_again(tiny: Path, damage: bytes | None) -> None:
    first = loaded(tiny)
    (kept,) = kept_models()
    weights = kept.place / "model.safetensors"
    weights.unlink()  # the model that is loaded maps what was there
    if damage is not None:
        weights.write_bytes(damage)
    assert same(first, loaded(tiny))
    assert same(first, loaded(tiny))
    assert len(kept_models()) == 1


def test_nothing_that_a_pickle_could_hide_in_is_written(tiny: Path) -> None:
    loaded(tiny)
    (kept,) = kept_models()
    assert sorted(path.name for path in kept.place.iterdir()) == [
        *("config.json", "generation_config.json", "model.safetensors", "unpacked.json")
    ]


def test_what_was_used_longest_ago_goes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [tiny_gguf(tmp_path / f"{i}.gguf", tokenizer=True, seed=i) for i in range(3)]
    for number, file in enumerate(files[:2]):
        loaded(file)
        record = next(k.place for k in kept_models() if k.name == file.name) / "unpacked.json"
        os.utime(record, (number + 1, number + 1))
    loaded(files[0])  # used again, so the other one is the older
    room = 2.5 * max(kept.bytes for kept in kept_models())
    monkeypatch.setenv("DEPTHPRUNE_UNPACKED", str(room / 1e9))
    loaded(files[2])
    assert [kept.name for kept in kept_models()] == ["2.gguf", "0.gguf"]


@pytest.mark.parametrize("limit", ["0", "0.00001"])
def test_what_does_not_fit_is_not_kept(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    monkeypatch.setenv("DEPTHPRUNE_UNPACKED", limit)
    loaded(tiny)
    assert not unpacked_folder().exists()


@pytest.mark.parametrize("limit", ["much", "-1", "nan", "inf"])
def test_a_limit_that_is_no_size_is_refused(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    monkeypatch.setenv("DEPTHPRUNE_UNPACKED", limit)
    with pytest.raises(UsageError, match="DEPTHPRUNE_UNPACKED: expected gigabytes"):
        loaded(tiny)


def test_a_folder_that_cannot_be_written_costs_nothing_but_time(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cache").write_text("a file")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert same(loaded(tiny), loaded(tiny))


def test_a_failure_while_writing_leaves_nothing(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(unpacked.os, "rename", full)
    loaded(tiny)
    assert list(unpacked_folder().iterdir()) == []


@posix
def test_a_disk_that_fills_while_it_is_kept_costs_nothing_but_time(tiny: Path) -> None:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        module = loaded(tiny)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(unpacked_folder().iterdir()) == []
    assert same(module, loaded(tiny))


def test_what_is_kept_is_forgotten_by_age_weights_or_all(tmp_path: Path) -> None:
    for seed in range(3):
        loaded(tiny_gguf(tmp_path / f"{seed}.gguf", tokenizer=True, seed=seed))
    last, middle, first = kept_models()
    os.utime(first.place / "unpacked.json", (1, 1))
    assert forget_kept() == ()
    assert [kept.name for kept in forget_kept(older_than_days=1)] == [first.name]
    assert [kept.name for kept in forget_kept(weights=middle.fingerprint[:12])] == [middle.name]
    assert [kept.name for kept in forget_kept(everything=True)] == [last.name]
    assert list(unpacked_folder().iterdir()) == []
