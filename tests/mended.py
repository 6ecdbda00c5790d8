"""Tiny models wrapped for recovery, texts for them, and slow references."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

import depthprune as dp
from depthprune.models.blocks.find import find_anatomy
from depthprune.models.blocks.replay import hidden_of
from tiny import tiny_model, tiny_tokenizer

_TEXT = "".join(
    f"Line {i}: the river is {i * i % 97} feet high at the bridge.\n" for i in range(400)
)


def wrapped(module: Any) -> dp.Model:
    """A model built in memory, as `dp.load` would give it."""
    source: Any = SimpleNamespace(name="tiny", fingerprint=lambda: None, checkpoint=None)
    return dp.Model(source, module, tiny_tokenizer(), find_anatomy(module), "float32", "cpu")


def loaded(model_type: str = "llama", **settings: Any) -> dp.Model:
    """A tiny model of a type."""
    return wrapped(tiny_model(model_type, **settings))


def drawn(folder: Path, model: dp.Model, windows: int = 24, length: int = 32) -> dp.Calibration:
    """A calibration of two sources."""
    file = folder / "river.txt"
    file.write_text(_TEXT, encoding="utf-8")
    spec = f"text:{file},windows={windows // 2},length={length}"
    return dp.calibrate([f"{spec},weight=3", f"{spec},seed=1"], model)


def tokens_of(calibration: dp.Calibration, *, chooses: bool) -> list[torch.Tensor]:
    """The windows that choose, or those that are fitted, source by source."""
    return [
        torch.from_numpy(window.tokens)[None]
        for part in calibration.parts
        for i, window in enumerate(part.windows)
        if (i % 4 == 3) == chooses
    ]


@torch.no_grad()
def states(model: dp.Model, tokens: torch.Tensor, block: int, removed: Any = ()) -> torch.Tensor:
    """What a block hands on in a plain forward pass, some blocks skipped, in float64."""
    seen: list[torch.Tensor] = []
    hook = model.anatomy.blocks.modules[block].register_forward_hook(
        lambda module, args, output: seen.append(hidden_of(output))
    )
    try:
        with model.anatomy.masked(removed) as masked:
            masked(input_ids=tokens, use_cache=False)
    finally:
        hook.remove()
    return seen[0].double().flatten(0, 1)


@torch.no_grad()
def logits(model: dp.Model, tokens: torch.Tensor, removed: Any = ()) -> torch.Tensor:
    """Logits of the masked model."""
    with model.anatomy.masked(removed) as masked:
        return masked(input_ids=tokens, use_cache=False).logits


class Planted(nn.Module):
    """A block that adds a linear map of the last half of its input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(5)
        matrix = torch.randn(width, width, generator=generator) / width**0.5
        matrix[:, : width // 2] = 0
        self.matrix = nn.Parameter(matrix)

    def forward(self, hidden_states: torch.Tensor, **rest: Any) -> torch.Tensor:
        return hidden_states + hidden_states @ self.matrix.T


def planted() -> dp.Model:
    """Below block 3, the second half of the width is written by block 2's MLP alone."""
    module = tiny_model(blocks=5)
    with torch.no_grad():
        module.model.embed_tokens.weight[:, 16:] = 0
        for index, layer in enumerate(module.model.layers[:3]):
            layer.self_attn.o_proj.weight[16:] = 0
            half = slice(0, 16) if index == 2 else slice(16, None)
            layer.mlp.down_proj.weight[half] = 0
    module.model.layers[3] = Planted(32)
    return wrapped(module)
