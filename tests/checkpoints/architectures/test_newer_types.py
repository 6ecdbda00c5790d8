"""A type newer than the table: right by comparison, or refused, and never silently wrong."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, Gemma2Config, Gemma2ForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.gemma2.modeling_gemma2 import Gemma2MLP

from depthprune.errors import ModelError, ParityError
from depthprune.pruning.apply import apply
from tiny import save_tiny


class NewerConfig(Gemma2Config):
    """A type that is newer than the table; its class makes every second block attend to all."""

    model_type = "newer_than_the_table"


class NewerModel(Gemma2ForCausalLM):
    config_class = NewerConfig


@pytest.fixture
def newer(tmp_path: Path) -> Iterator[Path]:
    AutoConfig.register(NewerConfig.model_type, NewerConfig)
    AutoModelForCausalLM.register(NewerConfig, NewerModel)
    folder = save_tiny(tmp_path / "newer", "gemma2")
    config = json.loads((folder / "config.json").read_text())
    config["model_type"] = NewerConfig.model_type
    del config["layer_types"]
    (folder / "config.json").write_text(json.dumps(config))
    yield folder
    CONFIG_MAPPING._extra_content.pop(NewerConfig.model_type)
    AutoModelForCausalLM._model_mapping._extra_content.pop(NewerConfig)


def test_a_type_newer_than_the_table_is_cut_where_parity_shows_it_right(
    newer: Path, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match="newer_than_the_table: not on the list"):
        apply(newer, "1,2", tmp_path / "out")
    apply(newer, "1,2", tmp_path / "out", verify=True)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    kinds = ["sliding_attention", "full_attention"] * 3
    assert config["layer_types"] == [kinds[block] for block in (0, 3, 4, 5)]


def test_a_newer_type_whose_depth_enters_otherwise_is_refused_by_parity(
    newer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What no rule knows shows in the logits, and nothing is written."""
    forward = Gemma2MLP.forward

    def by_depth(self: Any, states: torch.Tensor) -> torch.Tensor:
        return forward(self, states) + states / self.config.num_hidden_layers

    monkeypatch.setattr(Gemma2MLP, "forward", by_depth)
    with pytest.raises(ParityError, match="logits differ"):
        apply(newer, "1", tmp_path / "out", verify=True)
    assert not (tmp_path / "out").exists()
