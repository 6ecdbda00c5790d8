"""What each architecture needs to be built tiny, beyond the sizes that all share: test data."""

from __future__ import annotations

from typing import Any

from tiny_multimodal import MULTIMODAL
from versions import OLD

_MLA = {"head_dim": 8, "q_lora_rank": 16}
"""DeepSeek's attention: `head_dim` means the rotary part there."""

_MAMBA = {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8, "mamba_expand": 2}

VOCAB = 320

_GEMMA4 = {
    "global_head_dim": 32,
    "layer_types": ["sliding_attention", "full_attention"] * 3,
}
_DSA = {
    "head_dim": 8,
    "index_topk": 20,
    "index_head_dim": 16,
    "index_n_heads": 2,
    "mlp_layer_types": ["dense", "dense", "sparse", "sparse", "sparse", "sparse"],
    "indexer_types": ["full", "shared", "full", "full", "shared", "shared"],
}
_INKLING = {
    "head_dim": 16,
    "swa_num_attention_heads": 4,
    "swa_num_key_value_heads": 2,
    "swa_head_dim": 8,
    "sliding_window_size": 8,
    "d_rel": 4,
    "rel_extent": 16,
    "unpadded_vocab_size": VOCAB,
    "layer_types": ["hybrid_sliding", "hybrid_sliding", "hybrid"] * 2,
}

_ENCODERS = """
bert bert-generation big_bird camembert data2vec-text electra ernie megatron-bert rembert roberta
roberta-prelayernorm roc_bert roformer xlm-roberta xlm-roberta-xl xmod
"""

_MAMBA_LAYER, _ATTENTION = ("mamba", "attention") if OLD else ("linear_attention", "full_attention")

EXTRA: dict[str, dict[str, Any]] = MULTIMODAL | {
    "axk1": _MLA,
    **{name: {"is_decoder": True} for name in _ENCODERS.split()},
    "bamba": _MAMBA | {"attn_layer_indices": [1, 4]},
    "codegen": {"n_head": 4, "rotary_dim": 8},
    "deepseek_v3": _MLA | {"first_k_dense_replace": 2},
    "ernie4_5_moe": {"moe_k": 2},
    "gpt_neo": {"attention_types": [[["global", "local"], 3]]},
    "lfm2_moe": {"layer_types": ["conv", "conv", "full_attention"] * 2},
    "minicpm3": {"scale_depth": 1.4},
    "qwen2": {"use_sliding_window": True, "max_window_layers": 3},
    "qwen2_moe": {"decoder_sparse_step": 2, "mlp_only_layers": [1]},
    "qwen3_moe": {"decoder_sparse_step": 2},
    "xmod": {"is_decoder": True, "languages": ["en_XX"], "default_language": "en_XX"},
    "roc_bert": {
        "is_decoder": True,
        "enable_pronunciation": False,
        "enable_shape": False,
    },
    "bailing_hybrid": {
        "head_dim": 16,
        "qk_rope_head_dim": 8,
        "layer_group_size": 3,
        "num_expert_group": 1,
        "topk_group": 1,
        "num_experts_per_token": 2,
    },
    "cohere_compass_text": {
        "layer_types": ["sliding_attention", "sliding_attention", "full_attention"] * 2,
        "rope_parameters": {
            "full_attention": {"rope_type": "default", "rope_theta": 10000.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
        },
    },
    "cpmant": {
        "dim_ff": 48,
        "dim_head": 16,
        "prompt_types": 4,
        "prompt_length": 4,
        "segment_types": 4,
    },
    "dbrx": {
        "n_heads": 2,
        "attn_config": {"kv_n_heads": 2, "clip_qkv": 8.0, "rope_theta": 10000.0},
        "ffn_config": {
            "ffn_hidden_size": 48,
            "moe_num_experts": 4,
            "moe_top_k": 2,
            "hidden_size": 32,
        },
    },
    "deepseek_v4": {
        "head_dim": 16,
        "index_n_heads": 2,
        "index_head_dim": 16,
        "index_topk": 20,
        "o_groups": 2,
        "o_lora_rank": 8,
        "hc_mult": 2,
        "compress_rates": {"compressed_sparse_attention": 4, "heavily_compressed_attention": 8},
        "num_key_value_heads": 1,
        "partial_rotary_factor": 0.5,
    },
    "dots3_note_text": _MLA
    | {
        "index_topk": 20,
        "index_head_dim": 16,
        "index_n_heads": 2,
        "swa_num_attention_heads": 4,
        "swa_num_key_value_heads": 4,
        "swa_q_lora_rank": 16,
        "swa_kv_lora_rank": 8,
        "swa_head_dim": 16,
        "swa_qk_nope_head_dim": 8,
        "swa_v_head_dim": 8,
        "shared_experts_intermediate_size": 24,
    },
    "falcon_h1": _MAMBA | {"mamba_d_ssm": 64},
    "granitemoehybrid": _MAMBA | {"layer_types": [_MAMBA_LAYER, _MAMBA_LAYER, _ATTENTION] * 2},
    "gemma4_text": _GEMMA4
    | {
        "vocab_size_per_layer_input": VOCAB,
        "hidden_size_per_layer_input": 8,
        "num_kv_shared_layers": 2,
        "use_double_wide_mlp": True,
    },
    "gemma4_unified_text": _GEMMA4,
    "glm_moe_dsa": _DSA,
    "hy_v4": _DSA | {"hc_mult": 2},
    "inkling2_text": _INKLING | {"n_layers_per_attn_res_block": 3},
    "inkling_text": _INKLING,
    "kimi_linear": {
        "linear_head_dim": 16,
        "linear_num_heads": 2,
        "q_lora_rank": None,
        "head_dim": 8,
        "layer_types": ["linear_attention", "linear_attention", "full_attention"] * 2,
        "model_max_length": 128,
    },
    "mamba2": {"num_heads": 4, "head_dim": 16, "state_size": 8, "n_groups": 1, "chunk_size": 8},
    "mimo_v2_flash": {
        "num_attention_heads": 4,
        "v_head_dim": 8,
        "rope_parameters": {
            "full_attention": {
                "rope_type": "default",
                "rope_theta": 5000000.0,
                "partial_rotary_factor": 0.5,
            },
            "sliding_attention": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "partial_rotary_factor": 0.5,
            },
        },
    },
    "nemotron_h": {
        "layers_block_type": ["linear_attention", "moe", "full_attention", "mlp"] * 2,
        "mamba_num_heads": 4,
        "mamba_head_dim": 16,
        "ssm_state_size": 8,
        "n_groups": 1,
        "chunk_size": 8,
        "moe_shared_expert_intermediate_size": 24,
    },
    "olmo_hybrid": {
        "linear_key_head_dim": 8,
        "linear_value_head_dim": 16,
        "layer_types": ["linear_attention", "linear_attention", "full_attention"] * 2,
    },
    "qwen4_exp_text": {
        "indexer_n_heads": 2,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 16,
        "indexer_budget": 8,
        "indexer_compress_ratio": 4,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 2,
        "linear_key_head_dim": 16,
        "linear_value_head_dim": 16,
        "hc_count": 2,
        "hc_lowrank": 8,
        "ple_layer_ids": [1, 4],
        "ple_embed_dim": 16,
        "ngram_vocab_size_base": 200,
        "make_ngram_vocab_size_divisible_by": 8,
        "split_ngram_parts": 1,
        "heads_per_ngram": 2,
        "layer_types": ["linear_attention", "linear_attention", "indexed_attention"] * 2,
    },
    "reformer": {
        "is_decoder": True,
        "attn_layers": ["local", "lsh", "local"] * 2,
        "axial_pos_shape": [8, 16],
        "axial_pos_embds_dim": [16, 16],
        "feed_forward_size": 48,
        "attention_head_size": 16,
        "local_attn_chunk_length": 8,
        "lsh_attn_chunk_length": 8,
        "num_buckets": 4,
        "hash_seed": 0,
    },
    "xlm": {"emb_dim": 32, "n_heads": 2, "n_words": VOCAB, "causal": True},
    "xlnet": {"d_inner": 48},
    "zaya": {
        "num_experts_per_tok": 1,
        "router_hidden_size": 16,
        "layer_types": ["hybrid", "hybrid_sliding"] * 3,
    },
    "moshi": {"sliding_window": 64},
    "gemma3n_text": {
        "vocab_size_per_layer_input": VOCAB,
        "hidden_size_per_layer_input": 8,
        "num_kv_shared_layers": 2,
        "laurel_rank": 8,
        "layer_types": ["sliding_attention", "full_attention"] * 3,
        "intermediate_size": [48, 32, 48, 48, 32, 48],
        "activation_sparsity_pattern": [0.9, 0.9, 0.0, 0.0, 0.0, 0.0],
    },
    "longcat_flash": {
        "expert_ffn_hidden_size": 24,
        "zero_expert_num": 2,
        "num_layers": 6,
        "head_dim": 8,
    },
    "emu3": {
        "image_token_id": 300,
        "vq_config": {
            "embed_dim": 4,
            "base_channels": 32,
            "channel_multiplier": [1, 1],
            "num_res_blocks": 1,
            "codebook_size": 16,
        },
        "vocabulary_map": {"<image>": 300},
    },
    "fuyu": {"image_token_id": 300, "patch_size": 4},
    "gemma3": {"mm_tokens_per_image": 4, "image_token_index": 300},
    "gemma4": {"image_token_id": 300},
    "git": {"vocab_size": VOCAB},
    "got_ocr2": {"image_token_index": 300},
    "llama4": {
        "image_token_index": 300,
        "vision_config": {
            "projector_input_dim": 32,
            "projector_output_dim": 32,
            "vision_output_dim": 32,
            "pixel_shuffle_ratio": 0.5,
            "intermediate_size": 128,
        },
    },
    "mllama": {"image_token_index": 300, "text_config": {"cross_attention_layers": [1, 4]}},
    "qwen3_5": {
        "image_token_id": 300,
        "video_token_id": 301,
        "vision_start_token_id": 302,
        "vision_end_token_id": 303,
    },
    "qwen3_5_moe": {
        "image_token_id": 300,
        "video_token_id": 301,
        "vision_start_token_id": 302,
        "vision_end_token_id": 303,
    },
    "dots3_note": {
        "vision_config": {
            "num_hidden_layers": 2,
            "mlp_layer_types": ["dense", "dense"],
            "per_layer_config": {},
            "adapter_in_dim": 32,
            "adapter_out_dim": 32,
        },
        "audio_config": {
            "adapter_input_size": 32,
            "adapter_output_size": 32,
            "adapter_hidden_size": 32,
            "downsample_hidden_size": 8,
        },
    },
    "xlstm": {"hidden_size": 64, "qk_dim_factor": 1.0},
    "youtu": _MLA,
}
"""What a type needs beyond its sizes, by model type, written for six blocks."""

WHOLE_WITH_PICTURES = frozenset(
    {"dots3_note", "emu3", "llama4", "mllama", "qwen3_5", "qwen3_5_moe"}
)
"""Types whose whole model the class for pictures makes, and that for causal models a part."""

CROSS_ATTENTION = {"mllama": "cross_attention_states"}
"""Types with blocks that read a picture, and the argument that brings it."""
