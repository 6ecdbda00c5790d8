"""A streamed model is recovered as the loaded one is: one block, two states a token, and sums."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import pytest
import torch

import depthprune as dp
from depthprune.checkpoints.checkpoint import open_checkpoint
from depthprune.models.blocks.anatomy import Anatomy
from depthprune.pruning.recovering.held_out_recovered import judge_recovered
from depthprune.recovery import Linear, stored
from mended import drawn
from tiny import save_tiny

REMOVED = (1, 4)


def _both(folder: Path, dtype: str = "float32") -> tuple[dp.Model, dp.Model]:
    held, streamed = (
        dp.load(folder, dtype=dtype, device="cpu", stream=stream) for stream in (False, True)
    )
    return held, streamed


@pytest.mark.parametrize(
    ("model_type", "dtype"), [("llama", "float32"), ("llama", "bfloat16"), ("gpt2", "float32")]
)
def test_a_streamed_model_is_recovered_to_the_bit_as_the_loaded_one(
    model_type: str, dtype: str, tmp_path: Path
) -> None:
    folder = save_tiny(tmp_path / "model", model_type)
    held, streamed = _both(folder, dtype)
    calibration = drawn(tmp_path, held)
    theirs, ours = (dp.recover(model, REMOVED, calibration) for model in (held, streamed))
    assert ours.runs == theirs.runs
    assert all(run.strength > 0 for run in ours.runs)
    assert ours.weights.keys() == theirs.weights.keys()
    assert all(torch.equal(ours.weights[name], theirs.weights[name]) for name in theirs.weights)
    checkpoint = open_checkpoint(folder)
    (data, written), (expected, _) = (
        stored(each, model, checkpoint) for each, model in ((ours, streamed), (theirs, held))
    )
    assert data == expected
    texts = calibration.held_out()
    found = judge_recovered(streamed, texts, "nll", written)
    assert found == judge_recovered(held, texts, "nll", written)
    assert all((record.recovered_change or 0.0) != 0 for record in found)


def test_a_streamed_model_comes_back_as_it_was(tiny_llama: Path, tmp_path: Path) -> None:
    held, streamed = _both(tiny_llama)
    recovery = dp.recover(streamed, REMOVED, drawn(tmp_path, held))
    for model in (held, streamed):
        with dp.recovered(model, recovery), model.anatomy.holding(3):
            mended = model.anatomy.blocks.modules[3].mlp.down_proj.weight.clone()
        with model.anatomy.holding(3):
            own = model.anatomy.blocks.modules[3].mlp.down_proj.weight.clone()
        assert torch.equal(mended, recovery.weights["model.layers.3.mlp.down_proj.weight"])
        assert not torch.equal(mended, own)


def test_recovery_reads_each_block_once_and_the_one_before_a_run_once_more(
    tiny_llama: Path, tmp_path: Path
) -> None:
    held, streamed = _both(tiny_llama)
    stream = streamed.stream
    assert stream is not None
    calibration = drawn(tmp_path, held)
    before = stream.bytes_read
    dp.recover(streamed, REMOVED, calibration, Linear(refit="none"))
    # Blocks 0 to 4, and 0 and 3 again.
    assert stream.bytes_read - before == 7 * stream.bytes_a_pass // 6


class _Held:
    """Bytes of the tensors made, and how many blocks are there, at the worst call of a block."""

    def __init__(self, model: dp.Model, monkeypatch: pytest.MonkeyPatch) -> None:
        self.bytes = self.blocks = 0
        blocks = model.anatomy.blocks.modules
        plain = Anatomy.call

        def watched(anatomy: Anatomy, *given: Any) -> torch.Tensor:
            answer = plain(anatomy, *given)
            full = [b for b in blocks if not all(p.is_meta for p in b.parameters())]
            self.bytes = max(self.bytes, _tensor_bytes())
            self.blocks = max(self.blocks, len(full))
            return answer

        monkeypatch.setattr(Anatomy, "call", watched)


def _tensor_bytes() -> int:
    storages = {
        storage.data_ptr(): storage.nbytes()
        for each in gc.get_objects()
        if issubclass(type(each), torch.Tensor) and not each.is_meta
        for storage in [each.untyped_storage()]
    }
    return sum(storages.values())


def test_what_is_held_grows_with_the_text_by_two_states_a_token(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, streamed = _both(tiny_llama)
    state, length = 32 * 4, 64
    peaks = []
    for windows in (128, 256):  # whole batches, of 1,024 tokens
        calibration = drawn(tmp_path, streamed, windows=windows, length=length)
        gc.collect()
        gc.freeze()  # so that only what is made from here on is looked through
        with monkeypatch.context() as patch:
            held = _Held(streamed, patch)
            dp.recover(streamed, REMOVED, calibration, Linear(refit="none"))
        gc.unfreeze()
        peaks.append(held.bytes)
        assert held.blocks == 1
    tokens = 128 * length
    ids_and_flags = 8 + 1
    assert peaks[1] - peaks[0] == tokens * (2 * state + ids_and_flags)


def test_weights_are_replaced_before_their_block_is_held(tiny_llama: Path) -> None:
    _, streamed = _both(tiny_llama)
    stream, name = streamed.stream, "model.layers.1.mlp.down_proj.weight"
    assert stream is not None
    nothing = torch.zeros(32, 48)
    with streamed.anatomy.holding(0), pytest.raises(ValueError, match="before their block is held"):
        stream.replacing(streamed.module, {name: nothing}).__enter__()
    with pytest.raises(ValueError, match="not among the streamed blocks' parameters"):
        stream.replacing(streamed.module, {"model.norm.weight": nothing}).__enter__()
