"""Rows of models that read more than text: pictures, sound, proteins.

Surgery cuts the language model and passes everything else through byte for byte. The language
model of most is of a type of its own right (`text_config`), and is cut by that type's row; what
stands here says which wrappers are proved, which language models they bring, and what they tie to
the number of a block: some feed features of a picture into the first blocks one by one.
"""

from __future__ import annotations

from depthprune.checkpoints.architectures.schema import (
    Architecture,
    LeadingBlocks,
    Pattern,
    Prefix,
    RequiredList,
)

_APPLY = "; such a model can be cut by apply and not searched"
_NEEDS_PICTURE = "it answers nothing without a picture, so no cut of it could be compared on text"
_THREE_MODELS = "its speech is made by a second model from states of this one, block by block"
_LOOPS = "each block attends over outputs of groups of blocks by place"
_FEEDS = "a picture's features are added after them one by one"

_PICTURES, _SPEECH = "AutoModelForImageTextToText", "AutoModelForMultimodalLM"

_HEARING = """
fun_asr_nano glmasr granite_speech granite_speech_plus moss_transcribe_diarize nemo_speechlm omniasr
qwen2_audio qwen3_asr vibevoice_asr voxtral
"""
"""Models of sound and text."""

_TOWERS = {
    "apertus1p5": "apertus1p5_text",
    "aria": "aria_text",
    "aya_vision": "cohere2",
    "cohere2_vision": "cohere2",
    "cosmos3_edge": "cosmos3_edge_text",
    "deepseek_ocr2": "deepseek_ocr2_text",
    "deepseek_vl": "llama",
    "deepseek_vl_hybrid": "llama",
    "dots3_note": "dots3_note_text",
    "emu3": "emu3_text_model",
    "ernie4_5_vl_moe": "ernie4_5_vl_moe_text",
    "exaone4_5": "exaone4",
    "fast_vlm": "qwen2",
    "fun_asr_nano": "qwen3",
    "fuyu": "persimmon",
    "gemma3": "gemma3_text",
    "gemma4": "gemma4_text",
    "gemma4_unified": "gemma4_unified_text",
    "glm46v": "glm4v_text",
    "glm4v": "glm4v_text",
    "glm4v_moe": "glm4v_moe_text",
    "glm5_next": "glm5_next_text",
    "glm_ocr": "glm_ocr_text",
    "glmasr": "llama",
    "glmga": "glm4v_text",
    "got_ocr2": "qwen2",
    "granite_speech": "granite",
    "granite_speech_plus": "granite",
    "hunyuan_vl": "hunyuan_vl_text",
    "hy_v4_vl": "hy_v4_vl_text",
    "hyperclovax_vision_v2": "hyperclovax",
    "idefics2": "mistral",
    "idefics3": "llama",
    "inkling_mm_model": "inkling_text",
    "internvl": "qwen2",
    "janus": "llama",
    "kimi_k25": "deepseek_v3",
    "lfm2_vl": "lfm2",
    "lfm3_vl": "lfm3",
    "lighton_ocr": "qwen3",
    "llama4": "llama4_text",
    "llava": "llama",
    "llava_next": "llama",
    "llava_next_video": "llama",
    "llava_onevision": "qwen2",
    "minicpm_ocr": "qwen3_5_text",
    "minicpmv4_6": "qwen3_5_text",
    "minicpmv4_7": "qwen3_5_text",
    "minimax_m3_vl": "minimax_m3_vl_text",
    "mistral3": "mistral",
    "mllama": "mllama_text_model",
    "molmo2": "molmo2_text",
    "moss_transcribe_diarize": "qwen3",
    "muse_glimmer": "muse_glimmer_text",
    "muse_spark": "muse_spark_text",
    "nemo_speechlm": "nemotron_h",
    "nemotron_h_omni": "nemotron_h",
    "omniasr": "llama",
    "ovis2": "qwen2",
    "paddleocr_vl": "paddleocr_vl_text",
    "perception_lm": "llama",
    "pp_chart2table": "qwen2",
    "qianfan_ocr": "qwen3",
    "qwen2_5_omni_thinker": "qwen2_5_omni_text",
    "qwen2_5_vl": "qwen2_5_vl_text",
    "qwen2_audio": "qwen2",
    "qwen2_vl": "qwen2_vl_text",
    "qwen3_5": "qwen3_5_text",
    "qwen3_5_moe": "qwen3_5_moe_text",
    "qwen3_asr": "qwen3",
    "smolvlm": "llama",
    "step3p7": "step3p5",
    "unlimited_ocr": "unlimited_ocr_text",
    "vibevoice_asr": "qwen2",
    "video_llama_3": "qwen2",
    "video_llava": "llama",
    "vipllava": "llama",
    "voxtral": "llama",
}
"""Models of several modalities, with the type of their language model, `text_config`."""

_FED = {
    "cohere_compass": "cohere_compass_text",
    "cosmos3_omni": "qwen3_vl_text",
    "granite_docling": "granite_docling_text",
    "qwen3_omni_moe_thinker": "qwen3_omni_moe_text",
    "qwen3_vl": "qwen3_vl_text",
    "qwen3_vl_moe": "qwen3_vl_moe_text",
}
"""The same, whose first blocks are given features of a picture (DeepStack)."""

_TOWER_NOTES = {
    "gemma4": "with num_kv_shared_layers, blocks read others' keys and values",
    "mllama": "blocks of cross-attention run only beside a picture" + _APPLY,
}

_TEXT = """
apertus1p5_text cosmos3_edge_text emu3_text_model glm4v_text glm_ocr_text granite_docling_text
hunyuan_vl_text molmo2_text paddleocr_vl_text qwen3_omni_moe_text qwen3_vl_moe_text qwen3_vl_text
"""
"""Language models of such, for which the rules for fields say everything."""

MULTIMODAL_ROWS: tuple[Architecture, ...] = (
    *(
        Architecture(
            name,
            tower=tower,
            loader=_SPEECH if name in _HEARING.split() else _PICTURES,
            why=_TOWER_NOTES.get(name, ""),
        )
        for name, tower in _TOWERS.items()
    ),
    *(
        Architecture(
            name,
            tower=tower,
            loader=_PICTURES,
            lead=LeadingBlocks("vision_config.deepstack_visual_indexes", 3, _FEEDS),
        )
        for name, tower in _FED.items()
    ),
    *(Architecture(name, loader=_PICTURES) for name in ("chameleon", "mistral4")),
    *(Architecture(name) for name in ("git", "phi4_multimodal")),
    *(Architecture(name) for name in _TEXT.split()),
    Architecture("kosmos_2_5_text_model", count="layers"),
    Architecture(
        "mllama_text_model",
        needs=(RequiredList("cross_attention_layers"),),
        why="blocks of cross-attention run only beside a picture" + _APPLY,
    ),
    Architecture("kosmos-2.5", tower="kosmos_2_5_text_model", loader=_PICTURES),
    *(
        Architecture(name, defaults={"max_window_layers": count})
        for name, count in {
            "qwen2_5_omni_text": 28,
            "qwen2_5_vl_text": 80,
            "qwen2_vl_text": 80,
        }.items()
    ),
    Architecture("deepseek_ocr2_text", needs=(RequiredList("mlp_layer_types"),)),
    Architecture("ernie4_5_vl_moe_text", patterns=(Prefix("mlp_layer_types", 1),)),
    # The second is the name that transformers 4 gave it.
    *(
        Architecture(name, defaults={"first_k_dense_replace": 1})
        for name in ("glm4v_moe_text", "Glm4vMoe_text")
    ),
    Architecture(
        "glm5_next_text",
        patterns=(
            Pattern("layer_types", 4, special="indexed_attention", usual="linear_attention"),
            Prefix("mlp_layer_types", 3),
        ),
        needs=(RequiredList("indexer_types", unless="index_topk_pattern"),),
        why="with shared entries in indexer_types, blocks pass on what they index",
    ),
    Architecture(
        "hy_v4_vl_text",
        patterns=(Prefix("mlp_layer_types", 1),),
        needs=(RequiredList("indexer_types"),),
        why="with shared entries in indexer_types, blocks pass on what they index",
    ),
    *(
        Architecture(name, needs=(RequiredList("layer_types"), RequiredList("layer_rope_theta")))
        for name in ("muse_glimmer_text", "muse_spark_text")
    ),
    Architecture("step3p5", needs=(RequiredList("layer_types"), RequiredList("mlp_layer_types"))),
    Architecture(
        "unlimited_ocr_text",
        patterns=(Prefix("mlp_layer_types", "first_k_dense_replace", default=1),),
    ),
    *(
        Architecture(name, status="refused", why=why)
        for name, why in {
            "blip": _NEEDS_PICTURE,
            "blip-2": _NEEDS_PICTURE,
            "evolla": "blocks at regular places read a protein, in a list of their own",
            "florence2": "it is an encoder and a decoder of pictures and text",
            "gemma3n": "its vision tower needs the package timm, which no test here has; cut its "
            "language model (gemma3n_text)",
            "granite4_vision": "a picture's features are added before blocks by number, up to the "
            "middle of the model",
            "granite4_vision_text": "a picture's features are added before blocks by number, up "
            "to the middle of the model",
            "idefics": "blocks of cross-attention stand in a list of their own, after every few",
            "inkling2": _LOOPS,
            "inkling2_loop": _LOOPS,
            "instructblip": _NEEDS_PICTURE,
            "instructblipvideo": _NEEDS_PICTURE,
            "kosmos-2": _NEEDS_PICTURE,
            "kyutai_speech_to_text": "it reads codes of sound beside each token, and no text alone",
            "mistral_large4": "blocks read others' keys and values by number",
            "mistral_large4_text": "blocks read others' keys and values by number",
            "paligemma": "it reads its prompt both ways, so that even the uncut model generates "
            "otherwise with a cache than without; cut its language model (gemma)",
            "pix2struct": _NEEDS_PICTURE,
            "pp_formulanet": _NEEDS_PICTURE,
            "qwen2_5_omni": _THREE_MODELS,
            "qwen3_omni_moe": _THREE_MODELS,
            "qwen4_exp": "its embeddings of token groups are hashed by a number that follows the "
            "block's place",
            "t5gemma2": "it is an encoder and a decoder of equal depth, which share a config",
            "udop": "it is an encoder and a decoder, whose blocks share one number",
            "vision-encoder-decoder": _NEEDS_PICTURE,
            "voxtral_realtime": "it adds sound to every token, and reads no text alone",
        }.items()
    ),
    *(
        Architecture(name, status="not a decoder", why=why)
        for name, why in {
            "diffusion_gemma": "it writes whole blocks of text at once, by denoising them",
            "pi0": "it moves a robot, and writes no text",
            "shieldgemma2": "it classifies pictures, and writes no text",
        }.items()
    ),
)
