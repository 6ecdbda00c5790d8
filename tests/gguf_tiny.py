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
) -> Path:
    """Write a small model in Q8_0, with norms in F32.

    Args:
        path: Where.
        architecture: Of llama.cpp; the tensors are those of a llama.
        blocks: As `block_count` has it, less `extra_blocks`.
        extra_blocks: Layers beyond the blocks, counted in `block_count`.
        tokenizer: Put the tiny tokenizer into it, so that it can be loaded.
        alignment: Of the tensors.
        fields: More metadata, by key without the architecture: numbers, bools, and lists. A list
            of feed-forward lengths sets the shapes, too.
        idle: Blocks that add nothing: what they write to the residual stream is zero.
        seed: Of the weights.
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
    zero = {f"blk.{block}.{name}.weight" for block in idle for name in ("attn_output", "ffn_down")}
    for name, shape in _tensors(lengths, vocabulary).items():
        array = generator.normal(0.0, 0.2, shape).astype(np.float32) * (name not in zero)
        if "norm" in name:
            writer.add_tensor(name, 1 + 0.2 * array)
        else:
            packed = quantize(array, GGMLQuantizationType.Q8_0)
            writer.add_tensor(name, packed, raw_dtype=GGMLQuantizationType.Q8_0)
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


def _tensors(lengths: Sequence[int], vocabulary: int) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (vocabulary, HIDDEN)}
    for block, feed in enumerate(lengths):
        for name, shape in {
            "attn_norm": (HIDDEN,),
            "attn_q": (HIDDEN, HIDDEN),
            "attn_k": (HIDDEN, HIDDEN),
            "attn_v": (HIDDEN, HIDDEN),
            "attn_output": (HIDDEN, HIDDEN),
            "ffn_norm": (HIDDEN,),
            "ffn_gate": (feed, HIDDEN),
            "ffn_up": (feed, HIDDEN),
            "ffn_down": (HIDDEN, feed),
        }.items():
            shapes[f"blk.{block}.{name}.weight"] = shape
    return shapes | {"output_norm.weight": (HIDDEN,), "output.weight": (vocabulary, HIDDEN)}
