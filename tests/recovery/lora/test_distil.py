"""Distillation mends what it can, goes on from where it was, and leaves the model as it was."""

from __future__ import annotations

import json
import math
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.functional import kl_div

import depthprune as dp
from depthprune.checkpoints.checkpoint import open_checkpoint
from depthprune.claims import held
from depthprune.errors import (
    CalibrationError,
    CheckpointError,
    EvaluationError,
    ModelError,
    OutputError,
    UsageError,
)
from depthprune.recovery import (
    LoRA,
    parse_method,
    stored,
)
from depthprune.recovery.linear.fold import swapped
from depthprune.recovery.lora.distil import distil
from mended import drawn, loaded, logits, planted, tokens_of, wrapped
from tiny import tiny_model

peft = pytest.importorskip("peft", reason="the extra heal is not installed")

# These import transformers' Trainer, which needs accelerate.
from depthprune.recovery.lora.adapters import adapted, targets  # noqa: E402
from depthprune.recovery.lora.distillation_data import distillation_data  # noqa: E402
from depthprune.recovery.lora.resume import last_checkpoint  # noqa: E402
from depthprune.recovery.lora.student import Student  # noqa: E402

SHORT = LoRA(rank=4, steps=6, every=2, batch=4, lr=1e-2, judge=3, start="plain")


def same_shape(model: dp.Model) -> dict[str, Any]:
    return {
        "weights": {name: p.clone() for name, p in model.module.named_parameters()},
        "flags": [p.requires_grad for p in model.module.parameters()],
        "modules": [name for name, _ in model.module.named_modules()],
        "attributes": sorted(model.module.__dict__),
        "training": [m.training for m in model.module.modules()],
    }


def test_distillation_finds_what_a_planted_block_gave(tmp_path: Path) -> None:
    model = planted()
    calibration = drawn(tmp_path, model, windows=96)
    settings = replace(SHORT, rank=16, steps=80, every=40, batch=8, judge=12)
    training = distil(model, [3], calibration, settings).training
    assert training is not None
    first, *_, last = training.points
    assert first.choosing > 0.01
    assert last.choosing < 0.6 * first.choosing
    assert last.held_out < 0.6 * first.held_out


def test_the_curve_is_of_the_divergence_on_windows_that_were_not_trained_on(
    tmp_path: Path,
) -> None:
    model = loaded()
    calibration = drawn(tmp_path, model)
    training = distil(model, [2, 3], calibration, SHORT).training
    assert training is not None
    assert [p.step for p in training.points] == [0, 2, 4, 6]

    def mean(texts: Any) -> float:
        found = []
        for text in texts:
            ours, theirs = (logits(model, text, r)[0, :-1] for r in ((2, 3), ()))
            found.append(kl_div(ours.log_softmax(-1), theirs.log_softmax(-1), log_target=True,
                                reduction="batchmean").item())  # fmt: skip
        return sum(found) / len(found)

    chosen = tokens_of(calibration, chooses=True)
    first, second = mean(chosen[:3]), mean(chosen[3:])
    assert training.points[0].choosing == pytest.approx(0.75 * first + 0.25 * second, rel=1e-4)
    held_out = [
        mean(torch.from_numpy(w.tokens)[None] for w in part.windows[i : i + 1])
        for each in calibration.held_out()
        for part in each.parts
        for i in [k * len(part.windows) // 3 for k in range(3)]
    ]
    expected = 0.75 * sum(held_out[:3]) / 3 + 0.25 * sum(held_out[3:]) / 3
    assert training.points[0].held_out == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("model_type", ["llama", "gpt2", "qwen3_moe"])
@pytest.mark.parametrize("start", ["plain", "linear"])
def test_the_merged_model_is_the_adapted_one(
    model_type: str, start: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = loaded(model_type)
    calibration = drawn(tmp_path, model)
    text = tokens_of(calibration, chooses=True)[0]
    seen: list[torch.Tensor] = []
    from depthprune.recovery.lora import adapters as module

    class Watched(module.Adapters):
        def changes(self) -> Any:
            seen.append(logits(model, text, [2, 3]))
            return super().changes()

    monkeypatch.setattr(module, "Adapters", Watched)
    before = same_shape(model)
    recovery = distil(model, [2, 3], calibration, replace(SHORT, start=start, nll=0.5))
    assert recovery.training is not None
    assert recovery.training.best > 0
    with dp.recovered(model, recovery):
        merged = logits(model, text, [2, 3])
    torch.testing.assert_close(merged, seen[0], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(merged, logits(model, text, [2, 3]), atol=1e-2)
    after = same_shape(model)
    weights = before.pop("weights"), after.pop("weights")
    assert before == after
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_the_teacher_is_the_dense_model_and_the_student_the_recovered_one(tmp_path: Path) -> None:
    model = loaded()
    calibration = drawn(tmp_path, model)
    linear = dp.recover(model, [3], calibration)
    settings = replace(SHORT, batch=1)
    read = distillation_data(calibration, settings, 1)
    first = read.trained[0]
    theirs = logits(model, first.tokens)
    changed = {model.module.get_parameter(n): model.module.get_parameter(n).data
               for n in linear.weights}  # fmt: skip
    with dp.recovered(model, linear):
        ours = logits(model, first.tokens, [3])
    with (
        swapped(model.module, linear.weights),
        adapted(model.anatomy, [0, 1, 2, 4, 5], settings) as a,
    ):
        student = Student(model, [3], a, read, changed, nll=0.0, checkpointing=False)
        loss = student(torch.tensor(0)).item()
    expected = kl_div(ours[0, :-1].log_softmax(-1), theirs[0, :-1].log_softmax(-1),
                      log_target=True, reduction="batchmean").item()  # fmt: skip
    assert loss == pytest.approx(expected * first.share * len(read.trained), rel=1e-4)


def test_running_blocks_again_gives_the_same_gradient(tmp_path: Path) -> None:
    found = []
    for checkpointing in (False, True):
        model = loaded()
        read = distillation_data(drawn(tmp_path, model), SHORT, 64)
        with adapted(model.anatomy, [0, 1, 4, 5], SHORT) as adapters:
            with torch.no_grad():
                for parameter in adapters.parameters:
                    parameter.copy_(torch.linspace(-0.1, 0.1, parameter.numel()).view_as(parameter))
            student = Student(model, [2, 3], adapters, read, {}, nll=0.2,
                              checkpointing=checkpointing)  # fmt: skip
            student(torch.tensor(1)).backward()
            found.append([p.grad.clone() for p in adapters.parameters if p.grad is not None])
    assert len(found[0]) == len(found[1]) > 0
    for plain, again in zip(*found, strict=True):
        assert plain.abs().sum() > 0
        torch.testing.assert_close(plain, again)


def test_training_batches_weigh_the_sources_by_their_shares(tmp_path: Path) -> None:
    model = loaded()
    calibration = drawn(tmp_path, model)
    read = distillation_data(calibration, SHORT, 64)
    for kind in (read.trained, read.choosing, read.held_out):
        assert sum(distil_batch.share for distil_batch in kind) == pytest.approx(1.0)
    assert sum(len(distil_batch.tokens) for distil_batch in read.choosing) == 6
    assert sum(len(distil_batch.tokens) for distil_batch in read.trained) == 18
    trained = {tuple(row.tolist()) for distil_batch in read.trained for row in distil_batch.tokens}
    others = {tuple(row.tolist()) for distil_batch in read.choosing for row in distil_batch.tokens}
    assert not trained & others
    count = len(read.trained)
    assert sorted(read.order(count, 0)) == list(range(count))
    assert read.order(30, 0)[:20] == read.order(20, 0)


def interrupted(after: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next training is interrupted in the step after `after`."""
    calls = {"left": after}
    forward = Student.forward

    def stop(self: Student, distil_batch: torch.Tensor) -> torch.Tensor:
        calls["left"] -= 1
        if calls["left"] < 0:
            raise KeyboardInterrupt
        return forward(self, distil_batch)

    monkeypatch.setattr(Student, "forward", stop)


@pytest.mark.parametrize("start", ["plain", "linear"])
def test_a_resumed_training_is_the_uninterrupted_one(
    start: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = loaded()
    calibration = drawn(tmp_path, model)
    settings = replace(SHORT, start=start, nll=0.5)
    whole = distil(model, [2, 3], calibration, settings)
    per_step = distillation_data(calibration, settings, 1024).accumulated(settings.batch)
    with monkeypatch.context() as patch:
        interrupted(5 * per_step, patch)
        with pytest.raises(KeyboardInterrupt):
            distil(model, [2, 3], calibration, settings, folder=tmp_path / "run")
    assert last_checkpoint(tmp_path / "run") == tmp_path / "run" / "checkpoint-4"
    torch.rand(7)  # another process would be elsewhere in its random numbers
    again = distil(model, [2, 3], calibration, settings, folder=tmp_path / "run")
    assert whole.training is not None
    assert again.training is not None
    assert again.training.resumed == 4
    assert again.training.points == whole.training.points
    assert again.training.best == whole.training.best > 0
    assert again.weights.keys() == whole.weights.keys()
    for name, weight in whole.weights.items():
        assert torch.equal(again.weights[name], weight)


def test_a_checkpoint_that_was_cut_short_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = loaded()
    calibration = drawn(tmp_path, model)
    with monkeypatch.context() as patch:
        interrupted(5, patch)
        with pytest.raises(KeyboardInterrupt):
            distil(model, [3], calibration, replace(SHORT, batch=1), folder=tmp_path / "run")
    (tmp_path / "run" / "checkpoint-4" / "complete").unlink()
    assert last_checkpoint(tmp_path / "run") == tmp_path / "run" / "checkpoint-2"
    assert not (tmp_path / "run" / "checkpoint-4").exists()


def test_a_full_disk_is_said_and_what_is_whole_is_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = loaded()
    calibration = drawn(tmp_path, model)

    def full(self: Any, *given: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("transformers.Trainer._save_rng_state", full)
        with pytest.raises(OutputError, match=r"No space left on device.*; free some space"):
            distil(model, [3], calibration, SHORT, folder=tmp_path / "run")
    assert distil(model, [3], calibration, SHORT, folder=tmp_path / "run").training is not None


def test_what_torch_says_of_a_full_disk_is_said(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    model = loaded()
    calibration = drawn(tmp_path, model)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    # Enough for the adapters, and too little for the optimizer's state.
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, limits[1]))
    try:
        with pytest.raises(OutputError, match=r"cannot be written or read .*; free some space"):
            distil(model, [3], calibration, SHORT, folder=tmp_path / "run")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_damaged_checkpoint_is_refused(tmp_path: Path) -> None:
    model = loaded()
    calibration = drawn(tmp_path, model)
    distil(model, [3], calibration, SHORT, folder=tmp_path / "run")
    (tmp_path / "run" / "checkpoint-6" / "trainer_state.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"cannot be resumed .* to begin anew"):
        distil(model, [3], calibration, SHORT, folder=tmp_path / "run")


def test_another_trainings_checkpoints_are_refused(tmp_path: Path) -> None:
    model = loaded()
    calibration = drawn(tmp_path, model)
    distil(model, [3], calibration, SHORT, folder=str(tmp_path / "run"))
    with pytest.raises(UsageError, match="holds the checkpoints of another training"):
        distil(model, [2], calibration, SHORT, folder=tmp_path / "run")
    with pytest.raises(UsageError, match="expected an empty folder for checkpoints"):
        distil(model, [2], calibration, SHORT, folder=tmp_path)


def test_a_finished_training_is_read_from_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = loaded()
    calibration = drawn(tmp_path, model)
    first = distil(model, [3], calibration, SHORT, folder=tmp_path / "run")
    interrupted(0, monkeypatch)
    again = distil(model, [3], calibration, SHORT, folder=tmp_path / "run")
    assert again.training is not None
    assert first.training is not None
    assert again.training.points == first.training.points
    assert all(torch.equal(again.weights[n], w) for n, w in first.weights.items())


def test_training_that_does_harm_ends_early_and_adds_nothing(tmp_path: Path) -> None:
    model = loaded()
    calibration = drawn(tmp_path, model)
    settings = replace(SHORT, steps=20, lr=1.0, patience=2)
    recovery = distil(model, [3], calibration, settings)
    assert recovery.training is not None
    assert recovery.training.best == 0
    assert recovery.training.stopped
    assert recovery.training.steps == 4
    assert recovery.weights == {}
    assert recovery.low_rank == {}


def test_a_training_that_ended_early_is_not_gone_on_with(tmp_path: Path) -> None:
    model = loaded()
    calibration = drawn(tmp_path, model)
    settings = replace(SHORT, steps=20, lr=1.0, patience=2)
    first, again = (
        distil(model, [3], calibration, settings, folder=tmp_path / "run").training
        for _ in range(2)
    )
    assert first is not None
    assert again is not None
    assert again.stopped
    assert again.points == first.points


def test_the_best_step_is_kept_and_not_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = loaded()
    calibration = drawn(tmp_path, model)
    values = iter([3.0, 2.0, 1.0, 1.5])
    monkeypatch.setattr(Student, "judged", lambda self, kind: (
        (next(values) if kind == "choosing" else 0.0), 0.0))  # fmt: skip
    recovery = distil(model, [3], calibration, SHORT, folder=tmp_path / "run")
    assert recovery.training is not None
    assert recovery.training.best == 4
    from safetensors.torch import load_file

    stored = load_file(tmp_path / "run" / "checkpoint-4" / "model.safetensors")
    first = next(iter(recovery.low_rank.values()))
    torch.testing.assert_close(first.down, stored["trained.0"])
    torch.testing.assert_close(first.up, stored["trained.1"])


def test_every_linear_projection_of_the_kept_blocks_is_adapted() -> None:
    found = targets(loaded(blocks=3).anatomy, [0, 2])
    names = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert {name.rpartition(".")[2] for name in found} == names
    assert {name.split(".")[2] for name in found} == {"0", "2"}
    assert len(found) == 14


def test_a_projection_of_one_output_is_adapted_beside_the_rest() -> None:
    model = loaded("qwen2_moe")
    with adapted(model.anatomy, [1, 3], LoRA(rank=16)) as trained:
        names = {name.rpartition(".")[2] for name in trained.layers}
    assert {"shared_expert_gate", "q_proj"} <= names


def test_what_the_checkpoint_joins_is_not_adapted(tiny_llama: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_llama, tmp_path / "joined")
    tensors = load_file(folder / "model.safetensors")
    for block in range(6):
        inside = f"model.layers.{block}.mlp."
        pair = [tensors.pop(f"{inside}{name}_proj.weight") for name in ("gate", "up")]
        tensors[f"{inside}both.weight"] = torch.cat(pair)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    whole = dp.load(tiny_llama, dtype="float32", device="cpu")
    model = replace(whole, source=replace(whole.source, checkpoint=open_checkpoint(folder)))
    recovery = distil(model, [3], drawn(tmp_path, model), replace(SHORT, lr=1e-3))
    names = {name.split(".")[-2] for name in recovery.low_rank}
    assert names == {"q_proj", "k_proj", "v_proj", "o_proj", "down_proj"}
    stored(recovery, model, open_checkpoint(folder))


def test_weights_that_modules_share_are_left_alone() -> None:
    model = loaded(blocks=3)
    layers = model.module.model.layers
    layers[0].mlp.up_proj.weight = layers[1].mlp.up_proj.weight
    found = targets(model.anatomy, [0, 2])
    assert "model.layers.0.mlp.up_proj" not in found
    assert "model.layers.2.mlp.up_proj" in found


def test_nan_weights_are_an_error_with_the_remedy(tmp_path: Path) -> None:
    model = loaded()
    calibration = drawn(tmp_path, model)
    with torch.no_grad():
        model.module.model.layers[4].mlp.down_proj.weight[0, 0] = float("nan")
    with pytest.raises(EvaluationError, match="loss became nan; lower lr=, load"):
        distil(model, [2], calibration, SHORT)


def test_a_loss_that_overflows_on_the_way_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = loaded()
    calibration = drawn(tmp_path, model)
    from depthprune.recovery.lora import student

    monkeypatch.setattr(student, "divergence", lambda *given: torch.tensor(math.inf))
    with pytest.raises(EvaluationError, match="loss became inf"):
        distil(model, [2], calibration, SHORT)


def test_too_few_windows_are_refused(tmp_path: Path) -> None:
    model = loaded()
    calibration = drawn(tmp_path, model, windows=4)
    with pytest.raises(CalibrationError, match=r"2 of 4 windows to train on, and a step takes 4"):
        distil(model, [2], calibration, SHORT)
    single = dp.Calibration((replace(calibration.parts[0], windows=calibration.windows[:1]),))
    with pytest.raises(CalibrationError, match="two windows or more of each source"):
        distil(model, [2], single, SHORT)


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such locks")
def test_a_folder_in_which_another_trains_is_refused_before_anything_is_fitted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, folder = loaded(), tmp_path / "run"
    folder.mkdir()
    monkeypatch.setattr("depthprune.recovery.lora.distil.recover", None)
    with (
        held(folder),
        pytest.raises(OutputError, match=f"folder {folder}: another process is writing there"),
    ):
        distil(model, [2], drawn(tmp_path, model), replace(SHORT, start="linear"), folder=folder)
    assert list(folder.iterdir()) == []


def test_models_that_cannot_be_trained_are_refused_before_anything_is_fitted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = loaded()
    monkeypatch.setattr("depthprune.recovery.lora.distil.recover", None)
    calibration = drawn(tmp_path, model)
    with pytest.raises(ModelError, match="gradients vanish in float16"):
        distil(replace(model, dtype="float16"), [2], calibration, SHORT)
    with pytest.raises(UsageError, match=r"rank: expected at most 32, .* got 64"):
        distil(model, [2], calibration, replace(SHORT, rank=64, start="linear"))
    model.module.config.quantization_config = {"quant_method": "gptq"}
    with pytest.raises(ModelError, match="its weights are quantized"):
        distil(model, [2], calibration, SHORT)


class Bare(nn.Module):
    """A block without a linear projection."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(32))

    def forward(self, hidden_states: torch.Tensor, **rest: Any) -> torch.Tensor:
        return hidden_states * self.gain


def test_a_model_without_linear_projections_is_refused() -> None:
    module = tiny_model(blocks=3)
    for place in range(3):
        module.model.layers[place] = Bare()
    with pytest.raises(ModelError, match="found none that PEFT adapts; take --recover linear"):
        targets(wrapped(module).anatomy, [0, 1])


def test_a_missing_library_is_named_with_its_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = loaded()
    calibration = drawn(tmp_path, model)
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(UsageError, match=r"needs peft, .* pip install 'depthprune\[heal\]'"):
        distil(model, [2], calibration, SHORT)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lora:rank=0", "rank: expected 1 or more, got 0"),
        ("lora:steps=-5", "steps: expected 1 or more, got -5"),
        ("lora:lr=0", "lr: expected a number above 0, at most 1, got 0"),
        ("lora:lr=nan", "lr: expected a number above 0, at most 1, got nan"),
        ("lora:lr=5", "lr: expected a number above 0, at most 1, got 5"),
        ("lora:alpha=inf", "alpha: expected a number above 0, got inf"),
        ("lora:nll=1.5", "nll: expected 0 to 1, got 1.5"),
        ("lora:seed=-1", "seed: expected a whole number from 0 to 4294967295, got -1"),
        ("lora:seed=4294967296", "seed: expected a whole number from 0 to 4294967295, got"),
        ("lora:start=warm", "start: expected linear or plain, got 'warm'"),
        ("lora:rank=four", "rank: expected a whole number, got 'four'"),
        ("lora:ranks=4", "unknown parameter 'ranks=4'"),
        ("linear:rank=4", "expected refit= or fit="),
        ("magnitude:rank=4", "it takes none"),
        ("lorra", "did you mean 'lora'?"),
    ],
)
def test_nonsense_is_refused(text: str, message: str) -> None:
    with pytest.raises(UsageError) as refusal:
        parse_method(text)
    assert message in str(refusal.value)


def test_settings_are_told_as_they_are_asked_for() -> None:
    assert LoRA().line == "lora"
    assert parse_method(LoRA(rank=8, start="plain").line) == LoRA(rank=8, start="plain")
    with pytest.raises(UsageError, match="start: expected linear or plain"):
        LoRA(start="warm")  # type: ignore[arg-type]


def test_the_folder_says_what_it_holds(tmp_path: Path) -> None:
    model = loaded()
    distil(model, [3], drawn(tmp_path, model), SHORT, folder=tmp_path / "run")
    assert set(json.loads((tmp_path / "run" / "plan.json").read_text())) == {"key"}


def test_the_trainer_is_held_to_the_device_of_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import TrainingArguments

    from depthprune.recovery.lora.training import _hold_to

    current: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    arguments = TrainingArguments(output_dir=str(tmp_path), use_cpu=True)
    _hold_to(arguments, torch.device("cuda", 1))
    assert arguments.device == torch.device("cuda", 1)
    assert arguments.n_gpu == 0
    assert current == [torch.device("cuda", 1)]
