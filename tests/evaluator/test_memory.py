"""What states and the head may take, and what happens when memory runs out all the same."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import depthprune as dp
from depthprune.evaluator import memory
from depthprune.evaluator.memory import head_bytes, head_tokens, host_bytes, state_budget
from depthprune.models.blocks.head import Head

SETS = [(), (0,), (2, 3), (1, 4, 5)]


def made_up(vocabulary: int, *devices: str) -> Any:
    """A model as a budget sees it: a vocabulary, and blocks on some devices."""
    blocks = [
        SimpleNamespace(parameters=lambda d=d: iter([SimpleNamespace(device=torch.device(d))]))
        for d in devices
    ]
    table = SimpleNamespace(weight=torch.empty(vocabulary, 1, device="meta"))
    return SimpleNamespace(
        module=SimpleNamespace(get_input_embeddings=lambda: table),
        device=devices[0],
        streamed=False,
        anatomy=SimpleNamespace(
            device=devices[0],
            blocks=SimpleNamespace(modules=blocks),
            state_bytes=lambda length: 1024,
        ),
    )


WINDOW: Any = SimpleNamespace(tokens=np.zeros(512, dtype=np.int64))


@pytest.mark.parametrize(
    ("device", "vocabulary", "tokens"),
    [
        ("cuda", 32_000, 2048),
        ("cuda", 128_256, 1024),
        ("cuda", 262_144, 512),
        ("cuda", 10**9, 64),
        ("cpu", 32_000, 256),
        ("cpu", 262_144, 256),
    ],
)
def test_a_chunk_of_the_head_is_bounded_for_any_vocabulary(
    device: str, vocabulary: int, tokens: int
) -> None:
    model = made_up(vocabulary, device)
    assert head_tokens(model) == tokens
    assert head_bytes(model) == 3 * 4 * tokens * vocabulary


def test_the_fullest_device_of_several_bounds_the_states(monkeypatch: pytest.MonkeyPatch) -> None:
    free = {"cuda:0": 40 << 30, "cuda:1": 9 << 30, "cpu": 100 << 30}
    monkeypatch.setattr(memory, "available_memory", lambda device: free[str(device)])
    one, two = made_up(32_000, "cuda:0"), made_up(32_000, "cuda:0", "cuda:1")
    head = head_bytes(one)
    assert state_budget(one, [WINDOW], None, 8192).bytes == ((40 << 30) - head) // 2
    assert state_budget(two, [WINDOW], None, 8192).bytes == ((9 << 30) - head) // 2


def test_a_gpu_has_the_hosts_memory_besides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_memory", lambda device: 64 << 30)
    assert host_bytes(made_up(32_000, "cuda:0")) == 32 << 30
    assert host_bytes(made_up(32_000, "cpu")) == host_bytes(made_up(32_000, "mps")) == 0


class Filling:
    """A head for which memory holds the logits of so many tokens and no more; no tiles.

    The first few calls are held all the same.
    """

    projection = None

    def __init__(self, head: Head, holds: int, words: str, first: int = 0) -> None:
        self.head, self.holds, self.words, self.first = head, holds, words, first
        self.asked: list[int] = []

    def __call__(self, states: Tensor) -> Tensor:
        self.asked.append(states.shape[1])
        if states.shape[1] > self.holds and len(self.asked) > self.first:
            raise RuntimeError(self.words)
        return self.head(states)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.head, name)


@pytest.mark.parametrize("words", ["CUBLAS_STATUS_ALLOC_FAILED", "MPS backend out of memory"])
def test_a_chunk_that_memory_does_not_hold_is_halved(tiny_llama: Path, words: str) -> None:
    model = dp.load(tiny_llama, dtype="float32", device="cpu")
    calibration = dp.calibrate("stdlib-prose,windows=4,length=200", model)
    plain = dp.Evaluator(model, calibration).score(SETS)
    head: Any = Filling(model.anatomy.head, 50, words)
    small = replace(model, anatomy=replace(model.anatomy, head=head))
    evaluator = dp.Evaluator(small, calibration)
    whole = evaluator._runner.call_key(0)
    found = evaluator.score(SETS)
    # Losses of a smaller chunk round otherwise, and are remembered apart.
    assert evaluator._runner.call_key(0) == f"{whole}, head {evaluator._runner.losses.chunk}"
    assert max(head.asked) > 50
    assert head.asked[-1] <= 50
    for ours, theirs in zip(found, plain, strict=True):
        np.testing.assert_allclose(ours.window_losses, theirs.window_losses, rtol=1e-5)


@pytest.mark.parametrize("calls", [0, 5])
def test_what_a_smaller_chunk_gave_is_not_kept_as_what_a_whole_one_does(
    tiny_llama: Path, tmp_path: Path, calls: int
) -> None:
    """Also where memory runs out after some sets of a batch had whole chunks."""
    model = dp.load(tiny_llama, dtype="float32", device="cpu")
    calibration = dp.calibrate("stdlib-prose,windows=4,length=200", model)

    def with_head(holds: int, first: int) -> tuple[dp.Model, Any]:
        head: Any = Filling(model.anatomy.head, holds, "CUDA out of memory", first)
        return replace(model, anatomy=replace(model.anatomy, head=head)), head

    with dp.Memo.open(tmp_path / "memo.sqlite") as memo:
        small, head = with_head(50, calls)
        dp.Evaluator(small, calibration, memo=memo).score(SETS)
        halved = sum(tokens for tokens in head.asked if tokens <= 50)
        assert halved == len(SETS) * 4 * 199
        whole = dp.Evaluator(with_head(1 << 20, 0)[0], calibration, memo=memo)
        whole.score(SETS)
        assert whole.cost.recalled == 0


def test_what_no_chunk_helps_is_told(tiny_llama: Path) -> None:
    model = dp.load(tiny_llama, dtype="float32", device="cpu")
    calibration = dp.calibrate("stdlib-prose,windows=1,length=64", model)
    head: Any = Filling(model.anatomy.head, 0, "CUDA out of memory")
    small = replace(model, anatomy=replace(model.anatomy, head=head))
    with pytest.raises(dp.DepthpruneError, match="does not fit in the memory"):
        dp.Evaluator(small, calibration).score(SETS)


def test_the_head_asks_the_device_once_a_set(
    tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each copy to the processor waits for all that a GPU was given."""
    model = dp.load(tiny_llama, dtype="float32", device="cpu")
    calibration = dp.calibrate("stdlib-prose,windows=1,length=128", model)
    evaluator = dp.Evaluator(model, calibration)
    evaluator._runner.losses.chunk = 16
    waited: list[int] = []
    plain = torch.Tensor.cpu
    monkeypatch.setattr(torch.Tensor, "cpu", lambda self: waited.append(1) or plain(self))
    evaluator.score(SETS)
    assert len(waited) == len(SETS)
