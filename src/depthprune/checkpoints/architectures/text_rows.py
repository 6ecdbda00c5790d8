"""The table of architectures of text: one row a model type, each verified row proved by a test.

To add a type, add its name to `_BY_FIELD` if the rules for fields are enough, else a row. The test
builds a tiny model of it, cuts it and compares logits, and finds by itself any list that the
config class derives from a block's number and no pattern here writes out.
"""

from __future__ import annotations

from dataclasses import replace

from depthprune.checkpoints.architectures.schema import (
    Architecture,
    Cycle,
    PackedTensor,
    Pattern,
    Phase,
    Prefix,
    RequiredList,
    RequiredType,
)

_BY_FIELD = """
apertus arcee aria_text bamba biogpt bitnet cohere cohere_compass_text dbrx deepseek_v2 doge
ernie4_5 exaone falcon falcon_h1 falcon_mamba flex_olmo gemma glm glm4 gpt_neox granite granitemoe
granitemoehybrid granitemoeshared helium hunyuan_v1_dense hunyuan_v1_moe hyperclovax internlm3
iquestcoder jais2 jetmoe lfm2 llama mamba mamba2 mellum minimax_m2 minimax_m3_vl_text
ministral ministral3 mistral mixtral moshi nanochat nemotron nemotron_h olmo olmo2 olmoe opt
persimmon phi phi3 phimoe qwen3_moe seed_oss solar_open stablelm starcoder2 xlstm youtu
"""
"""Types for which the rules for fields say everything."""

_N_LAYER = "bloom codegen ctrl gpt2 gpt-sw3 gpt_bigcode gptj"
"""The same, with the count in `n_layer`."""

_DECODER_LAYERS = """
bart bigbird_pegasus blenderbot blenderbot-small marian mbart mvp pegasus plbart trocr whisper
"""
"""Decoders of encoder-decoders, with the count in `decoder_layers`; the encoder is left alone."""

_BERT = """
bert bert-generation big_bird camembert data2vec-text electra ernie megatron-bert rembert roberta
roberta-prelayernorm roc_bert roformer xlm-roberta xlm-roberta-xl xmod
"""
"""Encoders that are decoders where `is_decoder` is set; a block is the same in both."""

_TIES = "its blocks share weights or caches by position"
_DRAFTS = "it drafts tokens from the states and caches of another model, and is none by itself"
_SOUND = "it makes sound from text with three models; none takes its config as a language model"
_SHARED_KV = "with num_kv_shared_layers, blocks read others' keys and values"
_SHARED_INDEX = "with shared entries in indexer_types, blocks pass on what they index"
_HASH = "its embeddings of token groups are hashed by a number that follows the block's place"
_CACHE = "in transformers even the uncut model generates otherwise with a cache than without"
_DEPTH = "each block computes with its own number or with the depth of the whole model"

_GROUPS = "each block attends over outputs of groups of blocks by place"

_LEADING_DENSE = Prefix("mlp_layer_types", "first_k_dense_replace", default=1)
_PER_LAYER = (
    PackedTensor("embed_tokens_per_layer.weight", axis=1),
    PackedTensor("per_layer_model_projection.weight", axis=0),
    # As transformers 4.56 names the same tensor when it saves a model.
    PackedTensor("per_layer_model.language_model_projection.weight", axis=0),
)
_LAST_FULL = RequiredType(
    "last", "full_attention", "its config class makes the last block one", forced=True
)

ROWS: tuple[Architecture, ...] = (
    *(Architecture(name) for name in _BY_FIELD.split()),
    *(Architecture(name, count="n_layer") for name in _N_LAYER.split()),
    *(Architecture(name, count="decoder_layers") for name in _DECODER_LAYERS.split()),
    *(Architecture(name) for name in _BERT.split()),
    Architecture("openai-gpt", count="n_layer"),
    Architecture(
        "gpt_neo",
        count="num_layers",
        defaults={"attention_types": [[["global", "local"], 12]]},
    ),
    *(
        Architecture(name, defaults={"first_k_dense_replace": count})
        for name, count in {
            "axk2": 1,
            "deepseek_v3": 3,
            "deepseek_v32": 3,
            "glm4_moe": 1,
            "sarvam_mla": 1,
            "sarvam_moe": 1,
        }.items()
    ),
    Architecture("dots1", defaults={"max_window_layers": 62}),
    Architecture("ernie4_5_moe", defaults={"moe_layer_start_index": 1}),
    Architecture("qwen2", defaults={"max_window_layers": 28}),
    Architecture("qwen3", defaults={"max_window_layers": 28}),
    Architecture("minicpm3", defaults={"scale_depth": 1.4}),
    Architecture("mpt", count="n_layers"),
    Architecture("xglm", count="num_layers"),
    Architecture(
        "afmoe",
        patterns=(Pattern("layer_types", "global_attn_every_n_layers", default=4),),
        defaults={"num_dense_layers": 1},
    ),
    Architecture(
        "cohere2", patterns=(Pattern("layer_types", "sliding_window_pattern", default=4),)
    ),
    Architecture(
        "cohere2_moe", needs=(RequiredList("layer_types"), RequiredList("mlp_layer_types"))
    ),
    Architecture("cwm", patterns=(Pattern("layer_types", 4, offset=0),)),
    Architecture(
        "exaone4",
        defaults={"sliding_window": 4096},
        patterns=(
            Pattern("layer_types", "sliding_window_pattern", default=4, when="sliding_window"),
        ),
    ),
    Architecture(
        "exaone_moe",
        defaults={"first_k_dense_replace": 1, "sliding_window": 4096},
        patterns=(
            Pattern("layer_types", "sliding_window_pattern", default=4, when="sliding_window"),
        ),
    ),
    Architecture(
        "flint",
        patterns=(Prefix("mlp_only_layers", 2, indices=True),),
        needs=(RequiredList("layer_types"),),
    ),
    Architecture("gemma2", patterns=(Pattern("layer_types", 2),)),
    Architecture(
        "gemma3_text", patterns=(Pattern("layer_types", "sliding_window_pattern", default=6),)
    ),
    *(
        Architecture(
            name,
            patterns=(_LEADING_DENSE, *patterns),
            needs=needs,
            why=_SHARED_INDEX if name == "hy_v4" else "",
        )
        for name, patterns, needs in (
            ("axk1", (), ()),
            (
                "kimi_linear",
                (),
                (RequiredList("layer_types", unless="linear_attn_config.full_attn_layers"),),
            ),
            ("hy_v4", (), (RequiredList("indexer_types"),)),
            ("mimo_v2_flash", (Pattern("layer_types", 6, also=(0,)),), ()),
        )
    ),
    Architecture(
        "dots3_note_text",
        patterns=(replace(_LEADING_DENSE, flags="moe_layer_freq"),),
        needs=(RequiredList("layer_types"),),
    ),
    Architecture(
        "bailing_hybrid",
        patterns=(
            Pattern("layer_types", "layer_group_size", usual="linear_attention", default=6),
            Prefix("mlp_layer_types", "first_k_dense_replace", default=2),
        ),
        defaults={"first_k_dense_replace": 2},
    ),
    Architecture(
        "deepseek_v4",
        patterns=(Prefix("mlp_layer_types", "num_hash_layers", "hash_moe", "moe", default=3),),
        needs=(RequiredList("layer_types", unless="compress_ratios"),),
    ),
    Architecture(
        "glm_moe_dsa",
        patterns=(Prefix("mlp_layer_types", "first_k_dense_replace", default=3),),
        needs=(RequiredList("indexer_types", when="index_topk_freq", unless="index_topk_pattern"),),
        why=_SHARED_INDEX,
        defaults={"first_k_dense_replace": 3},
    ),
    Architecture(
        "inkling_text",
        patterns=(
            Pattern(
                "layer_types", 6, special="hybrid", usual="hybrid_sliding", unless="local_layer_ids"
            ),
            Prefix("mlp_layer_types", "dense_mlp_idx"),
        ),
    ),
    Architecture(
        "gemma4_text",
        patterns=(Pattern("layer_types", 6),),
        places=(_LAST_FULL,),
        packed=_PER_LAYER,
        why=_SHARED_KV,
    ),
    Architecture(
        "gemma4_unified_text", patterns=(Pattern("layer_types", 6),), places=(_LAST_FULL,)
    ),
    Architecture(
        "gemma3n_text",
        patterns=(Pattern("layer_types", 5),),
        needs=(RequiredList("activation_sparsity_pattern"),),
        defaults={"num_kv_shared_layers": 15},
        packed=_PER_LAYER,
        why="blocks work on several streams of states at once",
    ),
    Architecture(
        "longcat_flash", count="num_layers", why="a block is two layers of attention and experts"
    ),
    Architecture("xlnet", count="n_layer", why="states have the length before the batch"),
    Architecture(
        "zaya", keep=(0,), why="the first block alone takes no routing from the one before"
    ),
    Architecture(
        "jamba",
        phases=(
            Phase("attn_layer_period", "attn_layer_offset", (8, 4), "attention", "mamba"),
            Phase(
                "expert_layer_period",
                "expert_layer_offset",
                (2, 1),
                "experts",
                "dense",
                unless_1="num_experts",
            ),
        ),
    ),
    Architecture("glm4_moe_lite", patterns=(Prefix("mlp_layer_types", 1),)),
    Architecture("gpt_oss", patterns=(Pattern("layer_types", 2),)),
    Architecture("granite_swa", patterns=(Pattern("layer_types", 4, offset=0),)),
    Architecture("granitemoe_swa", patterns=(Pattern("layer_types", 4, offset=0),)),
    Architecture("hy_v3", patterns=(Prefix("mlp_layer_types", 1),)),
    Architecture("kolibri1", patterns=(Pattern("layer_types", 5),)),
    Architecture("laguna", patterns=(Prefix("mlp_layer_types", 1),)),
    Architecture(
        "lara_mini",
        patterns=(
            Cycle(
                "layer_types",
                (
                    "linear_attention",
                    "sliding_attention",
                    "linear_attention",
                    "full_attention",
                    "sliding_attention",
                ),
            ),
        ),
    ),
    Architecture(
        "lfm2_moe", needs=(RequiredList("layer_types"),), defaults={"num_dense_layers": 2}
    ),
    Architecture("lfm3", needs=(RequiredList("layer_types"),)),
    Architecture(
        "llama4_text",
        patterns=(
            Pattern("no_rope_layers", "no_rope_layer_interval", special=0, usual=1, default=4),
            Pattern("moe_layers", "interleave_moe_layer_step", indices=True),
        ),
    ),
    Architecture(
        "minimax",
        patterns=(Pattern("layer_types", 2, special="linear_attention", usual="full_attention"),),
        places=(
            RequiredType("first", "full_attention", "its cache counts tokens in the first block"),
        ),
        stored=("slope_rate", "query_decay", "key_decay", "diagonal_decay"),
    ),
    Architecture(
        "modernbert-decoder",
        patterns=(Pattern("layer_types", "global_attn_every_n_layers", default=3, offset=0),),
        keep=(0,),
        why="the first block alone has no norm before its attention",
    ),
    Architecture(
        "gpt_neox_japanese", keep=(-1,), why="the last block alone has a bias after its attention"
    ),
    Architecture(
        "olmo_hybrid",
        needs=(RequiredList("layer_types"),),
        places=(RequiredType("some", "linear_attention", "its config class asks for one"),),
    ),
    Architecture("olmo3", patterns=(Pattern("layer_types", 4),)),
    Architecture(
        "qwen2_moe",
        needs=(RequiredList("layer_types", when="use_sliding_window"),),
        defaults={"max_window_layers": 28},
    ),
    Architecture(
        "recurrent_gemma",
        patterns=(Cycle("block_types", ("recurrent", "recurrent", "attention")),),
    ),
    *(
        Architecture(
            name,
            patterns=(
                Pattern(
                    "layer_types", "full_attention_interval", usual="linear_attention", default=4
                ),
            ),
        )
        for name in ("qwen3_next", "qwen3_5_text", "qwen3_5_moe_text")
    ),
    Architecture(
        "smollm3",
        patterns=(
            Pattern("no_rope_layers", "no_rope_layer_interval", special=0, usual=1, default=4),
        ),
    ),
    Architecture("vaultgemma", patterns=(Pattern("layer_types", 2),)),
    *(
        Architecture(name, status="refused", why=why)
        for name, why in {
            "beam": _DEPTH,
            "diffllama": _DEPTH,
            "hrm_text": _DEPTH,
            "rwkv": _DEPTH,
            "blt": "three stacks of blocks share the work on bytes and patches of bytes",
            "cpmant": _CACHE,
            "dory": "its middle blocks are run several times over",
            "inkling2_loop_text": _GROUPS,
            "inkling2_text": _GROUPS,
            "prophetnet": _CACHE,
            "xlm": "its attention and its feed-forward stand in lists of their own, not in blocks",
            "qwen4_exp_text": _HASH,
            "reformer": "its blocks are reversible: each is given two streams and returns two",
            "zamba": _TIES,
            "zamba2": _TIES,
        }.items()
    ),
    *(
        Architecture(name, status="not a decoder", why=why)
        for name, why in {
            "gemma4_assistant": _DRAFTS,
            "gemma4_unified_assistant": _DRAFTS,
            "musicgen": _SOUND,
            "musicgen_melody": _SOUND,
        }.items()
    ),
)
