"""What surgery writes is found in the files by value, and a reload gives what was measured."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import depthprune as dp
from depthprune.checkpoints.checkpoint import open_checkpoint
from depthprune.checkpoints.surgery import write_pruned
from depthprune.errors import ModelError
from depthprune.models.parity import reload, verify
from depthprune.recovery import Linear, stored
from depthprune.recovery.delta import Delta, Scaled
from depthprune.recovery.linear.write_back import add_changes, unwritten
from mended import drawn
from tiny import save_tiny

REMOVED = (2, 4)


@pytest.mark.parametrize(
    ("model_type", "name"),
    [
        ("llama", "model.layers.1.mlp.down_proj.weight"),
        ("gpt2", "transformer.h.3.attn.c_attn.weight"),
        ("mixtral", "model.layers.1.block_sparse_moe.experts.3.w2.weight"),
        ("qwen2_moe", "model.layers.3.mlp.experts.3.down_proj.weight"),
        ("gpt_oss", "model.layers.1.mlp.experts.down_proj_bias"),
    ],
)
def test_a_written_checkpoint_is_the_recovered_model_to_the_bit(
    model_type: str, name: str, tmp_path: Path
) -> None:
    found = _written(model_type, torch.float32, "float32", tmp_path)
    assert any(_alike(name, each) for each in found)


def _alike(name: str, other: str) -> bool:
    """The same tensor, whichever of its names this transformers saves a mixture of experts by."""
    return (
        name == other
        or name.replace("block_sparse_moe.", "mlp.") == other
        or ("experts" in name and "experts" in other and "down_proj" in other)
    )


@pytest.mark.parametrize(
    ("saved", "measured"),
    [(torch.float32, "bfloat16"), (torch.bfloat16, "float32"), (torch.bfloat16, "bfloat16")],
)
def test_tensors_keep_the_files_dtype(saved: torch.dtype, measured: str, tmp_path: Path) -> None:
    _written("llama", saved, measured, tmp_path)
    tensors = load_file(tmp_path / "out" / "model.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {saved}


def _written(model_type: str, saved: torch.dtype, measured: str, folder: Path) -> dict[str, bytes]:
    return _recovered(save_tiny(folder / "model", model_type, dtype=saved), measured, folder)


def _recovered(source: Path, measured: str, folder: Path) -> dict[str, bytes]:
    """What is written of the recovered model, proved to be it."""
    model = dp.load(source, dtype=measured, device="cpu")
    recovery = dp.recover(model, REMOVED, drawn(folder, model))
    assert any(run.strength > 0 for run in recovery.runs)
    checkpoint = open_checkpoint(source)
    data, as_written = stored(recovery, model, checkpoint)
    (folder / "out").mkdir()
    write_pruned(checkpoint, REMOVED, folder / "out", replace=data)
    with dp.recovered(model, as_written):
        record = verify(model, reload(folder / "out", measured, "cpu"), REMOVED)
    assert record.bitwise
    return data


def _altered(folder: Path, zeros: str = "", copies: str = "") -> Path:
    """A checkpoint, tensors of some names replaced by zeros or by the first expert's."""
    tensors = load_file(folder / "model.safetensors")
    for name in tensors:
        if zeros and re.search(zeros, name):
            tensors[name] = torch.zeros_like(tensors[name])
        if copies and re.search(copies, name):
            tensors[name] = tensors[re.sub(r"experts\.\d+", "experts.0", name)].clone()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize(
    ("model_type", "zeros", "name"),
    [
        ("llama", r"layers\.3\..*(o_proj|down_proj)", "model.layers.3.mlp.down_proj.weight"),
        ("gemma2", r"o_proj\.bias", "model.layers.3.self_attn.o_proj.weight"),
        (
            "gemma3_text",
            r"post_\w+_layernorm",
            "model.layers.1.post_feedforward_layernorm.weight",
        ),
    ],
)
def test_zeros_are_written_under_their_own_name(
    model_type: str, zeros: str, name: str, tmp_path: Path
) -> None:
    settings = {"attention_bias": True} if "bias" in zeros else {}
    source = _altered(save_tiny(tmp_path / "model", model_type, **settings), zeros)
    assert name in _recovered(source, "float32", tmp_path)


def test_experts_that_are_copies_of_one_are_written_alike(tmp_path: Path) -> None:
    source = _altered(save_tiny(tmp_path / "model", "mixtral"), copies=r"experts\.\d+\.")
    names = [name for name in _recovered(source, "float32", tmp_path) if "layers.1." in name]
    assert sum("w2" in name or "down_proj" in name for name in names) in (1, 4)


def test_nothing_but_the_named_tensors_is_written_anew(tiny_llama: Path, tmp_path: Path) -> None:
    model = dp.load(tiny_llama, dtype="float32", device="cpu")
    recovery = dp.recover(model, REMOVED, drawn(tmp_path, model), Linear(refit="none"))
    checkpoint = open_checkpoint(tiny_llama)
    data, _ = stored(recovery, model, checkpoint)
    for name, changed in (("plain", {}), ("mended", data)):
        (tmp_path / name).mkdir()
        write_pruned(checkpoint, REMOVED, tmp_path / name, replace=changed)
    plain, mended = (load_file(tmp_path / n / "model.safetensors") for n in ("plain", "mended"))
    changed = {name for name in plain if not torch.equal(plain[name], mended[name])}
    assert changed == {f"model.layers.{i}.mlp.down_proj.weight" for i in (1, 2)}


def test_a_parameter_that_no_tensor_holds_is_refused(tiny_llama: Path, tmp_path: Path) -> None:
    model = dp.load(tiny_llama, dtype="float32", device="cpu")
    recovery = dp.recover(model, REMOVED, drawn(tmp_path, model))
    tensors = load_file(tiny_llama / "model.safetensors")
    tensors["model.layers.3.mlp.down_proj.weight"] += 1
    other = save_tiny(tmp_path / "other")
    save_file(tensors, other / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"block 3: mlp\.down_proj\.weight has its values in no"):
        stored(recovery, model, open_checkpoint(other))


def test_what_the_checkpoint_joins_is_left_as_it_is(tiny_llama: Path, tmp_path: Path) -> None:
    """A projection that stands in the file with another in one tensor cannot be written alone."""
    folder = shutil.copytree(tiny_llama, tmp_path / "joined")
    tensors = load_file(folder / "model.safetensors")
    block = "model.layers.3.self_attn."
    pair = [tensors.pop(f"{block}{name}_proj.weight") for name in "qk"]
    tensors[f"{block}qk_proj.weight"] = torch.cat(pair)
    tensors[f"{block}values.weight"] = tensors.pop(f"{block}v_proj.weight")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    whole = dp.load(tiny_llama, dtype="float32", device="cpu")
    model = replace(whole, source=replace(whole.source, checkpoint=open_checkpoint(folder)))
    names = [f"self_attn.{name}_proj.weight" for name in "qkvo"]
    assert unwritten(whole, 3, names) == set()
    assert unwritten(model, 3, names) == set(names[:2])
    found = [
        {
            refit.layer
            for refit in dp.recover(each, [2], drawn(tmp_path, each)).refits
            if refit.block == 3
        }
        for each in (whole, model)
    ]
    assert {"self_attn.q_proj", "self_attn.o_proj"} <= found[0]
    assert found[1] == found[0] - {"self_attn.q_proj", "self_attn.k_proj"}


@pytest.mark.parametrize("change", [Delta(torch.full((32,), 0.5)), Scaled(1.5, offset=1.0)])
def test_a_norm_of_zeros_outside_the_blocks_is_moved_where_its_change_moves_it(
    change: Delta | Scaled, tmp_path: Path
) -> None:
    """Gemma's norms multiply by 1 + w, so one that is as it was made has zeros."""
    folder = save_tiny(tmp_path / "gemma", "gemma")
    file = folder / "model.safetensors"
    name = "model.norm.weight"
    save_file(load_file(file) | {name: torch.zeros(32)}, file, metadata={"format": "pt"})
    model = dp.load(folder, dtype="float32", device="cpu")
    data: dict[str, bytes] = {}
    weights: dict[str, torch.Tensor] = {}
    add_changes({name: change}, model, open_checkpoint(folder), "model.layers.", data, weights)
    assert torch.equal(weights[name], torch.full((32,), 0.5))
    assert data.keys() == {name}
