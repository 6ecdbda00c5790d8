"""A streamed model computes what the loaded one does to the bit, and reads no byte too many."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import depthprune as dp
from depthprune.calibration import Calibration
from depthprune.errors import CheckpointError, ModelError, UsageError
from depthprune.models.blocks.find import find_anatomy
from depthprune.models.loading import Model, load
from depthprune.models.parity import reload, verify
from depthprune.models.streaming.conversion import converts
from depthprune.pruning.apply import apply
from hostile import HostileArithmetic
from tiny import save_tiny, tiny_model
from versions import OLD

SETS: list[tuple[int, ...]] = [(), (0,), (1,), (2,), (3,), (4,), (5,), (1, 4), (0, 1, 2)]

SHAPES: dict[str, dict[str, Any]] = {
    "llama": {},
    "sharded": {"max_shard_size": "20KB"},
    "tied": {"tie_word_embeddings": True},
    "gemma2": {"model_type": "gemma2"},
    "gemma3": {"model_type": "gemma3_text", "max_shard_size": "30KB"},
    "gpt2": {"model_type": "gpt2"},
    "mamba": {"model_type": "mamba"},
}


@pytest.fixture(scope="module", params=SHAPES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("streamed") / "model", **SHAPES[request.param])


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("text") / "river.txt"
    words = np.random.default_rng(0).choice(["river", "hills", "behind", "the"], 3000)
    file.write_text(" ".join(words), encoding="utf-8")
    return file


@pytest.fixture
def streamed(tiny_llama: Path) -> Model:
    return load(tiny_llama, dtype="float32", device="cpu", stream=True)


def _tokens(length: int = 24) -> Tensor:
    return torch.randint(3, 300, (2, length), generator=torch.Generator().manual_seed(0))


@torch.inference_mode()
def _logits(model: Model, tokens: Tensor) -> Tensor:
    return model.module(input_ids=tokens, use_cache=False).logits  # type: ignore[no-any-return]


def _blocks_are_empty(model: Model) -> bool:
    blocks = model.anatomy.blocks.modules
    return all(p.is_meta for block in blocks for p in block.parameters())


def _one_batch(model: Model, text: Path) -> Calibration:
    return dp.calibrate(f"text:{text},windows=2,length=32", model)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_losses_of_a_streamed_model_are_those_of_the_loaded_one(
    folder: Path, text: Path, dtype: str
) -> None:
    losses = []
    for stream in (False, True):
        model = load(folder, dtype=dtype, device="cpu", stream=stream)
        # A window is alone in its call in both, since a product rounds by what shares it.
        alone = dp.calibrate(f"text:{text},windows=1,length=32", model)
        scores = dp.Evaluator(model, alone).score(SETS)
        losses.append([score.window_losses for score in scores])
    np.testing.assert_array_equal(losses[1], losses[0])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_streamed_models_own_forward_is_the_loaded_ones_dense_and_masked(
    folder: Path, dtype: str
) -> None:
    held, streamed = (load(folder, dtype=dtype, device="cpu", stream=s) for s in (False, True))
    assert type(streamed.module) is type(held.module)
    assert torch.equal(_logits(streamed, _tokens()), _logits(held, _tokens()))
    one = _tokens()[:1, :1]  # a product of one row rounds by how its matrix is aligned
    assert torch.equal(_logits(streamed, one), _logits(held, one))
    with held.anatomy.masked((0, 3)), streamed.anatomy.masked((0, 3)):
        assert torch.equal(_logits(streamed, _tokens()), _logits(held, _tokens()))
    assert _blocks_are_empty(streamed)


def test_a_model_is_streamed_where_torch_has_mps_and_no_cuda(
    tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    # `torch.mps` has no `current_device`, which torch asks for whenever a CUDA stream is entered.
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    streamed = load(tiny_llama, dtype="float32", device="cpu", stream=True)
    monkeypatch.undo()
    held = load(tiny_llama, dtype="float32", device="cpu")
    assert torch.equal(_logits(streamed, _tokens()), _logits(held, _tokens()))


def test_a_buffer_that_a_type_keeps_in_float32_is_streamed_in_it(tmp_path: Path) -> None:
    """DeepSeek's bias of each expert, by which it is chosen or not."""
    folder = save_tiny(tmp_path / "model", "deepseek_v3")
    file = folder / "model.safetensors"
    tensors = load_file(file)
    names = [name for name in tensors if name.endswith("e_score_correction_bias")]
    # As bfloat16 all of them would be one.
    tensors |= {name: 100 + torch.tensor([0.2, 0.0, -0.2, 0.1]) for name in names}
    save_file(tensors, file, {"format": "pt"})
    held, streamed = (load(folder, dtype="bfloat16", device="cpu", stream=s) for s in (False, True))
    ours, theirs = streamed.module.state_dict(), held.module.state_dict()
    assert {name: t.dtype for name, t in ours.items()} == {n: t.dtype for n, t in theirs.items()}
    assert names
    assert torch.equal(_logits(streamed, _tokens()), _logits(held, _tokens()))


def test_a_walk_reads_every_block_once(streamed: Model, text: Path) -> None:
    assert streamed.stream is not None
    evaluator = dp.Evaluator(streamed, _one_batch(streamed, text))
    before = streamed.stream.bytes_read
    evaluator.score(SETS)
    assert streamed.stream.bytes_read - before == streamed.stream.bytes_a_pass
    assert _blocks_are_empty(streamed)


def test_a_pass_is_the_bytes_of_the_blocks_in_the_files(streamed: Model, tiny_llama: Path) -> None:
    stored = load_file(tiny_llama / "model.safetensors")
    blocks = [t for name, t in stored.items() if name.startswith("model.layers.")]
    assert streamed.stream is not None
    assert streamed.stream.bytes_a_pass == sum(t.numel() * t.element_size() for t in blocks)


def test_loading_takes_two_passes_a_block_of_each_form_and_the_rest_once(
    streamed: Model, tiny_llama: Path
) -> None:
    stream = streamed.stream
    assert stream is not None
    block = stream.bytes_a_pass // 6
    stored = load_file(tiny_llama / "model.safetensors").values()
    rest = sum(t.numel() * t.element_size() for t in stored) - stream.bytes_a_pass
    # What is loaded first is looked at once more, but before transformers 5.
    assert stream.bytes_read == 2 * stream.bytes_a_pass + (0 if OLD else block) + rest
    assert _blocks_are_empty(streamed)


def test_a_block_that_is_removed_or_recorded_is_not_read(streamed: Model) -> None:
    assert streamed.stream is not None
    before = streamed.stream.bytes_read
    streamed.anatomy.record(_tokens())
    assert streamed.stream.bytes_read == before
    with streamed.anatomy.masked((0, 1, 2, 3, 4)):
        _logits(streamed, _tokens())
    assert streamed.stream.bytes_read - before == streamed.stream.bytes_a_pass // 6


def test_a_held_block_is_read_once_however_often_it_is_called(streamed: Model) -> None:
    assert streamed.stream is not None
    inputs = streamed.anatomy.record(_tokens())
    before = streamed.stream.bytes_read
    with streamed.anatomy.holding(2):
        assert not any(p.is_meta for p in streamed.anatomy.blocks.modules[2].parameters())
        first = streamed.anatomy.call(2, inputs.states, inputs)
        second = streamed.anatomy.call(2, inputs.states, inputs)
        with streamed.anatomy.holding(2):
            pass
        assert torch.equal(first, second)
        assert torch.equal(streamed.anatomy.call(2, inputs.states, inputs), first)
    assert streamed.stream.bytes_read - before == streamed.stream.bytes_a_pass // 6
    assert _blocks_are_empty(streamed)


def test_blocks_held_at_once_do_not_share_their_buffer(streamed: Model, tiny_llama: Path) -> None:
    held = load(tiny_llama, dtype="float32", device="cpu")
    with streamed.anatomy.holding(1), streamed.anatomy.holding(4):
        for index in (1, 4):
            ours, theirs = (m.anatomy.blocks.modules[index].state_dict() for m in (streamed, held))
            assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def _address(model: Model, block: int) -> int:
    with model.anatomy.holding(block):
        return next(model.anatomy.blocks.modules[block].parameters()).data_ptr()


def test_all_blocks_pass_through_two_buffers_and_through_one_where_none_is_read_ahead(
    streamed: Model,
) -> None:
    assert streamed.stream is not None
    size = streamed.stream.bytes_a_pass // 6
    addresses = [_address(streamed, index) for index in range(6)]
    assert len({round((address - min(addresses)) / size) for address in addresses}) <= 2
    streamed.stream.use_one_buffer()
    addresses = [_address(streamed, index) for index in range(6)]
    assert max(addresses) - min(addresses) < 1024


def test_a_block_is_let_go_when_the_work_inside_fails(streamed: Model) -> None:
    with pytest.raises(KeyError), streamed.anatomy.holding(0):
        raise KeyError
    assert _blocks_are_empty(streamed)


def test_gradients_of_a_streamed_model_are_refused(streamed: Model) -> None:
    with pytest.raises(ModelError, match="no weights to compute gradients with"):
        streamed.module(input_ids=_tokens())


def test_holding_a_block_of_a_loaded_model_changes_nothing(tiny_llama: Path) -> None:
    model = load(tiny_llama, dtype="float32", device="cpu")
    before = {name: p.data_ptr() for name, p in model.module.named_parameters()}
    with model.anatomy.holding(3):
        assert {n: p.data_ptr() for n, p in model.module.named_parameters()} == before
    assert model.stream is None


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_streamed_checkpoint_is_proved_against_the_streamed_original(
    tiny_llama: Path, tmp_path: Path, dtype: str
) -> None:
    apply(tiny_llama, (1, 4), tmp_path / "out")
    model = load(tiny_llama, dtype=dtype, device="cpu", stream=True)
    record = verify(model, reload(tmp_path / "out", dtype, "cpu", stream=True), (1, 4))
    assert record.bitwise
    assert _blocks_are_empty(model)


def test_parity_in_float32_widens_streamed_weights(
    tiny_llama: Path, tmp_path: Path, restless: HostileArithmetic
) -> None:
    apply(tiny_llama, (1, 4), tmp_path / "out")
    model = load(tiny_llama, dtype="bfloat16", device="cpu", stream=True)
    record = verify(model, reload(tmp_path / "out", "bfloat16", "cpu", stream=True), (1, 4))
    assert not record.bitwise
    assert record.float32_difference is not None
    assert 0 < record.float32_difference <= 1e-5
    assert next(model.anatomy.blocks.modules[0].parameters()).dtype == torch.bfloat16
    assert _blocks_are_empty(model)


@pytest.fixture
def copy(tiny_llama: Path, tmp_path: Path) -> Path:
    target = tmp_path / "copy"
    target.mkdir()
    for file in tiny_llama.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    return target


def _rewrite(folder: Path, change: Callable[[dict[str, Tensor]], None]) -> None:
    file = folder / "model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, metadata={"format": "pt"})


KEY = "model.layers.2.mlp.up_proj.weight"


def _rename(tensors: dict[str, Tensor]) -> None:
    tensors["model.layers.2.mlp.up.weight"] = tensors.pop(KEY)


def _reshape(tensors: dict[str, Tensor]) -> None:
    tensors[KEY] = tensors[KEY].t().contiguous()


@pytest.mark.parametrize(("change", "words"), [(_rename, KEY), (_reshape, KEY)])
def test_tensors_that_are_not_the_models_are_refused(
    copy: Path, change: Callable[[dict[str, Tensor]], None], words: str
) -> None:
    _rewrite(copy, change)
    with pytest.raises(ModelError, match="cannot be streamed; load it whole") as refused:
        load(copy, dtype="float32", device="cpu", stream=True)
    assert words in str(refused.value)


@pytest.mark.parametrize("name", [KEY, "model.norm.weight"])
def test_missing_tensors_are_refused(copy: Path, name: str) -> None:
    _rewrite(copy, lambda tensors: tensors.__delitem__(name))
    with pytest.raises(ModelError, match=f"1 missing keys in its weights .{name}"):
        load(copy, dtype="float32", device="cpu", stream=True)


def test_quantised_weights_are_refused(copy: Path) -> None:
    config = json.loads((copy / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "gptq", "bits": 4}
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="quantised, so it cannot be streamed"):
        load(copy, stream=True)


def test_pickled_weights_are_refused(copy: Path) -> None:
    tensors = load_file(copy / "model.safetensors")
    (copy / "model.safetensors").unlink()
    torch.save(tensors, copy / "pytorch_model.bin")
    with pytest.raises(ModelError, match="pickled, so it cannot be streamed"):
        load(copy, stream=True, allow_pickle=True)


CONVERTED = {
    "mixtral": "experts are stored one by one and held together",
    "deepseek_v3": "so are these, with two kinds of block",
    "granitemoe": "a tensor is held under another name",
    "gpt_neox": "so is the head",
    "gemma4": "everything stands below another prefix",
    "hy_v4": "tensors outside the blocks are renamed",
    "axk2": "norms are renamed",
    "bailing_hybrid": "tensors of blocks are renamed and joined",
    "youtu": "the embedding of padding is set to zero when all is loaded",
}


@pytest.mark.parametrize("model_type", CONVERTED)
def test_what_transformers_converts_as_it_loads_is_streamed_to_the_bit(
    tmp_path: Path, model_type: str
) -> None:
    folder = save_tiny(tmp_path / "model", model_type, max_shard_size="60KB")
    held = load(folder, dtype="float32", device="cpu")
    streamed = load(folder, dtype="float32", device="cpu", stream=True)
    assert _blocks_are_empty(streamed)
    assert torch.equal(_logits(streamed, _tokens()), _logits(held, _tokens()))


def test_what_is_joined_is_read_once_a_pass(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "moe", "mixtral")
    model = load(folder, dtype="float32", device="cpu", stream=True)
    stream = model.stream
    assert stream is not None
    stored = load_file(folder / "model.safetensors")
    blocks = sum(t.numel() * t.element_size() for n, t in stored.items() if ".layers." in n)
    before = stream.bytes_read
    _logits(model, _tokens())
    assert stream.bytes_read - before == stream.bytes_a_pass == blocks


@pytest.mark.parametrize("part", ["mlp.down_proj", "embed_tokens"])
def test_weights_that_a_type_changes_when_they_are_loaded_are_found_out(
    tiny_llama: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    if not converts():
        pytest.skip("before transformers 5 loaded weights are not initialised again")
    llama = type(load(tiny_llama, dtype="float32", device="cpu").module)
    plain = llama._init_weights

    def changing(self: Any, module: Any) -> None:
        plain(self, module)
        if module is (found := _within(self, part)) and not found.weight.is_meta:
            found.weight.data[0] = 3.0

    monkeypatch.setattr(llama, "_init_weights", changing)
    monkeypatch.setattr(llama.__bases__[0], "_init_weights", changing)
    held = load(tiny_llama, dtype="float32", device="cpu")
    if part == "mlp.down_proj":
        with pytest.raises(ModelError, match=r"changes model.layers.0.mlp.down_proj.weight after"):
            load(tiny_llama, dtype="float32", device="cpu", stream=True)
        return
    streamed = load(tiny_llama, dtype="float32", device="cpu", stream=True)
    assert torch.equal(_logits(streamed, _tokens()), _logits(held, _tokens()))


def _within(model: Any, part: str) -> Any:
    inner = getattr(model, "model", model)
    return inner.embed_tokens if part == "embed_tokens" else inner.layers[0].mlp.down_proj


def test_a_file_that_shrinks_is_reported(copy: Path) -> None:
    model = load(copy, dtype="float32", device="cpu", stream=True)
    file = copy / "model.safetensors"
    with open(file, "r+b") as opened:
        opened.truncate(file.stat().st_size // 2)
    with pytest.raises(CheckpointError, match="it changed since it was opened"):
        _logits(model, _tokens())
    assert _blocks_are_empty(model)


def test_a_shard_outside_the_folder_is_refused(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "model", max_shard_size="20KB")
    index = folder / "model.safetensors.index.json"
    found = json.loads(index.read_text())
    found["weight_map"][KEY] = "../elsewhere.safetensors"
    index.write_text(json.dumps(found))
    with pytest.raises(CheckpointError, match="outside the folder"):
        load(folder, stream=True)


def test_a_device_map_excludes_streaming_and_a_device(tiny_llama: Path) -> None:
    pytest.importorskip("accelerate")
    with pytest.raises(UsageError, match="cannot be combined with --stream"):
        load(tiny_llama, stream=True, device_map="auto")
    with pytest.raises(UsageError, match="cannot be combined with --device cpu"):
        load(tiny_llama, device="cpu", device_map="auto")
    with pytest.raises(UsageError, match="expected auto, balanced"):
        load(tiny_llama, device_map="everywhere")


def test_a_model_laid_out_by_a_device_map_computes_the_same(tiny_llama: Path, text: Path) -> None:
    pytest.importorskip("accelerate")
    held = load(tiny_llama, dtype="float32", device="cpu")
    mapped = load(tiny_llama, dtype="float32", device_map={"": "cpu"})
    losses = [dp.Evaluator(m, _one_batch(m, text)).score(SETS) for m in (held, mapped)]
    assert mapped.device == "cpu"
    assert [s.loss for s in losses[1]] == [s.loss for s in losses[0]]


def test_blocks_that_accelerate_has_wrapped_are_replayed_and_masked() -> None:
    accelerate = pytest.importorskip("accelerate")
    plain, hooked = (find_anatomy(module) for module in (tiny_model(), _hooked(accelerate, "cpu")))
    for removed in ((), (1, 4)):
        with torch.inference_mode(), plain.masked(removed) as a, hooked.masked(removed) as b:
            ours, theirs = (m(input_ids=_tokens(), use_cache=False).logits for m in (b, a))
            assert torch.equal(ours, theirs)


def _hooked(accelerate: Any, second: str) -> Any:
    """A tiny llama with blocks 3 to 5 on a second device, each block moving what it is given."""
    module = tiny_model()
    rest = (module.model.embed_tokens, module.model.rotary_emb, module.model.norm, module.lm_head)
    layers = module.model.layers
    for part, device in [
        *((p, "cpu") for p in (*rest, *layers[:3])),
        *((p, second) for p in layers[3:]),
    ]:
        hook = accelerate.hooks.AlignDevicesHook(execution_device=device, io_same_device=False)
        accelerate.hooks.add_hook_to_module(part.to(device), hook)
    return module


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_blocks_on_two_devices_compute_what_they_do_on_one() -> None:
    accelerate = pytest.importorskip("accelerate")
    one, two = (find_anatomy(module) for module in (tiny_model(), _hooked(accelerate, "cuda")))
    first, second = one.record(_tokens()), two.record(_tokens())
    a, b = first.states, second.states
    for block in range(6):
        a, b = one.call(block, a, first), two.call(block, b, second)
        assert b.device.type == ("cpu" if block < 3 else "cuda")
    torch.testing.assert_close(two.head(b).cpu(), one.head(a), rtol=1e-4, atol=1e-4)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_model_streamed_to_a_gpu_computes_what_the_one_held_there_does(
    tiny_llama: Path, text: Path
) -> None:
    losses = []
    for stream in (False, True):
        model = load(tiny_llama, dtype="bfloat16", device="cuda", stream=stream)
        # A window is alone in its call in both, since a product rounds by what shares it.
        alone = dp.calibrate(f"text:{text},windows=1,length=32", model)
        scores = dp.Evaluator(model, alone).score(SETS)
        losses.append([score.window_losses for score in scores])
    np.testing.assert_array_equal(losses[1], losses[0])
