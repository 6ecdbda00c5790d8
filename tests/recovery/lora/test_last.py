"""The last blocks and the head are trained in copies, and nothing below them changes."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy, kl_div

import depthprune as dp
from depthprune.checkpoints.checkpoint import open_checkpoint
from depthprune.checkpoints.surgery import write_pruned
from depthprune.errors import CalibrationError, ModelError, UsageError
from depthprune.models.parity import reload, verify
from depthprune.progress import SILENT
from depthprune.recovery import Last, parse_method, stored
from depthprune.recovery.lora.distil import distil
from mended import drawn, loaded, logits, planted, tokens_of
from tiny import save_tiny

pytest.importorskip("accelerate", reason="the extra heal is not installed")

# These import transformers' Trainer, which needs accelerate.
from depthprune.recovery.lora.distillation_data import distillation_data
from depthprune.recovery.lora.own_text import with_own_text
from depthprune.recovery.lora.student import Student
from depthprune.recovery.lora.unfrozen import Unfrozen, trained_names, unfrozen

SHORT = Last(blocks=2, steps=4, every=2, batch=4, lr=5e-3, judge=3, start="plain", own=0)


@pytest.mark.parametrize("tied", [False, True])
def test_what_is_trained_is_the_last_kept_blocks_and_a_head_that_is_not_the_embeddings(
    tied: bool,
) -> None:
    model = loaded("llama", tie_word_embeddings=tied)
    names = trained_names(model, [1, 5])
    assert {name.split(".")[2] for name in names if name.startswith("model.layers.")} == {"1", "5"}
    outer = {name for name in names if not name.startswith("model.layers.")}
    assert outer == ({"model.norm.weight"} if tied else {"model.norm.weight", "lm_head.weight"})


@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_gradient_is_that_of_the_whole_models_own_forward(
    checkpointing: bool, tmp_path: Path
) -> None:
    """Against autograd through the masked model, its parameters trained in place."""
    model = loaded()
    nll = 0.3
    read = distillation_data(drawn(tmp_path, model), SHORT, 64)
    place, batch = next((p, b) for p, b in enumerate(read.trained) if len(b.tokens) > 1)
    with unfrozen(model, [0, 1, 4, 5], SHORT) as trained:
        student = Student(model, [2, 3], trained, read, {}, nll=nll, checkpointing=checkpointing)
        for _ in range(2):  # the second from the states that are kept
            student.zero_grad()
            loss = student(torch.tensor(place))
            loss.backward()
    dense = logits(model, batch.tokens)[:, :-1].flatten(0, 1).log_softmax(-1)
    found = {n: p.grad for n, p in zip(trained_names(model, [4, 5]), student.trained, strict=True)}
    model.module.requires_grad_(True)
    with model.anatomy.masked([2, 3]) as masked:
        ours = masked(input_ids=batch.tokens, use_cache=False).logits[:, :-1].flatten(0, 1)
    kl = kl_div(ours.log_softmax(-1), dense, log_target=True, reduction="batchmean")
    own = cross_entropy(ours, batch.tokens[:, 1:].flatten())
    expected = ((1 - nll) * kl + nll * own) * batch.share * len(read.trained)
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    for name, gradient in found.items():
        theirs = model.module.get_parameter(name).grad
        assert theirs.abs().max() > 0
        torch.testing.assert_close(gradient, theirs, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("start", ["plain", "linear"])
def test_a_written_checkpoint_is_the_trained_model_to_the_bit(start: str, tmp_path: Path) -> None:
    source = save_tiny(tmp_path / "model", "llama")
    model = dp.load(source, dtype="float32", device="cpu")
    before = {name: p.clone() for name, p in model.module.named_parameters()}
    # Block 4 is both mended by the linear recovery, before the gap, and trained.
    settings = replace(SHORT, blocks=2, start=start)
    recovery = distil(model, [3], drawn(tmp_path, model), settings)
    assert recovery.training is not None
    assert recovery.training.best > 0
    assert all(torch.equal(before[n], p) for n, p in model.module.named_parameters())
    assert not any(".layers.0." in name or ".layers.1." in name for name in recovery.weights)
    checkpoint = open_checkpoint(source)
    data, as_written = stored(recovery, model, checkpoint)
    (tmp_path / "out").mkdir()
    write_pruned(checkpoint, [3], tmp_path / "out", replace=data)
    with dp.recovered(model, as_written):
        assert verify(model, reload(tmp_path / "out", "float32", "cpu"), [3]).bitwise
    for name, weight in recovery.weights.items():
        torch.testing.assert_close(as_written.weights[name], weight, rtol=1e-6, atol=1e-7)


def test_the_written_weights_are_worth_what_the_curve_says(tmp_path: Path) -> None:
    model = loaded("llama", tie_word_embeddings=True)
    calibration = drawn(tmp_path, model)
    recovery = distil(model, [3], calibration, SHORT)
    training = recovery.training
    assert training is not None
    kept = next(point for point in training.points if point.step == training.best)
    assert kept.choosing < training.points[0].choosing
    chosen = tokens_of(calibration, chooses=True)
    found = []
    for text in chosen:
        dense = logits(model, text)[0, :-1].log_softmax(-1)
        with dp.recovered(model, recovery):
            ours = logits(model, text, [3])[0, :-1].log_softmax(-1)
        found.append(kl_div(ours, dense, log_target=True, reduction="batchmean").item())
    expected = 0.75 * sum(found[:3]) / 3 + 0.25 * sum(found[3:]) / 3
    assert kept.choosing == pytest.approx(expected, rel=1e-4)


def test_training_finds_what_a_planted_block_gave(tmp_path: Path) -> None:
    model = planted()
    settings = replace(SHORT, blocks=1, steps=60, every=30, batch=8, judge=12, lr=1e-2)
    training = distil(model, [3], drawn(tmp_path, model, windows=96), settings).training
    assert training is not None
    assert training.points[-1].choosing < 0.6 * training.points[0].choosing


def test_more_blocks_than_are_kept_are_refused_before_anything_is_fitted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = loaded()
    monkeypatch.setattr("depthprune.recovery.lora.distil.recover", None)
    with pytest.raises(UsageError, match=r"--recover last: blocks: expected at most the 5 .* 6"):
        distil(model, [3], drawn(tmp_path, model), replace(SHORT, blocks=6, start="linear"))
    with pytest.raises(UsageError, match=r"--recover last: blocks: expected 1 or more"):
        parse_method("last:blocks=0")
    with pytest.raises(UsageError, match=r"unknown parameter 'rank=4'"):
        parse_method("last:rank=4")


def test_blocks_that_share_all_their_weights_are_refused() -> None:
    model = loaded()
    layers = model.module.model.layers
    layers[4] = layers[5]
    with pytest.raises(ModelError, match="--recover last: expected parameters in the last kept"):
        trained_names(model, [5])


def test_text_of_the_models_own_has_its_share_and_is_as_long(tmp_path: Path) -> None:
    model = loaded()
    calibration = drawn(tmp_path, model)
    mixed = with_own_text(model, calibration, replace(SHORT, own=0.25), SILENT)
    assert [part.share for part in mixed.parts] == pytest.approx([0.75 * 0.75, 0.25 * 0.75, 0.25])
    written = mixed.parts[-1]
    assert written.spec.source == "self"
    assert {len(window.tokens) for window in written.windows} == {32}
    assert written.tokens == pytest.approx(calibration.tokens / 3, abs=32)
    assert with_own_text(model, calibration, SHORT, SILENT) is calibration


def test_a_model_that_cannot_begin_a_text_is_told_to_do_without(tmp_path: Path) -> None:
    model = loaded()
    calibration = drawn(tmp_path, model)
    model = replace(model, tokenizer=copy.deepcopy(model.tokenizer))  # which all tests share
    model.tokenizer.bos_token = model.tokenizer.eos_token = None
    with pytest.raises(CalibrationError, match=r"--recover last: self: .*; or pass own=0"):
        with_own_text(model, calibration, replace(SHORT, own=0.25), SILENT)


def test_an_untrained_copy_changes_nothing(tmp_path: Path) -> None:
    model = loaded()
    text = tokens_of(drawn(tmp_path, model), chooses=True)[0]
    before = logits(model, text)
    copies = Unfrozen(model, trained_names(model, [5]), 5)
    with copies.in_place(5):
        assert torch.equal(logits(model, text), before)
    assert all(not change.matrix.any() for change in copies.changes().values())
