"""A widened model computes in float32, and comes back as it was, to the byte and its place."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from depthprune.errors import ModelError
from depthprune.models.blocks.replay import relative_difference
from depthprune.models.loading import Model, load
from depthprune.models.widening import widened
from tiny import tiny_model

TOKENS = torch.arange(3, 35).view(2, 16)


def _tensors(module: torch.nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters()
    yield from module.named_buffers()


@pytest.fixture
def narrow(tiny_llama: Path) -> Model:
    return load(tiny_llama, dtype="bfloat16", device="cpu")


@pytest.fixture(params=["whole", "by block"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Whether memory holds the whole widened model, or one block at a time."""
    if request.param == "by block":
        sizes = iter([100_000])
        monkeypatch.setattr(
            "depthprune.models.widening.available_memory", lambda _: next(sizes, 1 << 40)
        )
    return str(request.param)


def _logits(module: Any) -> Tensor:
    with torch.inference_mode():
        logits: Tensor = module(input_ids=TOKENS, use_cache=False).logits
    return logits


def test_it_computes_what_a_copy_in_float32_does(narrow: Model, way: str) -> None:
    reference = load(narrow.source, dtype="bfloat16", device="cpu").module.float()
    with widened(narrow.module, narrow.anatomy.blocks.modules):
        wide = _logits(narrow.module)
        block = narrow.anatomy.blocks.modules[0]
        held = next(block.parameters()).dtype
    assert held == (torch.float32 if way == "whole" else torch.bfloat16)
    assert wide.dtype == torch.float32
    assert relative_difference(wide, _logits(reference)) <= 1e-6


def test_every_tensor_comes_back_with_its_place(narrow: Model, way: str) -> None:
    before = {name: (t.clone(), t.data_ptr()) for name, t in _tensors(narrow.module)}
    assert {t.dtype for t, _ in before.values()} == {torch.bfloat16, torch.float32}
    logits = _logits(narrow.module)
    with widened(narrow.module, narrow.anatomy.blocks.modules):
        _logits(narrow.module)
    after = dict(_tensors(narrow.module))
    assert after.keys() == before.keys()
    for name, (tensor, place) in before.items():
        assert after[name].dtype == tensor.dtype
        assert after[name].data_ptr() == place
        assert torch.equal(after[name], tensor)
    assert torch.equal(_logits(narrow.module), logits)


def test_it_comes_back_after_a_failure_too(narrow: Model, way: str) -> None:
    with pytest.raises(KeyError), widened(narrow.module, narrow.anatomy.blocks.modules):
        raise KeyError
    assert next(narrow.module.parameters()).dtype == torch.bfloat16
    assert not any("forward" in block.__dict__ for block in narrow.anatomy.blocks.modules)


@pytest.mark.parametrize("model_type", ["mixtral", "gpt2", "falcon_h1"])
def test_generation_with_a_cache_runs_widened_by_block(
    model_type: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = tiny_model(model_type, dtype=torch.bfloat16)
    blocks = list(next(c for c in module.modules() if isinstance(c, torch.nn.ModuleList)))
    sizes = iter([0])
    monkeypatch.setattr(
        "depthprune.models.widening.available_memory", lambda _: next(sizes, 1 << 40)
    )
    options = {"do_sample": False, "max_new_tokens": 4, "min_new_tokens": 4, "pad_token_id": 0}
    expected = tiny_model(model_type, dtype=torch.bfloat16).float().generate(TOKENS, **options)
    with widened(module, blocks):
        assert torch.equal(module.generate(TOKENS, **options), expected)


def test_streamed_blocks_are_widened_while_they_are_there(tiny_llama: Path) -> None:
    held = load(tiny_llama, dtype="bfloat16", device="cpu")
    streamed = load(tiny_llama, dtype="bfloat16", device="cpu", stream=True)
    logits = []
    for model in (held, streamed):
        with widened(model.module, model.anatomy.blocks.modules):
            logits.append(_logits(model.module))
    assert logits[1].dtype == torch.float32
    assert relative_difference(logits[1], logits[0]) <= 1e-6
    assert all(p.is_meta for b in streamed.anatomy.blocks.modules for p in b.parameters())


def test_a_model_that_fits_neither_way_is_told_what_it_needs(
    narrow: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("depthprune.models.widening.available_memory", lambda _: 1000)
    with (
        pytest.raises(ModelError, match=r"0\.0 GiB must be free on cpu .* take --stream"),
        widened(narrow.module, narrow.anatomy.blocks.modules),
    ):
        pass


def test_memory_that_runs_out_on_the_way_is_told(narrow: Model) -> None:
    with (
        pytest.raises(ModelError, match=r"memory ran out .* \(CUDA out of memory"),
        widened(narrow.module, narrow.anatomy.blocks.modules),
    ):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3.00 GiB")
