"""Quantised checkpoints are renamed, never dequantised, and so is what their configs name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from depthprune.checkpoints.checkpoint import open_checkpoint
from depthprune.checkpoints.config import module_names
from depthprune.checkpoints.config.module_names import ModuleNames
from depthprune.checkpoints.surgery import Surgery, write_pruned
from depthprune.errors import ModelError

BLOCKS = 12
LINEAR = ("self_attn.q_proj", "self_attn.o_proj", "mlp.gate", "mlp.up_proj")

PackedTensor = dict[str, tuple[str, tuple[int, ...]]]

FORMATS: dict[str, PackedTensor] = {
    "compressed-tensors": {
        "weight_packed": ("I32", (8, 1)),
        "weight_scale": ("BF16", (8, 1)),
        "weight_shape": ("I64", (2,)),
    },
    "gptq": {
        "qweight": ("I32", (1, 8)),
        "qzeros": ("I32", (1, 1)),
        "scales": ("F16", (1, 8)),
        "g_idx": ("I32", (8,)),
    },
    "awq": {"qweight": ("I32", (8, 1)), "qzeros": ("I32", (1, 1)), "scales": ("F16", (1, 8))},
    "fp8": {"weight": ("F8_E4M3", (8, 8)), "weight_scale_inv": ("F32", (1, 1))},
    "bitsandbytes": {
        "weight": ("U8", (32, 1)),
        "weight.absmax": ("U8", (1,)),
        "weight.nested_absmax": ("F32", (1,)),
        "weight.quant_map": ("F32", (16,)),
        "weight.quant_state.bitsandbytes__nf4": ("U8", (90,)),
    },
    "mxfp4": {"weight_blocks": ("U8", (8, 1, 4)), "weight_scales": ("F8_E8M0", (8, 1))},
}
"""What each method stores for one linear layer: dtype and shape by tensor."""

WIDTH = {"I32": 4, "BF16": 2, "I64": 8, "F16": 2, "F8_E4M3": 1, "F32": 4, "U8": 1, "F8_E8M0": 1}


def checkpoint(folder: Path, method: str, quantisation: dict[str, Any], **config: Any) -> Path:
    """A checkpoint in a method's format, every byte random and nothing behind it."""
    folder.mkdir()
    names = {
        f"model.layers.{block}.{module}.{name}": spec
        for block in range(BLOCKS)
        for module in LINEAR
        for name, spec in FORMATS[method].items()
    }
    names |= {"model.embed_tokens.weight": ("BF16", (8, 8)), "lm_head.weight": ("BF16", (8, 8))}
    write(folder / "model.safetensors", names)
    fields = {
        "model_type": "llama",
        "num_hidden_layers": BLOCKS,
        "quantization_config": {"quant_method": method} | quantisation,
    }
    (folder / "config.json").write_text(json.dumps(fields | config))
    return folder


def write(path: Path, names: PackedTensor) -> None:
    import random

    header, at = {}, 0
    for name, (dtype, shape) in names.items():
        size = WIDTH[dtype]
        for length in shape:
            size *= length
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    raw = json.dumps(header).encode()
    path.write_bytes(len(raw).to_bytes(8, "little") + raw + random.Random(0).randbytes(at))


def tensors(folder: Path) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    raw = (folder / "model.safetensors").read_bytes()
    found = open_checkpoint(folder).tensors
    return {name: (t.dtype, t.shape, raw[t.begin : t.end]) for name, t in found.items()}


def cut(folder: Path, out: Path, *removed: int) -> tuple[Any, Surgery]:
    out.mkdir()
    done = write_pruned(open_checkpoint(folder), removed, out)
    return json.loads((out / "config.json").read_text()).get("quantization_config"), done


@pytest.mark.parametrize("method", FORMATS)
def test_packed_tensors_keep_their_bytes_under_new_numbers(tmp_path: Path, method: str) -> None:
    source = checkpoint(tmp_path / "a", method, {})
    _, done = cut(source, tmp_path / "b", 0, 3, 11)
    old, new = tensors(source), tensors(tmp_path / "b")
    kept = [block for block in range(BLOCKS) if block not in (0, 3, 11)]
    expected = {name: value for name, value in old.items() if ".layers." not in name}
    for place, block in enumerate(kept):
        for module in LINEAR:
            for name in FORMATS[method]:
                expected[f"model.layers.{place}.{module}.{name}"] = old[
                    f"model.layers.{block}.{module}.{name}"
                ]
    assert new == expected
    assert done.warnings == ()


CASES: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    (
        "compressed-tensors",
        {
            "ignore": ["lm_head", "model.layers.0.mlp.gate", "model.layers.10.self_attn.q_proj"],
            "config_groups": {
                "group_0": {"targets": ["Linear"], "weights": {"num_bits": 4}},
                "group_1": {"targets": ["model.layers.2.mlp.gate"], "weights": {"num_bits": 8}},
                "group_2": {"targets": ["model.layers.0.mlp.gate"], "weights": {"num_bits": 8}},
                "group_3": {"targets": ["re:.*mlp.gate$"], "weights": {"num_bits": 8}},
            },
            "kv_cache_scheme": None,
        },
        {
            "ignore": ["lm_head", "model.layers.8.self_attn.q_proj"],
            "config_groups": {
                "group_0": {"targets": ["Linear"], "weights": {"num_bits": 4}},
                "group_1": {"targets": ["model.layers.1.mlp.gate"], "weights": {"num_bits": 8}},
                "group_3": {"targets": ["re:.*mlp.gate$"], "weights": {"num_bits": 8}},
            },
            "kv_cache_scheme": None,
        },
    ),
    (
        "gptq",
        {
            "modules_in_block_to_quantize": [["self_attn.q_proj"], ["mlp.up_proj"]],
            "dynamic": {
                "-:model.layers.0.mlp.gate": {},
                r"-:.*\.gate$": {},
                r"+:model\.layers\.[0-2]\.mlp\.up_proj": {"bits": 8},
                r"+:.*\.10\..*q_proj.*": {"bits": 8},
            },
        },
        {
            "modules_in_block_to_quantize": [["self_attn.q_proj"], ["mlp.up_proj"]],
            "dynamic": {
                r"-:.*\.gate$": {},
                r"+:^model\.layers\.0\.mlp\.up_proj$": {"bits": 8},
                r"+:^model\.layers\.1\.mlp\.up_proj$": {"bits": 8},
                r"+:^model\.layers\.8\.self_attn\.q_proj$": {"bits": 8},
            },
        },
    ),
    (
        # Rules without a sign are regular expressions too, and of the first that match one counts.
        "gptq",
        {
            "dynamic": {
                ".*10.*gate.*": {"bits": 8},
                r"model\.layers\.(0|4)\.mlp\.up_proj$": {"bits": 3},
                "model.layers.3.mlp.gate": {"bits": 2},
                ".*up_proj.*": {"group_size": 64},
            },
        },
        {
            "dynamic": {
                r"^model\.layers\.8\.mlp\.gate$": {"bits": 8},
                r"^model\.layers\.2\.mlp\.up_proj$": {"bits": 3},
                ".*up_proj.*": {"group_size": 64},
            },
        },
    ),
    (
        "compressed-tensors",
        {
            "format": "mixed-precision",
            "ignore": ["re:.*lm_head", r"re:.*\.layers\.(0|11)\..*"],
            "config_groups": {
                "group_0": {"targets": [r"re:.*layers\.[1-4]\.mlp\..*", "re:.*q_proj"]},
                "group_1": {"targets": [r"re:.*layers\.3\..*"], "weights": {"num_bits": 8}},
            },
        },
        {
            "format": "mixed-precision",
            "ignore": ["re:.*lm_head", *(f"model.layers.9.{module}" for module in LINEAR)],
            "config_groups": {
                "group_0": {
                    "targets": [
                        *(
                            f"model.layers.{b}.mlp.{m}"
                            for b in range(3)
                            for m in ("gate", "up_proj")
                        ),
                        "re:.*q_proj",
                    ]
                },
            },
        },
    ),
    (
        "auto-round",
        {
            "block_name_to_quantize": "model.layers",
            "to_quant_block_names": [["model.layers.0", "model.layers.4"]],
            "extra_config": {
                "model.layers.4.mlp.gate": {"bits": 16},
                "model.layers.0.mlp.gate": {"bits": 16},
                r".*layers\.5\.self_attn.*": {"bits": 8},
            },
        },
        {
            "block_name_to_quantize": "model.layers",
            "to_quant_block_names": [["model.layers.2"]],
            "extra_config": {
                "model.layers.2.mlp.gate": {"bits": 16},
                "model.layers.3.self_attn.q_proj": {"bits": 8},
                "model.layers.3.self_attn.o_proj": {"bits": 8},
            },
        },
    ),
    (
        "torchao",
        {
            "quant_type": {
                "default": {
                    "_type": "FqnToConfig",
                    "_data": {
                        "module_fqn_to_config": {
                            "_default": None,
                            "model.layers.7.mlp.gate": {"_type": "Int8"},
                            r"re:model\.layers\.[0-3]\.self_attn\.q_proj": {"_type": "Int4"},
                        }
                    },
                }
            }
        },
        {
            "quant_type": {
                "default": {
                    "_type": "FqnToConfig",
                    "_data": {
                        "module_fqn_to_config": {
                            "_default": None,
                            "model.layers.5.mlp.gate": {"_type": "Int8"},
                            "model.layers.0.self_attn.q_proj": {"_type": "Int4"},
                            "model.layers.1.self_attn.q_proj": {"_type": "Int4"},
                        }
                    },
                }
            }
        },
    ),
    (
        "awq",
        {"modules_to_not_convert": ["lm_head", "mlp.gate", "layers.4.mlp", "model.layers.0."]},
        {"modules_to_not_convert": ["lm_head", "mlp.gate", "layers.2.mlp"]},
    ),
    (
        "fp8",
        {"modules_to_not_convert": ["model.layers.5.mlp.gate"], "weight_block_size": [128, 128]},
        {"modules_to_not_convert": ["model.layers.3.mlp.gate"], "weight_block_size": [128, 128]},
    ),
    (
        "fp8",
        {"ignored_layers": ["model.layers.1.mlp.gate", "model.layers.3.mlp.gate"]},
        {"ignored_layers": ["model.layers.0.mlp.gate"]},
    ),
    (
        "bitsandbytes",
        {"llm_int8_skip_modules": ["lm_head", "model.layers.11"], "load_in_4bit": True},
        {"llm_int8_skip_modules": ["lm_head", "model.layers.9"], "load_in_4bit": True},
    ),
    (
        "mxfp4",
        {"modules_to_not_convert": ["model.layers.*.self_attn", "model.layers.*.mlp.gate"]},
        {"modules_to_not_convert": ["model.layers.*.self_attn", "model.layers.*.mlp.gate"]},
    ),
]


@pytest.mark.parametrize(("method", "before", "after"), CASES)
def test_modules_named_in_the_config_are_renumbered(
    tmp_path: Path, method: str, before: dict[str, Any], after: dict[str, Any]
) -> None:
    # Methods whose packing is not laid out above are of configs alone.
    source = checkpoint(tmp_path / "a", method if method in FORMATS else "gptq", before)
    config, done = cut(source, tmp_path / "b", 0, 3)
    del config["quant_method"]
    assert config == after
    assert done.warnings == ()


@pytest.mark.parametrize(
    "pattern",
    [
        r"re:.*layers\.[0-3]\..*",
        r"re:model\.layers\.(1|10)\.mlp.*",
        r"re:.*\.7\.self_attn\.q_proj",
        r"re:^(?!model\.layers\.2\.).*gate$",
        r"re:model.layers.1\d?.mlp.gate",
        r"re:model.layers.4.mlp|model.layers.5.mlp",
        "re:.*gate$",
        "re:.*lm_head",
        "model.layers.1*",
    ],
)
@given(removed=st.sets(st.integers(0, BLOCKS - 1), min_size=1, max_size=BLOCKS - 1))
def test_a_pattern_means_the_same_modules_after_a_cut(pattern: str, removed: set[int]) -> None:
    import re

    def meant(entries: list[str], modules: dict[str, str]) -> set[str]:
        """The old names of what a list of entries names among modules (old name by their own)."""
        found = set()
        for entry in entries:
            if entry.startswith("re:"):
                matches = re.compile(entry[3:]).match
                found |= {old for name, old in modules.items() if matches(name)}
            elif entry.endswith("*"):
                found |= {old for name, old in modules.items() if name.startswith(entry[:-1])}
            elif entry in modules:
                found.add(modules[entry])
        return found

    before = {f"model.layers.{b}.{m}": b for b in range(BLOCKS) for m in LINEAR}
    kept = [block for block in range(BLOCKS) if block not in removed]
    names = ModuleNames([f"{name}.weight" for name in before], "model.layers.", kept)
    after = {
        f"model.layers.{place}.{m}": f"model.layers.{block}.{m}"
        for place, block in enumerate(kept)
        for m in LINEAR
    }
    expected = {
        name for name in meant([pattern], {name: name for name in before}) if before[name] in kept
    }
    assert meant(names.rename([pattern], "ignore"), after) == expected


def test_a_pattern_that_is_none_is_refused(tmp_path: Path) -> None:
    source = checkpoint(tmp_path / "a", "gptq", {"dynamic": {"+:.*layers.(1": {"bits": 8}}})
    with pytest.raises(ModelError, match=r"quantization_config has the pattern '\+:\.\*layers"):
        cut(source, tmp_path / "b", 1)


def test_a_pattern_by_number_in_a_part_of_a_larger_model_is_refused(tmp_path: Path) -> None:
    names = ModuleNames(
        [f"model.layers.{b}.mlp.weight" for b in range(3)], "model.layers.", (0, 2), nested=True
    )
    assert names.rename(["re:.*mlp"], "ignore") == ["re:.*mlp"]
    with pytest.raises(ModelError, match=r"speaks of blocks by number"):
        names.rename([r"re:.*layers\.2\..*"], "ignore")


@pytest.mark.parametrize("other", ["vision", "connector.resampler", "draft", "deep_model"])
def test_another_towers_modules_keep_their_numbers(other: str) -> None:
    tensors = [f"{p}.layers.{b}.mlp.weight" for p in ("model", other) for b in range(3)]
    names = ModuleNames(tensors, "model.layers.", (0, 2))
    listed = [f"{other}.layers.1.mlp", f"{other}.layers.2.mlp", "model.layers.2.mlp"]
    assert names.rename(listed, "ignore") == [*listed[:2], "model.layers.1.mlp"]


def test_modules_that_do_not_exist_are_named_in_one_line(tmp_path: Path) -> None:
    listed = ["lm_head", "model.layers.2.mlp.gates", "model.layers.40.mlp.gate", "score"]
    source = checkpoint(tmp_path / "a", "fp8", {"ignored_layers": listed})
    config, done = cut(source, tmp_path / "b", 0)
    assert done.warnings == (
        "quantization_config names the module model.layers.2.mlp.gates and 1 more, which the "
        "checkpoint does not have",
    )
    assert config["ignored_layers"] == ["lm_head", "model.layers.1.mlp.gates", "score"]


def test_a_list_of_every_expert_is_looked_up_and_not_searched() -> None:
    """Twenty thousand names among as many tensors: a search of all for each took hours."""
    modules = [f"model.layers.{b}.mlp.experts.{e}" for b in range(40) for e in range(500)]
    names = ModuleNames([f"{each}.weight" for each in modules], "model.layers.", range(1, 40))
    assert names.rename(dict.fromkeys(modules, 4), "bits") == dict.fromkeys(modules[:-500], 4)
    assert names.warnings == []


def test_a_loaded_models_own_prefix_is_no_unknown_name() -> None:
    tensors = [f"language_model.model.layers.{b}.mlp.gate.weight" for b in range(3)]
    names = ModuleNames(tensors, "language_model.model.layers.", (0, 2), nested=True)
    listed = ["model.language_model.layers.2.mlp.gate", "layers.2", "model.layers.2.mlp."]
    assert names.rename(listed, "ignore") == [name.replace("2", "1") for name in listed]
    assert names.warnings == []


def test_configs_beside_the_config_are_rewritten_too(tmp_path: Path) -> None:
    source = checkpoint(tmp_path / "a", "gptq", {})
    (source / "quantize_config.json").write_text(
        json.dumps({"bits": 4, "dynamic": {"-:model.layers.3.mlp.gate": {}}})
    )
    excluded = ["lm_head", "model.layers.3.self_attn*", "model.layers.1*"]
    (source / "hf_quant_config.json").write_text(
        json.dumps({"quantization": {"quant_algo": "FP8", "exclude_modules": excluded}})
    )
    (source / "quantization_config.json").write_text('{"extra_config": {"layers.4.mlp": {}}}')
    _, done = cut(source, tmp_path / "b", 0)
    beside = {"quantize_config.json", "hf_quant_config.json", "quantization_config.json"}
    assert beside <= set(done.files)
    written = json.loads((tmp_path / "b" / "quantization_config.json").read_text())
    assert list(written["extra_config"]) == ["layers.3.mlp"]
    written = json.loads((tmp_path / "b" / "quantize_config.json").read_text())
    assert list(written["dynamic"]) == [r"-:^model\.layers\.2\.mlp\.gate$"]
    written = json.loads((tmp_path / "b" / "hf_quant_config.json").read_text())
    names = written["quantization"]["exclude_modules"]
    assert names[:2] == ["lm_head", "model.layers.2.self_attn*"]
    assert {name.split(".")[2] for name in names[2:]} == {"0", "9", "10"}


WIDE = {"group_size": 32, "bits": 8}

ELSEWHERE: list[tuple[str, Any, Any]] = [
    (
        "quantization",
        {
            "bits": 4,
            "model.layers.2.mlp.up_proj": WIDE,
            "model.layers.3.mlp.up_proj": WIDE,
            "model.layers.5.self_attn.q_proj": False,
        },
        {"bits": 4, "model.layers.1.mlp.up_proj": WIDE, "model.layers.3.self_attn.q_proj": False},
    ),
    (
        "sparsity",
        {"skip": ["model.layers.3.mlp.gate", "model.layers.4.mlp.gate", "lm_head"]},
        {"skip": ["model.layers.2.mlp.gate", "lm_head"]},
    ),
    ("kept_dense", ["layers.2", "layers.3"], ["layers.1"]),
    ("bits_of_layers", {"0": 4, "2": 8, "3": 2}, {"0": 4, "1": 8}),
    ("notes", {"by": "someone", "id2label": {"2": "x"}}, {"by": "someone", "id2label": {"2": "x"}}),
    (
        "quantization_config",
        {
            "quant_method": "torchao",
            "quant_type": {
                "default": {
                    "_type": "ModuleFqnToConfig",
                    "_data": {
                        "module_fqn_to_config": {
                            "_default": {"x": 1},
                            "model.layers.2.mlp.gate": {"x": 2},
                            "model.layers.3.mlp.gate": None,
                        }
                    },
                }
            },
        },
        {
            "quant_method": "torchao",
            "quant_type": {
                "default": {
                    "_type": "ModuleFqnToConfig",
                    "_data": {
                        "module_fqn_to_config": {
                            "_default": {"x": 1},
                            "model.layers.1.mlp.gate": {"x": 2},
                        }
                    },
                }
            },
        },
    ),
    (
        "quantization_config",
        {
            "quant_method": "quark",
            "layer_quant_config": {"*layers.3.mlp*": {"w": 1}},
            "exclude": ["model.layers.4.mlp.gate"],
        },
        {"quant_method": "quark", "layer_quant_config": {}, "exclude": ["model.layers.2.mlp.gate"]},
    ),
    (
        "quantization_config",
        {"quant_method": "fp8", "ignored_layers": ["model.layers.2.mlp.gate", "lm_head"]},
        {"quant_method": "fp8", "ignored_layers": ["model.layers.1.mlp.gate", "lm_head"]},
    ),
    (
        "quantization_config",
        {"llm_int8_skip_modules": ["model.layers.4.mlp.gate"], "modules_to_not_convert": None},
        {"llm_int8_skip_modules": ["model.layers.2.mlp.gate"], "modules_to_not_convert": None},
    ),
    (
        "quantization_config",
        {
            "modules_in_block_to_quantize": [["self_attn.q_proj"]],
            "block_name_to_quantize": "model.layers",
            "extra_config": {"model.layers.2.mlp.gate": {"bits": 16}},
        },
        {
            "modules_in_block_to_quantize": [["self_attn.q_proj"]],
            "block_name_to_quantize": "model.layers",
            "extra_config": {"model.layers.1.mlp.gate": {"bits": 16}},
        },
    ),
]


@pytest.mark.parametrize(("key", "value", "right"), ELSEWHERE)
def test_whatever_names_modules_by_number_is_renumbered_under_any_key(
    tmp_path: Path, key: str, value: Any, right: Any
) -> None:
    source = checkpoint(tmp_path / "a", "awq", {}, **{key: value})
    (tmp_path / "b").mkdir()
    write_pruned(open_checkpoint(source), (1, 3), tmp_path / "b")
    assert json.loads((tmp_path / "b" / "config.json").read_text())[key] == right


@pytest.mark.parametrize("name", ["quantization_config.json", "measurement.json", "bits.json"])
def test_a_file_beside_the_config_that_names_modules_is_renumbered(
    tmp_path: Path, name: str
) -> None:
    source = checkpoint(tmp_path / "a", "awq", {})
    found = {"tensor_storage": {f"model.layers.{block}.mlp.gate": {"b": block} for block in (2, 3)}}
    (source / name).write_text(json.dumps(found))
    (tmp_path / "b").mkdir()
    done = write_pruned(open_checkpoint(source), (1, 3), tmp_path / "b")
    new = json.loads((tmp_path / "b" / name).read_text())
    assert new == {"tensor_storage": {"model.layers.1.mlp.gate": {"b": 2}}}
    assert name in done.files


@pytest.mark.parametrize("pattern", ["(a|a)*b", "(a|aa)+!"])
def test_a_pattern_that_backtracks_without_end_is_refused(
    pattern: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module_names, "_PATIENCE", 0.05)
    names = [f"model.layers.{block}.{'a' * 60}.weight" for block in range(3)]
    modules = ModuleNames(names, "model.layers.", (0, 2))
    with pytest.raises(ModelError, match="does not come to an end"):
        modules.rename([rf"re:model\.layers\.[0-9]\.{pattern}"], "ignore")


def test_a_pattern_is_no_longer_than_a_name_may_be() -> None:
    modules = ModuleNames(["model.layers.0.w.weight"], "model.layers.", (0,))
    with pytest.raises(ModelError, match="cannot be renumbered"):
        modules.rename(["re:" + "(a?)" * 1_000], "ignore")


def test_a_tokenizer_keeps_tokens_that_look_like_modules(tmp_path: Path) -> None:
    source = checkpoint(tmp_path / "a", "awq", {})
    for name in ("tokenizer.json", "vocab.json", "added_tokens.json"):
        (source / name).write_text('{"model.layers.3.mlp.gate": 7}')
    cut(source, tmp_path / "b", 1)
    for name in ("tokenizer.json", "vocab.json", "added_tokens.json"):
        assert (tmp_path / "b" / name).read_text() == '{"model.layers.3.mlp.gate": 7}'


def test_modules_are_renumbered_in_the_language_models_section_too(tmp_path: Path) -> None:
    """And what is wrong with them in both is said once."""
    modules = ["model.layers.4.mlp.gate", "model.layers.4.mlp.nothing"]
    named = {"quantization_config": {"quant_method": "fp8", "ignored_layers": modules}}
    text = {"model_type": "llama", "num_hidden_layers": BLOCKS} | named
    source = checkpoint(tmp_path / "a", "awq", {}, model_type="llava", text_config=text, **named)
    (tmp_path / "b").mkdir()
    done = write_pruned(open_checkpoint(source), (1, 3), tmp_path / "b")
    config = json.loads((tmp_path / "b" / "config.json").read_text())
    for part in (config, config["text_config"]):
        listed = part["quantization_config"]["ignored_layers"]
        assert listed == ["model.layers.2.mlp.gate", "model.layers.2.mlp.nothing"]
    assert len(done.warnings) == 1
