"""What is below a gap is scaled by its weights alone, and logits are those of a scaled state.

A run is scaled only where that lowers the loss on windows that were not measured.
"""

from __future__ import annotations

import re
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import depthprune as dp
from depthprune.checkpoints.checkpoint import open_checkpoint
from depthprune.checkpoints.surgery import write_pruned
from depthprune.errors import ModelError
from depthprune.models.parity import reload, verify
from depthprune.recovery import Recovery, rescale, stored
from depthprune.recovery.magnitude.rescale import Scaling, measured
from mended import drawn, loaded, logits, states, tokens_of
from tiny import save_tiny

REMOVED = (2, 4)


def scaled(
    model: dp.Model, calibration: dp.Calibration, gone: tuple[int, ...] = REMOVED
) -> Recovery:
    """Every run scaled, whether it helps or not."""
    return Scaling(model).by(gone, measured(model, gone, calibration))


def losses_of(
    model: dp.Model, calibration: dp.Calibration, gone: tuple[int, ...]
) -> list[torch.Tensor]:
    """Mean −log p a token on each window that chooses, source by source."""
    losses = []
    for text in tokens_of(calibration, chooses=True):
        found = logits(model, text, gone)[0, :-1].double()
        losses.append(torch.nn.functional.cross_entropy(found, text[0, 1:]))
    return [torch.stack(losses[: len(losses) // 2]), torch.stack(losses[len(losses) // 2 :])]


def gains(before: list[torch.Tensor], after: list[torch.Tensor]) -> bool:
    """Whether the mean, the first source's thrice, falls by more than its paired standard error."""
    changes = [a - b for a, b in zip(after, before, strict=True)]
    shares = (0.75, 0.25)
    change = sum(s * c.mean().item() for s, c in zip(shares, changes, strict=True))
    variance = sum(s**2 * c.var().item() / len(c) for s, c in zip(shares, changes, strict=True))
    return change < -(variance**0.5)


def scaled_behind(model: dp.Model, recovery: Recovery, text: torch.Tensor) -> torch.Tensor:
    """Logits of the masked model whose state before each gap is multiplied outright."""

    def by(factor: float) -> Any:
        def scale(module: torch.nn.Module, args: Any, output: Any) -> Any:
            if isinstance(output, torch.Tensor):
                return output * factor
            return (output[0] * factor, *output[1:])

        return scale

    with ExitStack() as stack:
        for run in recovery.runs:
            block = model.anatomy.blocks.modules[run.blocks[0] - 1]
            stack.callback(block.register_forward_hook(by(run.factor)).remove)
        return logits(model, text, REMOVED)


@pytest.mark.parametrize(
    ("model_type", "settings"),
    [
        ("llama", {}),
        ("llama", {"tie_word_embeddings": True}),
        ("gpt2", {}),
        ("gemma3_text", {}),
        ("opt", {}),
        ("bloom", {}),
        ("mixtral", {}),
    ],
)
def test_scaled_weights_give_what_a_scaled_state_gives(
    model_type: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    model = loaded(model_type, **settings)
    calibration = drawn(tmp_path, model)
    recovery = scaled(model, calibration)
    text = tokens_of(calibration, chooses=True)[0]
    expected = scaled_behind(model, recovery, text)
    with dp.recovered(model, recovery):
        found = logits(model, text, REMOVED)
    assert all(abs(run.factor - 1) > 0.05 for run in recovery.runs)
    # A norm's epsilon is beside tiny states not nothing.
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3 * expected.abs().max().item())


def test_the_factor_is_the_ratio_of_mean_sizes(tmp_path: Path) -> None:
    model = loaded()
    calibration = drawn(tmp_path, model)
    first, second = measured(model, REMOVED, calibration)
    texts = tokens_of(calibration, chooses=False)
    for run in (first, second):
        sizes = []
        for block in (run.blocks[0] - 1, run.blocks[-1]):
            each = [states(model, text, block).abs().mean().item() for text in texts]
            sizes.append(0.75 * sum(each[:9]) / 9 + 0.25 * sum(each[9:]) / 9)
        assert run.factor == pytest.approx(sizes[1] / sizes[0], rel=1e-5)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("model_type", ["llama", "gpt2", "gemma3_text"])
def test_a_written_checkpoint_is_the_scaled_model_to_the_bit(
    model_type: str, stream: bool, tmp_path: Path
) -> None:
    source = save_tiny(tmp_path / "model", model_type)
    model = dp.load(source, dtype="float32", device="cpu", stream=stream)
    recovery = scaled(model, drawn(tmp_path, model))
    checkpoint = open_checkpoint(source)
    data, as_written = stored(recovery, model, checkpoint)
    (tmp_path / "out").mkdir()
    write_pruned(checkpoint, REMOVED, tmp_path / "out", replace=data)
    with dp.recovered(model, as_written):
        assert verify(model, reload(tmp_path / "out", "float32", "cpu"), REMOVED).bitwise


@pytest.mark.parametrize("altered", ["a bias of zeros", "a head that began as the embeddings"])
def test_what_looks_like_another_tensor_is_written_all_the_same(
    altered: str, tmp_path: Path
) -> None:
    source = save_tiny(tmp_path / "model", "llama", attention_bias=True)
    tensors = load_file(source / "model.safetensors")
    if "bias" in altered:
        tensors |= {n: torch.zeros_like(t) for n, t in tensors.items() if "o_proj.bias" in n}
    else:
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, source / "model.safetensors", metadata={"format": "pt"})
    model = dp.load(source, dtype="float32", device="cpu")
    recovery = scaled(model, drawn(tmp_path, model))
    checkpoint = open_checkpoint(source)
    data, as_written = stored(recovery, model, checkpoint)
    assert "lm_head.weight" not in data
    (tmp_path / "out").mkdir()
    write_pruned(checkpoint, REMOVED, tmp_path / "out", replace=data)
    with dp.recovered(model, as_written):
        assert verify(model, reload(tmp_path / "out", "float32", "cpu"), REMOVED).bitwise


def test_a_model_that_reads_pictures_too_is_refused(tmp_path: Path) -> None:
    model = loaded("llava")
    with pytest.raises(ModelError, match=r"vision_tower.* read other inputs than text"):
        rescale(model, REMOVED, drawn(tmp_path, model))


def test_a_block_that_reads_the_state_without_a_norm_is_refused(tmp_path: Path) -> None:
    model = loaded("olmo2")
    with pytest.raises(ModelError, match=r"block 0 does not scale with post_attention_layernorm"):
        rescale(model, REMOVED, drawn(tmp_path, model))


def test_a_shared_weight_is_refused_by_name(tmp_path: Path) -> None:
    model = loaded()
    layers = model.module.model.layers
    layers[4].mlp.down_proj.weight = layers[0].mlp.down_proj.weight
    with pytest.raises(ModelError, match=r"block 0 (shares|does not scale)"):
        rescale(model, REMOVED, drawn(tmp_path, model))


def test_a_run_is_scaled_where_that_lowers_the_loss_and_else_left(tmp_path: Path) -> None:
    model = loaded("gpt2")
    calibration = drawn(tmp_path, model)
    seen = []
    for block in range(1, model.blocks - 1):
        before = losses_of(model, calibration, (block,))
        with dp.recovered(model, scaled(model, calibration, (block,))):
            after = losses_of(model, calibration, (block,))
        recovery = rescale(model, (block,), calibration)
        (run,) = recovery.runs
        seen.append(gains(before, after))
        assert (run.factor is not None) == bool(recovery.weights) == seen[-1]
        assert (run.why_not is None) == bool(run.strength) == seen[-1]
    assert set(seen) == {True, False}


def test_of_two_runs_the_one_that_helps_is_scaled_alone(tmp_path: Path) -> None:
    model = loaded()
    calibration = drawn(tmp_path, model)
    first, second = rescale(model, (1, 3), calibration).runs
    assert first.factor is None
    assert re.fullmatch(
        r"scaling all below by 1\.\d{3} changes the loss on the windows that choose by "
        r"\+0\.\d{4} ± 0\.\d{4} nats a token, which is no gain",
        str(first.why_not),
    )
    assert second.factor == measured(model, (1, 3), calibration)[1].factor
