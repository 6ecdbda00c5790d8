"""What models of several modalities need to be built tiny: test data, as in `tiny_types`."""

from __future__ import annotations

from typing import Any

from versions import OLD


def _mrope(*section: int, **more: Any) -> dict[str, Any]:
    """Settings of rotary positions in three axes, as transformers 5 and 4 call them."""
    old = {"type": "mrope", "rope_type": "default", "mrope_section": list(section)}
    new = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": list(section)} | more
    return {"rope_parameters": new, "rope_scaling": old} if OLD else {"rope_parameters": new}


_KOSMOS = {"embed_dim": 32, "ffn_dim": 48, "attention_heads": 2, "max_position_embeddings": 128}
_SIGLIP = {
    "model_type": "siglip_vision_model",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
# Their cache would slide where a window is set, and their masks know of none.
_SPARSE = {"decoder_sparse_step": 2, "mlp_only_layers": [], "sliding_window": None}
_SOUND = {"num_filters": 4, "downsampling_ratios": [2, 2], "depths": [1, 1, 1]}
_IMAGE = {"image_token_id": 300}
_INDEX = {"image_token_index": 300}
_QWEN = {
    "image_token_id": 300,
    "video_token_id": 301,
    "vision_start_token_id": 302,
    "vision_end_token_id": 303,
}
_OMNI = _QWEN | {"audio_token_id": 304, "audio_start_token_id": 305}
_VQ = {
    "embed_dim": 4,
    "base_channels": 32,
    "channel_multiplier": [1, 1],
    "num_res_blocks": 1,
    "num_embeddings": 16,
}

MULTIMODAL: dict[str, dict[str, Any]] = {
    "apertus1p5": {
        "image_token_id": 300,
        "audio_token_id": 301,
        "image_token_offset": 100,
        "audio_token_offset": 116,
        "vision_config": {"codebook_size": 16},
        "audio_config": {"codebook_size": 16, "codebook_dim": 32},
    },
    "aria": _INDEX,
    "aya_vision": _INDEX,
    "chameleon": {"vocabulary_map": {"<image>": 300}, "vq_config": _VQ},
    "cohere2_vision": _IMAGE,
    "cohere_compass": _QWEN | {"vision_config": {"deepstack_visual_indexes": [0, 1]}},
    "cosmos3_edge": _QWEN,
    "cosmos3_edge_text": _mrope(2, 3, 3),
    "cosmos3_omni": _QWEN | {"vision_config": {"deepstack_visual_indexes": [0, 1]}},
    "deepseek_ocr2_text": {"mlp_layer_types": ["dense", *["sparse"] * 5]},
    "ernie4_5_vl_moe_text": _mrope(3, 3, 2)
    | {"moe_intermediate_size": [24, 24], "moe_num_experts": 4, "moe_k": 2},
    "fast_vlm": {"vision_config": _SIGLIP},
    "fun_asr_nano": {"adaptor_config": {"hidden_size": 32, "intermediate_size": 8}},
    "glm46v": _QWEN,
    "glm4v": _QWEN,
    "glm4v_moe": _QWEN,
    "glm4v_moe_text": _mrope(1, 1, 2, partial_rotary_factor=0.5) | {"n_routed_experts": 4},
    "glm4v_text": _mrope(2, 3, 3),
    "glm5_next": {"vision_config": {"projection_intermediate_size": 48}},
    "glm5_next_text": {
        "linear_head_dim": 16,
        "linear_num_heads": 2,
        "hc_mult": 2,
        "qk_rope_head_dim": 0,
        "head_dim": 0,
        "index_topk": 8,
        "index_kpool": 4,
        "index_head_dim": 16,
        "index_n_heads": 2,
        "indexer_types": ["full", "shared", "full", "full", "shared", "shared"],
        "mlp_layer_types": ["dense", "dense", "sparse", "sparse", "sparse", "sparse"],
    },
    "glm_ocr": _QWEN,
    "glm_ocr_text": _mrope(2, 3, 3),
    "glmga": _QWEN,
    "granite_docling": {"vision_config": {"deepstack_visual_indexes": [0, 1]}},
    "hunyuan_vl_text": _mrope(2, 2, 2, 2),
    "hy_v4_vl_text": _mrope(1, 1, 2)
    | {
        "index_topk": 20,
        "index_head_dim": 16,
        "index_n_heads": 2,
        "indexer_types": ["full", "shared", "full", "full", "shared", "shared"],
        "hc_mult": 2,
        "head_dim": 8,
    },
    "janus": {"vq_config": _VQ},
    "kosmos_2_5_text_model": _KOSMOS,
    "molmo2": {
        "vision_config": {"image_size": [28, 28]},
        "adapter_config": {"vision_feature_layer": [1, 0], "text_hidden_size": 32},
    },
    "muse_spark": {
        "audio_config": {
            "out_hidden_size": 32,
            "num_hidden_layers": 2,
            "patch_sizes": [4, 2],
            "hidden_sizes": [16, 32],
            "depths": [1, 1],
        }
    },
    "nemotron_h_omni": {"vision_config": {"video_temporal_patch_size": 2}},
    "nemo_speechlm": {"word_timestamp_config": {"blank_token_id": 319}},
    "nemotron3_diarization": {"head_config": {"audio_hidden_size": 32}},
    "paddleocr_vl": _QWEN,
    "paddleocr_vl_text": _mrope(2, 3, 3),
    "perception_lm": {"vision_config": _SIGLIP | {"model_args": {"embed_dim": 32}}},
    "qwen2_5_omni_text": _mrope(2, 3, 3),
    "qwen2_5_omni_thinker": _OMNI,
    "qwen2_5_vl": _QWEN,
    "qwen2_5_vl_text": _mrope(2, 3, 3),
    "qwen2_vl": _QWEN,
    "qwen2_vl_text": _mrope(2, 3, 3),
    "qwen3_omni_moe_text": _mrope(3, 3, 2) | _SPARSE,
    "qwen3_omni_moe_thinker": _OMNI | {"vision_config": {"deepstack_visual_indexes": [0, 1]}},
    "qwen3_vl": _QWEN | {"vision_config": {"deepstack_visual_indexes": [0, 1]}},
    "qwen3_vl_moe": _QWEN | {"vision_config": {"deepstack_visual_indexes": [0, 1]}},
    "qwen3_vl_moe_text": _SPARSE,
    # Its window slides behind a prompt that stays in sight, which no single pass knows of.
    "unlimited_ocr_text": {"sliding_window": 128},
    "vibevoice_asr": {
        "acoustic_tokenizer_encoder_config": _SOUND | {"hidden_size": 16},
        "semantic_tokenizer_encoder_config": _SOUND | {"hidden_size": 16},
    },
}
"""By model type; a section that is a mapping is laid over the one that is made by sizes."""
