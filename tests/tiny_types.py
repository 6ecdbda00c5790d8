"""What each architecture needs to be built tiny, beyond the sizes that all share: test data."""

from __future__ import annotations

from typing import Any

_MLA = {"head_dim": 8, "q_lora_rank": 16}
"""DeepSeek's attention: `head_dim` means the rotary part there."""

_MAMBA = {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8, "mamba_expand": 2}

_ENCODERS = """
bert bert-generation big_bird camembert data2vec-text electra ernie megatron-bert rembert roberta
roberta-prelayernorm roc_bert roformer xlm-roberta xlm-roberta-xl xmod
""".split()

EXTRA: dict[str, dict[str, Any]] = {
    "axk1": _MLA,
    **dict.fromkeys(_ENCODERS, {"is_decoder": True}),
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
    "youtu": _MLA,
}
"""What a type needs beyond its sizes, by model type, written for six blocks."""

MODEL_CLASSES: dict[str, str] = {}
"""Types whose whole model is made by another automatic class than the causal language model's."""
