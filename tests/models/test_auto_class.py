"""A config that names a kernel of a hub is read without it: no code is fetched to be run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from depthprune.models.auto_class import read_config
from depthprune.models.loading import load
from depthprune.pruning.apply import apply
from tiny import save_tiny
from versions import needs_transformers_5

FOREIGN = {
    "_attn_implementation": "somebody/kernel",
    "attn_implementation": "somebody/kernel@v2:attend",
    "experts_implementation": "sonicmoe",
}


def _named(folder: Path, changes: dict[str, Any]) -> Path:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))
    return folder


@pytest.fixture(autouse=True)
def _nothing_is_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers.integrations import hub_kernels

    def fetch(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a kernel was asked for")

    for name in ("get_kernel", "load_and_register_attn_kernel", "lazy_load_kernel"):
        if hasattr(hub_kernels, name):
            monkeypatch.setattr(hub_kernels, name, fetch)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("field", FOREIGN)
def test_a_kernel_named_by_a_config_is_left_out(field: str, stream: bool, tmp_path: Path) -> None:
    model_type = "qwen3_moe" if field == "experts_implementation" else "llama"
    folder = save_tiny(tmp_path / "model", model_type)
    tokens = torch.arange(3, 19)[None]
    with torch.inference_mode():
        before = load(folder, dtype="float32", device="cpu").module(input_ids=tokens).logits
        _named(folder, {field: FOREIGN[field]})
        if stream and field == "experts_implementation":
            return  # its experts are joined as they load
        after = load(folder, dtype="float32", device="cpu", stream=stream).module(input_ids=tokens)
    assert torch.equal(before, after.logits)


def test_a_part_of_a_config_names_none_either(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "model", "llava")
    _named(folder, {"_attn_implementation": {"": "sdpa", "text_config": "somebody/kernel"}})
    config = read_config(folder)
    assert config._attn_implementation in (None, "sdpa")
    assert config.text_config._attn_implementation is None


@needs_transformers_5
def test_a_choice_among_transformers_own_stays(tiny_llama: Path, tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "model")
    _named(folder, {"attn_implementation": "eager"})
    assert read_config(folder)._attn_implementation == "eager"
    assert load(folder, device="cpu").module.config._attn_implementation == "eager"


def test_a_checkpoint_that_names_one_is_cut_and_proved_without_it(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "model")
    _named(folder, {"_attn_implementation": "somebody/kernel"})
    apply(folder, (1, 4), tmp_path / "out", verify=True)
    assert (tmp_path / "out" / "depthprune.json").is_file()
