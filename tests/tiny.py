"""Tiny random models of any architecture, with a tokenizer, built in memory.

Sizes are set by the names that configs use for them, so one list serves every architecture; what
a type needs beyond it is a row of `tiny_types`. Weights are drawn wide enough that every block
matters: at the usual initialisation, a cut model would compute nearly what the whole one does.
"""

from __future__ import annotations

import warnings
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
)

from tiny_types import EXTRA, VOCAB, WHOLE_WITH_PICTURES

_SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "n_embd": 32,
    "d_model": 32,
    "word_embed_proj_dim": 32,
    "intermediate_size": 48,
    "ffn_hidden_size": 48,
    "ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "n_inner": 48,
    "moe_intermediate_size": 24,
    "shared_expert_intermediate_size": 24,
    "shared_intermediate_size": 24,
    "num_attention_heads": 2,
    "decoder_attention_heads": 2,
    "n_head": 2,
    "num_heads": 2,
    "encoder_layers": 6,
    "num_encoder_layers": 6,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "kv_channels": 16,
    "vocab_size": VOCAB,
    "max_position_embeddings": 128,
    "n_positions": 128,
    "n_ctx": 128,
    "max_seq_len": 128,
    "sliding_window": 8,
    "attention_window": 8,
    "window_size": 8,
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "moe_num_experts": 4,
    "num_experts_per_tok": 2,
    "num_experts_per_token": 2,
    "moe_topk": 2,
    "n_shared_experts": 1,
    "n_group": 1,
    "topk_group": 1,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "v_head_dim": 16,
    "rotary_dim": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "pad_token_id": 0,
    "bos_token_id": 0,
    "eos_token_id": 1,
}

_VISION: dict[str, Any] = {
    "depth": 2,
    "num_layers": 2,
    "num_hidden_layers": 2,
    "num_blocks": 2,
    "image_size": 28,
    "patch_size": 14,
    "out_hidden_size": 32,
    "encoder_layers": 2,
    "encoder_ffn_dim": 48,
    "encoder_attention_heads": 2,
}
"""Sizes of towers for images and sound."""

_LANGUAGE = ("text_config", "decoder")
"""Sections that hold the language model; in others a count of layers is a tower's."""

_COUNTS = (
    "num_hidden_layers",
    "n_layer",
    "n_layers",
    "num_layers",
    "decoder_layers",
    "num_decoder_layers",
    "layers",
)

_TEXT = """
The river rises in the hills behind the town, where the old road crosses it by a bridge of grey
stone. In spring the water is high and brown; by late summer a child can wade from one bank to the
other. Most people in the town work at the mill, or did, before it closed, and they still tell the
time by a whistle that has not blown for twenty years. There was a plan, once, to turn the mill
into a school, and another to pull it down. Nothing came of either. The bridge is being repaired.
"""


def tiny_config(model_type: str, blocks: int = 6, **overrides: Any) -> Any:
    """A transformers config of the type, with tiny sizes.

    Args:
        model_type: As in `config.json`.
        blocks: How many blocks.
        **overrides: Fields set to other values than this module's.

    A test of a type that is newer than the installed transformers is skipped.
    """
    if model_type not in CONFIG_MAPPING:
        pytest.skip(f"this transformers does not know {model_type}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return CONFIG_MAPPING[model_type](**_arguments(model_type, blocks) | overrides)


def _arguments(model_type: str, blocks: int) -> dict[str, Any]:
    """What a type's config is made with; sections of it are made likewise."""
    cls = CONFIG_MAPPING[model_type]
    known = _fields(model_type)
    made = {name: value for name, value in _SIZES.items() if name in known}
    made |= {name: blocks for name in _COUNTS if name in known}
    for name in getattr(cls, "sub_configs", {}):
        section = _default(model_type).get(name)
        if not isinstance(section, dict):
            continue
        type_ = section.get("model_type", "")
        language = name in _LANGUAGE or type_ == model_type
        made[name] = {"model_type": type_} if type_ else {}
        if type_ in CONFIG_MAPPING and type_ != model_type:
            made[name] |= _arguments(type_, blocks if language else 2)
        else:
            tokens = (
                () if type_ in CONFIG_MAPPING else ("pad_token_id", "bos_token_id", "eos_token_id")
            )
            made[name] |= {k: v for k, v in _SIZES.items() if k in section and k not in tokens}
        if not language:
            made[name] |= {k: v for k, v in _VISION.items() if k in section}
    extra = EXTRA.get(model_type, {})
    sections = {k: made[k] | v for k, v in extra.items() if isinstance(made.get(k), dict)}
    return made | extra | sections


@cache
def _default(model_type: str) -> dict[str, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return CONFIG_MAPPING[model_type]().to_dict()


@cache
def _fields(model_type: str) -> frozenset[str]:
    """The fields that a type's config has, under the names it keeps them by."""
    cls = CONFIG_MAPPING[model_type]
    aliases = getattr(cls, "attribute_map", {})
    found = {*_default(model_type), *getattr(cls, "__dataclass_fields__", {})}
    return frozenset(found - set(aliases))


def model_class(model_type: str) -> Any:
    """The automatic class that makes the whole of a type's model."""
    causal, images = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
    if model_type in WHOLE_WITH_PICTURES or (model_type not in causal and model_type in images):
        return transformers.AutoModelForImageTextToText
    multimodal = getattr(transformers, "AutoModelForMultimodalLM", None)
    if (
        model_type not in causal
        and multimodal is not None
        and CONFIG_MAPPING[model_type] in (multimodal._model_mapping)
    ):
        return multimodal
    return transformers.AutoModelForCausalLM


def tiny_model(
    model_type: str = "llama",
    blocks: int = 6,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    **overrides: Any,
) -> Any:
    """A causal language model with random weights in which every block matters, in eval mode.

    Args:
        model_type: As in `config.json`.
        blocks: How many blocks.
        seed: Of the weights.
        dtype: Of the weights.
        **overrides: Config fields.
    """
    config = tiny_config(model_type, blocks, **overrides)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = model_class(model_type).from_config(config).eval()
    return draw_weights(model, seed).to(dtype)


def draw_weights(model: Any, seed: int = 0) -> Any:
    """Give a model random weights with which every block matters."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            if not parameter.is_floating_point():
                continue
            noise = torch.empty(parameter.shape).normal_(0.0, 0.2, generator=generator)
            if parameter.dim() < 2 or "norm" in name:
                # Gains and biases stay near what the architecture initialises them to.
                parameter.add_(0.2 * noise)
            else:
                parameter.copy_(noise)
    return model


@cache
def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of about 300 tokens, with `<s>` and `</s>`."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([_TEXT], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        clean_up_tokenization_spaces=False,
    )


def save_tiny(
    folder: Path,
    model_type: str = "llama",
    blocks: int = 6,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    tokenizer: bool = True,
    max_shard_size: str = "5GB",
    **overrides: Any,
) -> Path:
    """Save a tiny model as a checkpoint folder.

    Args:
        folder: Where; it is made.
        model_type: As in `config.json`.
        blocks: How many blocks.
        seed: Of the weights.
        dtype: Of the weights.
        tokenizer: Save the tiny tokenizer beside it.
        max_shard_size: As `save_pretrained` takes it, such as `"20KB"`.
        **overrides: Config fields.

    Returns:
        The folder.
    """
    model = tiny_model(model_type, blocks, seed, dtype, **overrides)
    model.save_pretrained(folder, max_shard_size=max_shard_size)
    if tokenizer:
        tiny_tokenizer().save_pretrained(folder)
    return folder


RIVER = "the river rises in the hills behind the town where the old road crosses it by a bridge "


def save_text(file: Path, words: int = 3000) -> Path:
    """Write the words of `RIVER` in a drawn order, the same at each call."""
    drawn = np.random.default_rng(0).choice(RIVER.split(), words)
    file.write_text(" ".join(drawn), encoding="utf-8")
    return file


def linked_as_by_a_hub(folder: Path, cache: Path) -> Path:
    """A snapshot in a hub's cache: links to blobs, which hold what a folder's files hold."""
    snapshot, blobs = (cache / "models--a--b" / name for name in ("snapshots/0", "blobs"))
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for path in folder.iterdir():
        (blobs / f"of-{path.name}").write_bytes(path.read_bytes())
        (snapshot / path.name).symlink_to(f"../../blobs/of-{path.name}")
    return snapshot
