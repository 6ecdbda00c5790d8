"""MODEL is a folder, a GGUF file, a hub id or demo, and is checked before weights are read."""

from __future__ import annotations

import json
import shutil
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from depthprune.errors import CheckpointError, DepthpruneError, ModelError, UsageError
from depthprune.models.devices import choose_device
from depthprune.models.loading import load
from depthprune.models.source import demo_file, find_model
from gguf_tiny import tiny_gguf


@pytest.fixture
def folder(tiny_llama: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_llama, tmp_path / "model"))


def test_a_folder_tells_its_blocks_and_type(tiny_llama: Path) -> None:
    source = find_model(tiny_llama)
    assert (source.kind, source.blocks, source.model_type) == ("folder", 6, "llama")
    assert len(source.fingerprint() or "") == 64


def test_a_model_in_memory_is_refused_with_what_to_do() -> None:
    for model in (torch.nn.Linear(2, 2), None):
        with pytest.raises(ModelError, match=r"got a (Linear|NoneType); save a model"):
            load(model)  # type: ignore[arg-type]


def test_demo_is_the_gguf_of_its_package() -> None:
    source = find_model("demo")
    assert (source.kind, source.blocks, source.model_type) == ("gguf", 30, "llama")
    assert source.gguf == demo_file()
    assert source.identity == "demo"


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("no/such/folder", "no such folder or file"),
        ("./missing", "no such folder or file"),
        ("missing.gguf", "no such folder or file"),
        ("owner/name", "the hub gave nothing"),
    ],
)
def test_a_model_that_is_not_there_is_one_clear_error(name: str, says: str) -> None:
    with pytest.raises(ModelError, match=says) as caught:
        find_model(name)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_gguf_is_refused(tmp_path: Path) -> None:
    (tmp_path / "weights.bin").write_bytes(b"x")
    with pytest.raises(ModelError, match=r"expected a folder or a \.gguf file"):
        find_model(tmp_path / "weights.bin")
    (tmp_path / "bad.gguf").write_bytes(b"GGUF" + bytes(40))
    with pytest.raises(CheckpointError, match="not a GGUF language model, or damaged"):
        find_model(tmp_path / "bad.gguf")


def test_remote_code_is_refused_unless_asked_for(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoModelForCausalLM": "modeling.Model"}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="--trust-remote-code"):
        find_model(folder)


@pytest.mark.parametrize(
    ("named", "ours"),
    [
        ({"AutoConfig": "c.LlamaConfig", "AutoModelForCausalLM": "m.LlamaForCausalLM"}, True),
        ({"AutoConfig": "c.LLaMAConfig", "AutoModelForCausalLM": "m.LLaMAForCausalLM"}, True),
        ({"AutoTokenizer": ["t.Slow", None]}, True),
        ({"AutoConfig": "c.LlamaConfig", "AutoModelForCausalLM": "m.Qwen2ForCausalLM"}, False),
        ({"AutoConfig": "c.Mine", "AutoModelForCausalLM": "m.LlamaForCausalLM"}, False),
        ({"AutoModel": None}, False),
        ("modeling.Model", False),
    ],
)
def test_code_that_transformers_has_itself_is_not_asked_for(
    named: object, ours: bool, folder: Path
) -> None:
    """As in the checkpoints of Phi-3 or Phi-3.5-MoE, whose types came to transformers later."""
    config = json.loads((folder / "config.json").read_text()) | {"auto_map": named}
    (folder / "config.json").write_text(json.dumps(config))
    with nullcontext() if ours else pytest.raises(ModelError, match="--trust-remote-code"):
        assert find_model(folder).code_fingerprint() is None


def test_pickled_weights_are_read_only_when_asked_for(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(tensors, folder / "pytorch_model.bin")
    with pytest.raises(DepthpruneError, match="pickle"):
        find_model(folder)
    model = load(folder, dtype="float32", device="cpu", allow_pickle=True)
    assert model.blocks == 6


def test_missing_weights_are_an_error_and_not_random_numbers(folder: Path) -> None:
    file = folder / "model.safetensors"
    tensors = load_file(file)
    del tensors["model.layers.2.mlp.up_proj.weight"]
    save_file(tensors, file, {"format": "pt"})
    with pytest.raises(ModelError, match="1 missing keys"):
        load(folder, dtype="float32", device="cpu")


def test_a_model_with_an_adapter_beside_it_is_refused(folder: Path, tmp_path: Path) -> None:
    """transformers loads the adapter on top, and surgery leaves it behind."""
    gguf = tiny_gguf(folder / "a.gguf")
    (folder / "adapter_config.json").write_text("{}")
    for model in (folder, gguf):
        with pytest.raises(ModelError, match=r"adapter_config.json is of an adapter.*; merge it"):
            find_model(model)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"has_lora_adapter": True}))
    assert find_model(folder).blocks == 6


def test_a_folder_without_a_tokenizer_says_so(folder: Path) -> None:
    for file in folder.glob("*token*"):
        file.unlink()
    with pytest.raises(ModelError, match="no tokenizer could be read"):
        find_model(folder).tokenizer()


def test_a_tokenizer_whose_longest_text_is_no_number_says_so(folder: Path) -> None:
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "model_max_length": "x"}))
    with pytest.raises(ModelError, match="model_max_length is 'x', expected a number"):
        find_model(folder).tokenizer()


def test_an_unknown_device_is_one_clear_error() -> None:
    with pytest.raises(UsageError, match="--device: expected auto, cpu"):
        choose_device("tpu")


@pytest.mark.slow
def test_a_gguf_is_dequantised_to_what_its_file_says_in_bfloat16() -> None:
    from gguf import GGUFReader, dequantize

    model = load("demo", dtype="float32", device="cpu")
    tensors = {tensor.name: tensor for tensor in GGUFReader(demo_file()).tensors}
    theirs = tensors["blk.7.ffn_down.weight"]
    ours = model.module.model.layers[7].mlp.down_proj.weight  # type: ignore[union-attr, index]
    said = torch.from_numpy(dequantize(theirs.data, theirs.tensor_type))
    assert torch.equal(ours, said.bfloat16().float())
    assert model.blocks == 30
    assert model.parameters == 134_515_008


def test_a_hub_is_asked_for_no_weights_that_would_not_be_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub.utils import filter_repo_objects

    wanted = ["config.json", "model-00001-of-00002.safetensors", "tokenizer.model", "source.spm"]
    others = ["consolidated.safetensors", "original/model.safetensors", "onnx/model.onnx", "x.bin"]
    fetched: list[str] = []

    def fetch(name: str, *, revision: object, **patterns: list[str]) -> str:
        fetched.extend(filter_repo_objects([*wanted, *others], **patterns))
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    with pytest.raises(CheckpointError):
        find_model("someone/model")
    assert fetched == wanted
