"""Models of several modalities: the language model is cut, the rest passes through untouched."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file
from transformers import AutoConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from depthprune.checkpoints.checkpoint import open_checkpoint
from depthprune.checkpoints.config.cut import cut_config, rows_of
from depthprune.errors import ModelError
from depthprune.models.auto_class import automatic_class
from depthprune.models.loading import load
from depthprune.models.probe_tokens import probe_tokens
from depthprune.pruning.apply import apply
from tiny import save_tiny, tiny_config, tiny_model

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def llava(tmp_path: Path) -> Path:
    return save_tiny(tmp_path / "llava", "llava")


def _edit(folder: Path, section: str | None = None, **fields: Any) -> None:
    """Set fields of a config, or take out those given as None."""
    config = json.loads((folder / "config.json").read_text())
    part = config if section is None else config[section]
    for name, value in fields.items():
        part.pop(name, None)
        if value is not None:
            part[name] = value
    (folder / "config.json").write_text(json.dumps(config))


def test_a_cut_is_verified_and_keeps_every_byte_of_the_vision_tower(
    llava: Path, tmp_path: Path
) -> None:
    apply(llava, "1,4", tmp_path / "out", verify=True)
    before = load_file(llava / "model.safetensors")
    after = load_file(tmp_path / "out" / "model.safetensors")
    assert len([name for name in after if "vision" in name]) > 10
    for name, tensor in before.items():
        if "language_model.model.layers" not in name and "language_model.layers" not in name:
            assert torch.equal(after[name], tensor), name
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["text_config"]["num_hidden_layers"] == 4
    assert config["vision_config"]["num_hidden_layers"] == 2


def test_its_language_model_can_be_searched(llava: Path) -> None:
    assert load(llava, dtype="float32", device="cpu").blocks == 6


def test_a_depth_that_the_config_leaves_to_its_class_is_told_by_the_tensors(
    llava: Path, tmp_path: Path
) -> None:
    """As in llava-hf/llava-1.5-7b-hf; a depth of 6 is not the class's, so it only opens here."""
    _edit(llava, "text_config", num_hidden_layers=None)
    checkpoint = open_checkpoint(llava)
    assert checkpoint.blocks == 6
    apply(llava, "0", tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["text_config"]["num_hidden_layers"] == 5


def test_a_language_model_of_an_unknown_type_asks_for_verify(llava: Path, tmp_path: Path) -> None:
    _edit(llava, "text_config", model_type="llamma")
    with pytest.raises(ModelError, match="model_type llamma: not on the list of verified"):
        apply(llava, "1", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_language_model_that_is_refused_is_refused_inside_another(
    llava: Path, tmp_path: Path
) -> None:
    _edit(llava, "text_config", model_type="zamba")
    with pytest.raises(ModelError, match="model_type zamba: cannot be depth-pruned"):
        apply(llava, "1", tmp_path / "out", verify=True)


def test_a_flat_config_is_cut_by_the_row_of_its_language_model() -> None:
    flat = {"model_type": "qwen2_vl", "num_hidden_layers": 6, "vision_config": {"depth": 6}}
    cut = cut_config(flat, (0, 1)).config
    assert cut["num_hidden_layers"] == 4
    assert cut["vision_config"] == {"depth": 6}
    assert cut["max_window_layers"] == 4


@pytest.mark.skipif("qwen3_vl" not in CONFIG_MAPPING, reason="needs a newer transformers")
def test_blocks_that_are_given_features_of_a_picture_must_stay() -> None:
    config = tiny_config("qwen3_vl").to_dict()
    assert config["vision_config"]["deepstack_visual_indexes"] == [0, 1]
    with pytest.raises(ModelError, match="qwen3_vl: the first 2 blocks must stay; a picture's"):
        cut_config(config, (1,))
    assert cut_config(config, (2, 5)).config["text_config"]["num_hidden_layers"] == 4
    del config["vision_config"]["deepstack_visual_indexes"]
    with pytest.raises(ModelError, match="the first 3 blocks must stay"):
        cut_config(config, (2,))


@pytest.mark.skipif("qwen3_vl" not in CONFIG_MAPPING, reason="needs a newer transformers")
def test_a_picture_gives_the_cut_model_what_it_gives_the_masked_one(tmp_path: Path) -> None:
    """The language model is handed the features that its vision tower would hand on."""
    folder = save_tiny(tmp_path / "whole", "qwen3_vl", tokenizer=False)
    apply(folder, "2,4", tmp_path / "cut")
    whole, cut = (_vision_model(each) for each in (folder, tmp_path / "cut"))
    removed = [whole.model.language_model.layers[i] for i in (2, 4)]
    for layer in removed:
        layer.forward = lambda hidden_states, *_, **__: hidden_states
    with torch.no_grad():
        ours, theirs = (_reads_a_picture(each) for each in (cut, whole))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5 * float(theirs.abs().max()))
    plain = cut(input_ids=_prompt()).logits
    assert float((plain - ours).abs().max()) > 1e-3


def _vision_model(folder: Path) -> Any:
    loaded = transformers.AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
    return loaded.eval()


def _prompt() -> torch.Tensor:
    return torch.tensor([[5, 302, 300, 300, 300, 300, 303, 9, 11]])


def _reads_a_picture(model: Any) -> torch.Tensor:
    merged = model.config.vision_config.spatial_merge_size
    side = 2 * merged
    vision = model.config.vision_config
    width = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
    pixels = torch.randn(side * side, width, generator=torch.Generator().manual_seed(0))
    return model(
        input_ids=_prompt(),
        pixel_values=pixels,
        image_grid_thw=torch.tensor([[1, side, side]]),
        mm_token_type_ids=(_prompt() == 300).long(),
    ).logits


def test_the_whole_model_is_loaded_where_a_part_would_be() -> None:
    config = tiny_config("llava")
    assert automatic_class(config) is transformers.AutoModelForImageTextToText
    assert automatic_class(tiny_config("llama")) is transformers.AutoModelForCausalLM
    config = tiny_config("llama4")
    config.architectures = ["Llama4ForConditionalGeneration"]
    assert automatic_class(config) is transformers.AutoModelForImageTextToText


def test_probes_leave_out_tokens_that_stand_for_pictures() -> None:
    model = tiny_model("llava", image_token_index=7)
    tokens = probe_tokens(model, (4, 400), seed=0)
    assert tokens.min() >= 3
    assert 7 not in tokens
    plain = tiny_model("llama")
    expected = torch.randint(3, 320, (4, 400), generator=torch.Generator().manual_seed(0))
    assert torch.equal(probe_tokens(plain, (4, 400), seed=0), expected)


def test_both_rows_speak_and_that_of_the_language_model_first() -> None:
    config = {"model_type": "llava", "text_config": {"model_type": "qwen2", "num_hidden_layers": 6}}
    assert [row.model_type for row in rows_of(config)] == ["qwen2", "llava"]
    del config["text_config"]["model_type"]
    assert [row.model_type for row in rows_of(config)] == ["llava"]


def test_a_saved_config_loads(llava: Path, tmp_path: Path) -> None:
    apply(llava, "1", tmp_path / "out")
    assert AutoConfig.from_pretrained(tmp_path / "out").text_config.num_hidden_layers == 5
