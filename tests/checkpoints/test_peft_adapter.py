"""A PEFT adapter is cut along with its base: bytes as they were, names and numbers rewritten."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from depthprune.checkpoints import peft_adapter as module
from depthprune.checkpoints.safetensors import Piece
from depthprune.errors import CheckpointError, ModelError, UsageError
from depthprune.pruning.apply import apply

BASE = "base_model.model.model.layers."


def adapter(folder: Path, blocks: tuple[int, ...] = (0, 1, 2, 3, 4, 5), **config: Any) -> Path:
    """An adapter of random tensors on two modules of some blocks."""
    folder.mkdir(exist_ok=True)
    random = np.random.default_rng(0)
    names = [
        f"{BASE}{block}.self_attn.{module}.lora_{side}.weight"
        for block in blocks
        for module in ("q_proj", "v_proj")
        for side in "AB"
    ]
    names += ["base_model.model.lm_head.weight"]
    tensors = {name: random.random((2, 4), dtype=np.float32) for name in names}
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    fields = {
        "peft_type": "LORA",
        "base_model_name_or_path": "org/base",
        "r": 2,
        "target_modules": ["q_proj", "v_proj"],
        "layers_to_transform": None,
    }
    (folder / "adapter_config.json").write_text(json.dumps(fields | config))
    return folder


def cut(folder: Path, removed: str) -> tuple[dict[str, Any], dict[str, Any]]:
    out = folder.parent / "out"
    apply(folder, removed, out)
    config = json.loads((out / "adapter_config.json").read_text())
    return config, load_file(out / "adapter_model.safetensors")


def test_kept_tensors_are_renumbered_and_the_rest_stays(tmp_path: Path) -> None:
    source = adapter(tmp_path / "a")
    config, new = cut(source, "0,3-4")
    old = load_file(source / "adapter_model.safetensors")
    expected = {"base_model.model.lm_head.weight": old["base_model.model.lm_head.weight"]}
    for place, block in enumerate((1, 2, 5)):
        for name, value in old.items():
            if name.startswith(f"{BASE}{block}."):
                expected[name.replace(f"{BASE}{block}.", f"{BASE}{place}.")] = value
    assert set(new) == set(expected)
    assert all(np.array_equal(new[name], value) for name, value in expected.items())
    assert config == json.loads((source / "adapter_config.json").read_text())


FIELDS: list[tuple[str, Any, Any]] = [
    ("layers_to_transform", [0, 1, 4, 5], [0, 2, 3]),
    ("layers_to_transform", 5, 3),
    ("target_modules", "all-linear", "all-linear"),
    ("target_modules", r".*\.(q|v)_proj", r".*\.(q|v)_proj"),
    (
        "target_modules",
        r".*layers\.[1-2]\..*q_proj",
        ["model.layers.1.self_attn.q_proj"],
    ),
    (
        "target_modules",
        ["model.layers.1.self_attn.q_proj", "layers.5.self_attn.v_proj", "o_proj"],
        ["layers.3.self_attn.v_proj", "o_proj"],
    ),
    ("exclude_modules", ["model.layers.4.mlp.up_proj"], ["model.layers.2.mlp.up_proj"]),
    ("modules_to_save", ["lm_head", "model.layers.5.norm"], ["lm_head", "model.layers.3.norm"]),
    (
        "rank_pattern",
        {"q_proj": 4, "model.layers.1.self_attn.q_proj": 8, r"layers\.5\.self_attn\.v_proj": 16},
        {"q_proj": 4, "model.layers.3.self_attn.v_proj": 16},
    ),
    (
        "rank_pattern",
        {r"layers\.\d+\.self_attn\.q_proj": 4},
        {r"layers\.\d+\.self_attn\.q_proj": 4},
    ),
    (
        "rank_pattern",
        {".*layers.4.*q_proj": 4, ".*v_proj": 8},
        {"model.layers.2.self_attn.q_proj": 4, ".*v_proj": 8},
    ),
    (
        "alpha_pattern",
        {"^model.layers.4.self_attn.v_proj": 8.0},
        {"model.layers.2.self_attn.v_proj": 8.0},
    ),
    ("feedforward_modules", ["model.layers.4.mlp.down_proj"], ["model.layers.2.mlp.down_proj"]),
    (
        "trainable_token_indices",
        {"model.layers.3.x": [1], "model.layers.5.x": [2]},
        {"model.layers.3.x": [2]},
    ),
    ("a_field_of_tomorrow", {"of": ["layers.2", "layers.3"]}, {"of": ["layers.1"]}),
    ("megatron_core", "megatron.core", "megatron.core"),
]


@pytest.mark.parametrize(("field", "before", "after"), FIELDS)
def test_what_the_config_says_of_blocks_is_rewritten(
    tmp_path: Path, field: str, before: Any, after: Any
) -> None:
    config, _ = cut(adapter(tmp_path / "a", **{field: before}), "1,3")
    assert config[field] == after


def test_a_manifest_and_warnings_say_what_is_not_known(tmp_path: Path) -> None:
    source = adapter(tmp_path / "a", (2, 4))
    done = apply(source, "3,9", tmp_path / "out")
    assert done.removed == (3, 9)
    assert done.kept == (0, 1, 2, 4, 5, 6, 7, 8)
    assert "its last is taken to be 4" in done.warnings[0]
    assert "still names org/base; load the adapter on that model without" in done.warnings[1]
    manifest = json.loads((tmp_path / "out" / "depthprune.json").read_text())
    assert manifest["model"]["model_type"] == "lora"
    assert set(manifest["files"]) == {"adapter_model.safetensors", "adapter_config.json"}


def test_a_base_on_this_machine_says_how_deep_it_is(tmp_path: Path, tiny_llama: Path) -> None:
    source = adapter(tmp_path / "a", (0, 1), base_model_name_or_path=str(tiny_llama))
    assert apply(source, "1,5", tmp_path / "out").kept == (0, 2, 3, 4)
    with pytest.raises(UsageError, match="block 6 is out of range; the model has 6 blocks"):
        apply(source, "6", tmp_path / "more")
    deep = adapter(tmp_path / "b", (7,), base_model_name_or_path=str(tiny_llama))
    with pytest.raises(CheckpointError, match="has tensors of block 7, and its base"):
        apply(deep, "1", tmp_path / "more")


def test_the_bases_config_beside_an_adapter_says_how_deep_it_is_and_stays_behind(
    tmp_path: Path,
) -> None:
    source = adapter(tmp_path / "a", (0, 1))
    (source / "config.json").write_text('{"model_type": "llama", "num_hidden_layers": 6}')
    done = apply(source, "1,5", tmp_path / "out")
    assert done.kept == (0, 2, 3, 4)
    assert len(done.warnings) == 1
    assert not (tmp_path / "out" / "config.json").exists()
    (source / "config.json").write_text('{"model_type": "llama", "num_hidden_layers": 1}')
    with pytest.raises(CheckpointError, match=r"and its base config\.json has 1 blocks"):
        apply(source, "0", tmp_path / "more")


def test_a_model_beside_which_an_adapter_lies_is_a_model(tmp_path: Path, tiny_llama: Path) -> None:
    source = adapter(Path(shutil.copytree(tiny_llama, tmp_path / "a")))
    assert "model.safetensors" in apply(source, "1", tmp_path / "out").files


@pytest.mark.parametrize(
    ("config", "removed", "message"),
    [
        ({}, "0-5", "nothing of it would be left"),
        ({"layers_to_transform": [1]}, "1", "every block of layers_to_transform would go"),
        ({"layers_to_transform": "1"}, "1", "layers_to_transform is '1', expected block numbers"),
        ({"layer_replication": [[0, 4], [2, 6]]}, "1", "has layer_replication"),
        ({"peft_type": "PREFIX_TUNING"}, "1", "keeps all blocks in one tensor"),
    ],
)
def test_an_adapter_that_cannot_be_cut_is_refused_and_leaves_nothing(
    tmp_path: Path, config: dict[str, Any], removed: str, message: str
) -> None:
    source = adapter(tmp_path / "a", **config)
    with pytest.raises(ModelError, match=message):
        apply(source, removed, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_pickled_adapter_is_refused(tmp_path: Path) -> None:
    source = adapter(tmp_path / "a")
    (source / "adapter_model.safetensors").rename(source / "adapter_model.bin")
    with pytest.raises(CheckpointError, match=r"the adapter is pickled \(adapter_model.bin\)"):
        apply(source, "1", tmp_path / "out")
    (source / "adapter_model.bin").unlink()
    with pytest.raises(CheckpointError, match=r"no weights; expected adapter_model\.safetensors"):
        apply(source, "1", tmp_path / "out")


def test_two_lists_of_blocks_are_told_apart_or_refused(tmp_path: Path) -> None:
    source = adapter(tmp_path / "a")
    path = source / "adapter_model.safetensors"
    whole = load_file(path)
    vision = {"base_model.model.vision_tower.layers.1.q_proj.lora_A.weight": whole[min(whole)]}
    save_file(whole | vision, path)
    _, new = cut(source, "0")
    assert set(vision) <= set(new)
    save_file(whole | {"base_model.model.h.1.q_proj.lora_A.weight": whole[min(whole)]}, path)
    with pytest.raises(ModelError, match="expected one numbered list of blocks"):
        apply(source, "1", tmp_path / "more")


def test_an_adapter_has_nothing_to_verify(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--verify: an adapter computes nothing"):
        apply(adapter(tmp_path / "a"), "1", tmp_path / "out", verify=True)


PEFT_SETTINGS: dict[str, dict[str, Any]] = {
    "lora": {
        "target_modules": r".*layers\.[0-4]\..*(q|v)_proj",
        "rank_pattern": {"layers.4.self_attn.q_proj": 2},
        "alpha_pattern": {r"layers\.[2-3]\.self_attn\.v_proj": 64},
    },
    "dora": {
        "target_modules": ["q_proj", "down_proj"],
        "layers_to_transform": [0, 2, 3, 5],
        "layers_pattern": "layers",
        "rank_pattern": {".*layers.2.*q_proj": 2},
        "use_dora": True,
    },
    "saved": {
        "target_modules": ["model.layers.2.self_attn.q_proj", "v_proj"],
        "modules_to_save": ["lm_head", "layers.4.mlp"],
        "exclude_modules": r".*layers\.5\..*",
        "use_rslora": True,
    },
}


@pytest.mark.parametrize("kind", PEFT_SETTINGS)
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
def test_peft_loads_the_cut_adapter_on_the_cut_base(
    tmp_path: Path, tiny_llama: Path, kind: str
) -> None:
    peft = pytest.importorskip("peft", reason="peft is not installed")
    import torch
    from transformers import AutoModelForCausalLM

    from depthprune.models.blocks.find import find_anatomy

    def base(folder: Path) -> Any:
        return AutoModelForCausalLM.from_pretrained(folder).eval()

    torch.manual_seed(0)
    settings = peft.LoraConfig(r=4, init_lora_weights=False, **PEFT_SETTINGS[kind])
    model = peft.get_peft_model(base(tiny_llama), settings)
    for name, parameter in model.named_parameters():
        if "modules_to_save" in name:
            parameter.data += 0.1 * torch.randn_like(parameter)
    model.save_pretrained(tmp_path / "adapter")
    whole = peft.PeftModel.from_pretrained(base(tiny_llama), tmp_path / "adapter")
    apply(tmp_path / "adapter", "1,3", tmp_path / "cut")
    apply(tiny_llama, "1,3", tmp_path / "base")
    pruned = peft.PeftModel.from_pretrained(base(tmp_path / "base"), tmp_path / "cut")
    ids = torch.arange(3, 40)[None]
    with torch.no_grad(), find_anatomy(whole.merge_and_unload()).masked((1, 3)) as masked:
        expected = masked(ids).logits
    with torch.no_grad():
        plain = base(tmp_path / "base")(ids).logits
        found = pruned.merge_and_unload()(ids).logits
    assert torch.equal(found, expected)
    config = json.loads((tmp_path / "cut" / "adapter_config.json").read_text())
    assert kind != "lora" or len(config["target_modules"]) == 6
    assert kind != "dora" or config["layers_to_transform"] == [0, 1, 3]
    assert not torch.allclose(found, plain, atol=1e-2)


def test_a_cut_that_does_not_read_as_it_was_meant_is_never_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = adapter(tmp_path / "adapter")
    written = module.write_file

    def wrongly(place: Path, pieces: list[Piece], *rest: Any) -> int:
        return written(place, pieces[:-1], *rest)

    monkeypatch.setattr(module, "write_file", wrongly)
    with pytest.raises(CheckpointError, match="does not read as it was meant, 1 tensors differ"):
        apply(folder, (2,), tmp_path / "out")
    assert not (tmp_path / "out").exists()
