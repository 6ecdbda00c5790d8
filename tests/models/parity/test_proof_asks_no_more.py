"""The proof of a cut asks of it what its original meets, under the same flags, and no more."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig

from depthprune.checkpoints.checkpoint import open_checkpoint
from depthprune.errors import ModelError, ParityError
from depthprune.models.loading import load
from depthprune.models.parity.heads import verify_headed
from depthprune.models.plain_generation import plain_generation
from depthprune.pruning.apply import apply
from tiny import draw_weights


@pytest.fixture
def folder(tiny_llama: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_llama, tmp_path / "model"))


def change(file: Path, **fields: Any) -> None:
    found = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps(found | fields))


@pytest.mark.parametrize(
    "settings",
    [
        {"stop_strings": ["\n\n", "a"]},
        {"return_dict_in_generate": True, "output_scores": True},
        {"prompt_lookup_num_tokens": 3},
        {"max_length": 4},
        {"max_time": 1e-9},
        {"no_repeat_ngram_size": 1},
        {"do_sample": True, "num_beams": 2, "num_return_sequences": 2},
        {"suppress_tokens": list(range(3, 40))},
        {"eos_token_id": [1, 2, 3]},
        {"forced_eos_token_id": 1, "repetition_penalty": 5.0},
    ],
)
def test_a_cut_is_proved_whatever_its_generation_settings_hold(
    folder: Path, tmp_path: Path, settings: dict[str, Any]
) -> None:
    change(folder / "generation_config.json", **settings)
    apply(folder, (1, 3), tmp_path / "out", verify=True)
    carried = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert {name: carried.get(name) for name in settings} == settings


def test_a_models_own_settings_come_back(tiny_llama: Path) -> None:
    module = load(tiny_llama).module
    own = module.generation_config
    with plain_generation(module):
        assert module.generation_config is not own
    assert module.generation_config is own


def headed(folder: Path, kind: str) -> Any:
    torch.manual_seed(0)
    config = LlamaConfig.from_pretrained(folder, num_labels=2, pad_token_id=0)
    model = draw_weights(getattr(transformers, kind)(config).float().eval())
    for file in folder.glob("model*"):
        file.unlink()
    model.save_pretrained(folder)
    return model


LOADERS = {
    "LlamaForSequenceClassification": "AutoModelForSequenceClassification",
    "LlamaForTokenClassification": "AutoModelForTokenClassification",
    "LlamaForQuestionAnswering": "AutoModelForQuestionAnswering",
    "LlamaModel": "AutoModel",
}
KINDS = list(LOADERS)


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_with_another_head_is_proved_by_its_own(
    folder: Path, tmp_path: Path, kind: str
) -> None:
    headed(folder, kind)
    apply(folder, (1, 3), tmp_path / "out", verify=True)
    manifest = json.loads((tmp_path / "out" / "depthprune.json").read_text())
    assert manifest["model"]["loader"] == LOADERS[kind]
    record = manifest["parity"]
    assert record["logits_scale"] > 0
    assert record["logits_difference"] <= 1e-5 * record["logits_scale"]
    assert (
        getattr(transformers, kind).from_pretrained(tmp_path / "out").config.num_hidden_layers == 4
    )


@pytest.mark.parametrize("kind", KINDS[:3])
def test_a_wrong_cut_of_another_head_is_seen(folder: Path, tmp_path: Path, kind: str) -> None:
    headed(folder, kind)
    apply(folder, (1, 3), tmp_path / "out")
    with pytest.raises(ParityError, match="outputs differ"):
        verify_headed(folder, tmp_path / "out", (1, 4), open_checkpoint(folder).block_prefix)


@pytest.mark.parametrize("kind", KINDS[:3])
@pytest.mark.parametrize("named", [True, False])
def test_what_is_no_language_model_is_said_so_before_its_weights_are_read(
    folder: Path, kind: str, named: bool
) -> None:
    headed(folder, kind)
    if not named:
        change(folder / "config.json", architectures=["LlamaForCausalLM"])
    with pytest.raises(ModelError, match=r"is a classifier or reward model .* depthprune apply"):
        load(folder)


def test_a_language_model_is_one_whatever_its_config_calls_it(folder: Path) -> None:
    change(folder / "config.json", architectures=["LlamaForSequenceClassification"])
    assert load(folder).blocks == 6


def test_keys_that_the_original_has_no_place_for_are_none_of_the_cuts_faults(
    folder: Path, tmp_path: Path
) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["v_head.summary.weight"] = torch.ones(1, 32)
    tensors |= {f"model.layers.{block}.mystery": torch.ones(2) for block in range(6)}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    apply(folder, (1, 3), tmp_path / "out", verify=True)
    assert "model.layers.3.mystery" in load_file(tmp_path / "out" / "model.safetensors")


@pytest.fixture
def own_code(folder: Path) -> Path:
    (folder / "configuration_own.py").write_text(
        "from transformers import LlamaConfig\n\n\n"
        "class OwnConfig(LlamaConfig):\n    model_type = 'ownllm'\n"
    )
    (folder / "modeling_own.py").write_text(
        "from transformers import LlamaForCausalLM\nfrom .configuration_own import OwnConfig\n\n\n"
        "class OwnForCausalLM(LlamaForCausalLM):\n    config_class = OwnConfig\n"
    )
    change(
        folder / "config.json",
        model_type="ownllm",
        architectures=["OwnForCausalLM"],
        auto_map={
            "AutoConfig": "configuration_own.OwnConfig",
            "AutoModelForCausalLM": "modeling_own.OwnForCausalLM",
        },
    )
    return folder


def test_a_models_own_code_is_run_for_the_cut_as_for_the_original(
    own_code: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "c"))
    apply(own_code, (1, 3), tmp_path / "out", verify=True, trust_remote_code=True)
    assert (tmp_path / "out" / "modeling_own.py").is_file()


def test_a_models_own_code_is_asked_for_by_a_line_and_never_by_a_prompt(
    own_code: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def asked(*words: Any) -> str:
        raise AssertionError("asked on the terminal")

    monkeypatch.setattr("builtins.input", asked)
    with pytest.raises(ModelError, match="pass --trust-remote-code"):
        apply(own_code, (1, 3), tmp_path / "out", verify=True)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("context", [1, 2, 17, 18])
def test_a_config_that_states_hardly_any_context_is_proved_all_the_same(
    folder: Path, tmp_path: Path, context: int
) -> None:
    change(folder / "config.json", max_position_embeddings=context)
    apply(folder, (1, 3), tmp_path / "out", verify=True)
