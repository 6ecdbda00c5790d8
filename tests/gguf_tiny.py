"""Tiny GGUF files with random weights, written by the package `gguf` and not by this project."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter, quantize

from tiny import tiny_tokenizer

HIDDEN, FEED, HEADS = 32, 64, 2


def tiny_gguf(
    path: Path,
    architecture: str = "llama",
    blocks: int = 6,
    extra_blocks: int = 0,
    tokenizer: bool = False,
    alignment: int = 32,
    fields: Mapping[str, Any] | None = None,
    idle: Collection[int] = (),
    seed: int = 0,
    tables: Mapping[str, Sequence[float]] | None = None,
) -> Path:
    """Write a small model in Q8_0, with norms in F32.

    Args:
        path: Where.
        architecture: Of llama.cpp; the tensors are those of a llama, but for what `LAYOUTS` has.
        blocks: As `block_count` has it, less `extra_blocks`.
        extra_blocks: Layers beyond the blocks, counted in `block_count`.
        tokenizer: Put the tiny tokenizer into it, so that it can be loaded.
        alignment: Of the tensors.
        fields: More metadata, by key without the architecture: numbers, bools, strings, and lists.
            A list of feed-forward lengths sets the shapes, too.
        idle: Blocks that add nothing: what they write to the residual stream is zero.
        seed: Of the weights.
        tables: More tensors in F32, by name.
    """
    writer = GGUFWriter(path, architecture)
    if alignment != 32:
        writer.add_custom_alignment(alignment)
    writer.add_name("tiny")
    writer.add_block_count(blocks + extra_blocks)
    writer.add_context_length(128)
    writer.add_embedding_length(HIDDEN)
    extra = dict(fields or {})
    for key, value in {
        "feed_forward_length": FEED,
        "attention.head_count": HEADS,
        "attention.head_count_kv": HEADS,
    }.items():
        extra.setdefault(key, value)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(HIDDEN // HEADS)
    for key, value in extra.items():
        _add(
            writer, key if key.startswith(("xielu.", "split.")) else f"{architecture}.{key}", value
        )
    vocabulary = _add_tokenizer(writer) if tokenizer else 48
    generator = np.random.default_rng(seed)
    feed = extra["feed_forward_length"]
    lengths = feed if isinstance(feed, list) else [feed] * (blocks + extra_blocks)
    zero = {f"blk.{block}.{name}.weight" for block in idle for name in _WRITING}
    kinds = [HEADS] * len(lengths)
    if architecture == "lfm2":
        kinds = extra["attention.head_count_kv"]
    for name, shape in _tensors(architecture, lengths, kinds, vocabulary).items():
        array = generator.normal(0.0, 0.2, shape).astype(np.float32) * (name not in zero)
        if "norm" in name:
            writer.add_tensor(name, 1 + 0.2 * array)
        elif shape[-1] % 32 or len(shape) == 1:
            writer.add_tensor(name, array)
        else:
            packed = quantize(array, GGMLQuantizationType.Q8_0)
            writer.add_tensor(name, packed, raw_dtype=GGMLQuantizationType.Q8_0)
    for name, values in (tables or {}).items():
        writer.add_tensor(name, np.asarray(values, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add(writer: GGUFWriter, key: str, value: Any) -> None:
    if isinstance(value, list):
        writer.add_array(key, value)
    elif isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif key.startswith("split."):
        writer.add_uint16(key, value)
    else:
        writer.add_uint32(key, value)


def _add_tokenizer(writer: GGUFWriter) -> int:
    model = json.loads(tiny_tokenizer().backend_tokenizer.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token in ("<s>", "</s>") else 1 for token in tokens])
    writer.add_token_merges([" ".join(pair) for pair in model["merges"]])
    writer.add_bos_token_id(model["vocab"]["<s>"])
    writer.add_eos_token_id(model["vocab"]["</s>"])
    return len(tokens)


_WRITING = ("attn_output", "ffn_down", "ffn_down_exps", "shortconv.out_proj")
"""What writes to the residual stream."""

_QK_NORM = {"attn_q_norm.weight": (HIDDEN // HEADS,), "attn_k_norm.weight": (HIDDEN // HEADS,)}
_POST_NORM = {"post_attention_norm.weight": (HIDDEN,), "post_ffw_norm.weight": (HIDDEN,)}
_QKV = ("attn_q.weight", "attn_k.weight", "attn_v.weight")
_EXPERTS = 4

LAYOUTS: dict[str, tuple[Mapping[str, tuple[int, ...]], tuple[str, ...]]] = {
    "qwen2": ({f"attn_{part}.bias": (HIDDEN,) for part in "qkv"}, ()),
    "qwen3": (_QK_NORM, ()),
    "gemma2": (_POST_NORM, ()),
    "gemma3": (_POST_NORM | _QK_NORM, ()),
    "phi3": (
        {"attn_qkv.weight": (3 * HIDDEN, HIDDEN), "ffn_up.weight": (2 * FEED, HIDDEN)},
        (*_QKV, "ffn_gate.weight"),
    ),
    "apertus": (_QK_NORM, ("ffn_gate.weight",)),
    "qwen3moe": (
        _QK_NORM
        | {
            "ffn_gate_inp.weight": (_EXPERTS, HIDDEN),
            "ffn_gate_exps.weight": (_EXPERTS, FEED, HIDDEN),
            "ffn_up_exps.weight": (_EXPERTS, FEED, HIDDEN),
            "ffn_down_exps.weight": (_EXPERTS, HIDDEN, FEED),
        },
        ("ffn_gate.weight", "ffn_up.weight", "ffn_down.weight"),
    ),
    "lfm2": (_QK_NORM, ()),
}
"""By architecture: the tensors that a block has besides those of a llama, and those it lacks."""

_CONVOLUTION = {
    "shortconv.conv.weight": (HIDDEN, 3),
    "shortconv.in_proj.weight": (3 * HIDDEN, HIDDEN),
    "shortconv.out_proj.weight": (HIDDEN, HIDDEN),
}
"""What a block of lfm2 without key-value heads has in place of attention."""

_TIED = ("gemma", "gemma2")
"""Architectures whose output is their embedding, and no tensor of its own."""


def _tensors(
    architecture: str, lengths: Sequence[int], kinds: Sequence[int], vocabulary: int
) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (vocabulary, HIDDEN)}
    for block, (feed, heads) in enumerate(zip(lengths, kinds, strict=True)):
        for name, shape in _block(architecture, feed, heads).items():
            shapes[f"blk.{block}.{name}"] = shape
    norm = "token_embd_norm.weight" if architecture == "lfm2" else "output_norm.weight"
    shapes[norm] = (HIDDEN,)
    return shapes if architecture in _TIED else shapes | {"output.weight": (vocabulary, HIDDEN)}


def _block(architecture: str, feed: int, heads: int) -> dict[str, tuple[int, ...]]:
    more, lacks = LAYOUTS.get(architecture, ({}, ()))
    own: dict[str, tuple[int, ...]] = {
        "attn_norm.weight": (HIDDEN,),
        "attn_q.weight": (HIDDEN, HIDDEN),
        "attn_k.weight": (HIDDEN, HIDDEN),
        "attn_v.weight": (HIDDEN, HIDDEN),
        "attn_output.weight": (HIDDEN, HIDDEN),
        "ffn_norm.weight": (HIDDEN,),
        "ffn_gate.weight": (feed, HIDDEN),
        "ffn_up.weight": (feed, HIDDEN),
        "ffn_down.weight": (HIDDEN, feed),
        **more,
    }
    if architecture == "lfm2" and not heads:
        lacks = (*_QKV, "attn_output.weight", *_QK_NORM)
        own |= _CONVOLUTION
    return {name: shape for name, shape in own.items() if name not in lacks}
