"""The next block is read in the background: the same bytes, in one more block of memory."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import depthprune as dp
from depthprune.calibration import Calibration, calibrate
from depthprune.errors import CheckpointError
from depthprune.models.loading import Model, load
from depthprune.models.streaming import stream as streaming
from depthprune.models.streaming.ahead import ReadAhead
from depthprune.models.streaming.reader import TensorReader
from depthprune.models.streaming.stream import Stream
from tiny import save_tiny

SETS = [(), (0,), (2,), (5,), (1, 2, 4), (3, 4)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_tiny(tmp_path / "model", max_shard_size="20KB")


@pytest.fixture
def model(folder: Path) -> Model:
    return load(folder, dtype="float32", device="cpu", stream=True)


def _stream(model: Model) -> Stream:
    assert model.stream is not None
    return model.stream


def _calibration(model: Model, folder: Path) -> Calibration:
    (folder / "text.txt").write_text("The bridge is of grey stone, and the river is high. " * 40)
    return calibrate(f"text:{folder / 'text.txt'},windows=4,length=16", model)


@pytest.fixture
def readers(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The threads that read, one entry a block or more."""
    seen: list[str] = []
    read = TensorReader.read

    def noting(self: TensorReader, slots: Sequence[Any], tensors: Sequence[Any]) -> int:
        seen.append(threading.current_thread().name)
        return read(self, slots, tensors)

    monkeypatch.setattr(TensorReader, "read", noting)
    return seen


def test_losses_and_counts_are_the_same_to_the_bit_without_it(model: Model, folder: Path) -> None:
    calibration = _calibration(model, folder)
    plain = load(folder, dtype="float32", device="cpu", stream=True)
    _stream(plain).use_one_buffer()
    found = []
    for each in (model, plain):
        before = _stream(each).bytes_read
        scores = dp.Evaluator(each, calibration, racing=None).score(SETS)
        found.append(
            (np.stack([s.window_losses for s in scores]), _stream(each).bytes_read - before)
        )
    (ahead, read), (alone, read_alone) = found
    assert np.array_equal(ahead, alone)
    assert read == read_alone == _stream(model).bytes_a_pass


def test_all_but_the_first_block_of_a_walk_are_read_in_the_background(
    model: Model, folder: Path, readers: list[str]
) -> None:
    calibration = _calibration(model, folder)
    _stream(model).use_one_buffer()
    fresh = load(folder, dtype="float32", device="cpu", stream=True)
    readers.clear()
    dp.Evaluator(fresh, calibration, racing=None).score(SETS)
    assert [name.startswith("depthprune-read-ahead") for name in readers[1:6]] == [True] * 5


def test_the_block_that_followed_last_time_is_read_next(model: Model) -> None:
    stream = _stream(model)
    for block in (0, 3):
        with stream.holding(block):
            pass
    unused = stream.bytes_unused
    for block in (0, 3):
        with stream.holding(block):
            pass
    # Of the second time, what was begun behind block 3 of the first is all that was in vain.
    assert stream.bytes_unused - unused <= stream.bytes_a_pass // 6


def test_a_block_that_was_read_ahead_in_vain_is_counted_apart(model: Model) -> None:
    stream = _stream(model)
    stream._ahead = ReadAhead(6, stream._drop)
    read, unused = stream.bytes_read, stream.bytes_unused
    for block in (1, 4):
        with stream.holding(block):
            pass
    size = stream.bytes_a_pass // 6
    assert (stream.bytes_read - read, stream.bytes_unused - unused) == (2 * size, size)


def test_weights_that_are_replaced_meanwhile_are_the_replaced_ones(model: Model) -> None:
    stream = _stream(model)
    name = f"{stream.path}.1.mlp.down_proj.weight"
    with stream.holding(0):
        pass
    new = torch.full_like(model.anatomy.blocks.modules[1].mlp.down_proj.weight, 2.0, device="cpu")
    with stream.replacing(model.module, {name: new}), stream.holding(1):
        assert torch.equal(model.module.get_parameter(name), new)
    with stream.holding(1):
        assert not torch.equal(model.module.get_parameter(name), new)


def test_a_read_in_the_background_that_fails_is_reported_by_who_needs_the_block(
    model: Model, folder: Path, readers: list[str]
) -> None:
    stream = _stream(model)
    assert stream._ahead is not None
    stream._ahead.abandon()  # what loading has begun to read
    readers.clear()
    for path in folder.glob("*.safetensors"):
        path.unlink()
    stream._ahead = ahead = ReadAhead(6, stream._drop)
    ahead.begin(2, stream._reading(2, stream._buffer_for(2)))
    with pytest.raises(CheckpointError, match="cannot be read"), stream.holding(2):
        pass
    assert len(readers) == 2
    assert readers[1] == threading.current_thread().name


def test_nothing_is_read_ahead_where_memory_does_not_hold_a_second_block(
    model: Model, monkeypatch: pytest.MonkeyPatch, readers: list[str]
) -> None:
    stream = _stream(model)
    stream.use_one_buffer()
    stream._ahead = ReadAhead(6, stream._drop)
    readers.clear()
    monkeypatch.setattr(streaming, "available_memory", lambda device: 0)
    for block in range(6):
        with stream.holding(block):
            assert len(stream._spare) == 0
    assert {threading.current_thread().name} == set(readers)


def test_memory_that_is_given_holds_a_second_block_or_none_is_read_ahead(
    model: Model, folder: Path
) -> None:
    calibration = _calibration(model, folder)
    size = model.anatomy.largest_block_bytes
    states = 2 * 16 * model.anatomy.state_bytes(16)
    dp.Evaluator(model, calibration, memory=states + 2 * size)
    assert _stream(model)._ahead is not None
    dp.Evaluator(model, calibration, memory=states + size)
    assert _stream(model)._ahead is None
