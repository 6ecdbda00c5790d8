"""A GGUF is read faster than transformers reads it, and to the same bits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM
from transformers import modeling_gguf_pytorch_utils as loader

from depthprune.models.gguf.unpacking import dequantize, quick_gguf
from depthprune.models.pretrained import gguf_options, load_module
from depthprune.models.source import demo_file, find_model
from gguf_tiny import tiny_gguf

KINDS = ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL"]

HEADS = {"attention.key_length": 16, "attention.value_length": 16}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny llama with a tokenizer and fields of every kind; leave it as it is."""
    fields = {"numbers": [1, 2, 3], "reals": [0.5, -1.5], "truths": [True, False], "real": 0.25}
    place = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    return tiny_gguf(place, tokenizer=True, fields=fields)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(1, 256), (37, 256), (1031, 512), (2, 3, 512)])
def test_rows_taken_together_unpack_to_the_same_bits(kind: str, shape: tuple[int, ...]) -> None:
    number = gguf.GGMLQuantizationType[kind]
    block, width = gguf.GGML_QUANT_SIZES[number]
    generator = np.random.default_rng(0)
    packed = (*shape[:-1], shape[-1] // block * width)
    data = generator.integers(0, 120, packed, dtype=np.uint8)  # no exponent of infinity
    plain = gguf.dequantize(data, number)
    found = dequantize(gguf.dequantize, data, number)
    assert found.shape == plain.shape == shape
    np.testing.assert_array_equal(found, plain)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_plain_floats_stay_what_they_are(dtype: type[Any]) -> None:
    kind = {np.float32: gguf.GGMLQuantizationType.F32, np.float16: gguf.GGMLQuantizationType.F16}
    data = np.arange(24, dtype=dtype).reshape(4, 6)
    np.testing.assert_array_equal(dequantize(gguf.dequantize, data, kind[dtype]), data)


@pytest.mark.parametrize(
    "which", ["tiny", pytest.param("demo", marks=pytest.mark.slow)], ids=["tiny", "demo"]
)
def test_a_header_is_read_as_the_package_reads_it(tiny: Path, which: str) -> None:
    file = tiny if which == "tiny" else demo_file()
    plain = gguf.GGUFReader(file)
    with quick_gguf():
        quick = gguf.GGUFReader(file)
    assert type(quick) is not type(plain)
    assert list(quick.fields) == list(plain.fields)
    for name, field in plain.fields.items():
        other = quick.fields[name]
        assert (other.offset, other.data, other.types) == (field.offset, field.data, field.types)
        assert [part.tobytes() for part in other.parts] == [part.tobytes() for part in field.parts]
        assert [part.dtype for part in other.parts] == [part.dtype for part in field.parts], name
        assert other.contents() == field.contents()
    assert [tensor.name for tensor in quick.tensors] == [tensor.name for tensor in plain.tensors]


def test_nothing_stays_replaced(tiny: Path) -> None:
    before = [gguf.GGUFReader, gguf.dequantize, gguf.get_tensor_name_map, vars(loader).copy()]
    with quick_gguf():
        assert gguf.GGUFReader is not before[0]
    with pytest.raises(FileNotFoundError), quick_gguf():
        gguf.GGUFReader(tiny.with_name("missing.gguf"))
    assert before == [gguf.GGUFReader, gguf.dequantize, gguf.get_tensor_name_map, vars(loader)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("architecture", ["llama", "qwen2", "gemma2", "gemma3"])
def test_a_model_is_loaded_as_transformers_loads_it(
    tmp_path: Path, architecture: str, dtype: torch.dtype
) -> None:
    file = tiny_gguf(tmp_path / "a.gguf", architecture, tokenizer=True, fields=HEADS)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=dtype, **gguf_options(file))
    quick: Any = load_module(find_model(file), dtype, torch.device("cpu"))
    assert quick.config.to_dict() == {
        key: value for key, value in plain.config.to_dict().items() if key != "quantization_config"
    }
    assert list(quick.state_dict()) == list(plain.state_dict())
    for name, tensor in plain.state_dict().items():
        assert torch.equal(quick.state_dict()[name], tensor.bfloat16().to(dtype)), name
        assert quick.state_dict()[name].dtype == tensor.dtype
