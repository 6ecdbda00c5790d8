"""What each field of a config says about depth, as data.

Most fields of `config.json` say nothing about depth; a few do, and their names mean the same thing
in every architecture that uses them. So the rule belongs to the name, not to the model type, and a
new architecture usually needs nothing here. What is particular to a type (a list that its config
class derives when the file leaves it out) stands in its row of `architectures`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

Action = Literal[
    # A list with one entry a block loses the removed blocks' entries.
    "slice",
    # The same, and a block that borrows keeps the one before that lends.
    "slice-lent",
    # The same, and what follows the blocks' entries goes.
    "slice-longer",
    # The same, and a list of another length, which says something else, stays.
    "slice-matching",
    # A set of block numbers loses the removed ones and is renumbered.
    "remap",
    # The same, where blocks are numbered from 1.
    "remap-from-1",
    # Settings of single blocks, keyed by number, are renumbered.
    "remap-keys",
    # A number of blocks at the start becomes the number of those kept.
    "recount",
    # A number of blocks at the end that read others' keys and values becomes the number of those
    # kept; the blocks that they read must stay.
    "recount-shared",
    # The number of the last block of a range is renumbered; -1, the very last, stays.
    "last",
    # A pattern repeated to the depth becomes one entry for each kept block.
    "repeat",
    # GPT-Neo's pairs of pattern and repeats become one entry a kept block.
    "attention-types",
    # A period of expert blocks becomes the set of dense blocks, and the step 1.
    "sparse-step",
    # A scale divided by the root of the depth is multiplied to stay the same.
    "scale-depth",
    # Depth enters the arithmetic when this is on; such a model is refused.
    "refuse-true",
    # A tie between blocks that no config can express; such a model is refused.
    "refuse-above-1",
]

FIELDS: Mapping[str, Action] = {
    # One entry a block. Several are usually a single number and only sometimes a list.
    "layer_types": "slice",
    "mlp_layer_types": "slice",
    "layers_block_type": "slice",
    "no_rope_layers": "slice",
    "intermediate_size": "slice",
    "activation_sparsity_pattern": "slice",
    "indexer_types": "slice-lent",
    "index_topk_pattern": "slice-lent",
    "compress_ratios": "slice-longer",
    "layer_rope_theta": "slice",
    "num_attention_heads_per_layer": "slice",
    "attention_layers": "slice",
    "attn_layers": "slice",
    "attention_window": "slice",
    "attn_type_list": "slice",
    "block_configs": "slice",
    "hybrid_override_pattern": "slice",
    "hybrid_layer_pattern": "slice",
    "num_query_heads": "slice",
    "num_kv_heads": "slice",
    "num_key_value_heads": "slice",
    "num_attention_heads": "slice",
    "ffn_multipliers": "slice",
    "head_dim": "slice",
    "sliding_window": "slice",
    "rope_theta": "slice",
    "swiglu_limits": "slice",
    "swiglu_limits_shared": "slice",
    "partial_rotary_factors": "slice",
    "sparse_attention_freq": "slice",
    # HunYuan's; elsewhere a list of these may be one for text and one for pictures.
    "moe_topk": "slice-matching",
    "num_experts": "slice-matching",
    "num_shared_expert": "slice-matching",
    "moe_intermediate_size": "slice-matching",
    # Sets of block numbers.
    "mlp_only_layers": "remap",
    "attn_layer_indices": "remap",
    "moe_layers": "remap",
    "full_attn_idxs": "remap",
    "cross_attention_layers": "remap",
    "rope_scaling_layers": "remap",
    "local_layer_ids": "remap",
    "global_attn_layers": "remap",
    "ple_layer_ids": "remap-from-1",
    "kda_layers": "remap-from-1",
    "full_attn_layers": "remap-from-1",
    "per_layer_config": "remap-keys",
    "pruned_heads": "remap-keys",
    # How many blocks at the start are of another kind.
    "first_k_dense_replace": "recount",
    "num_dense_layers": "recount",
    "num_hash_layers": "recount",
    "max_window_layers": "recount",
    "moe_layer_start_index": "recount",
    "dense_mlp_idx": "recount",
    "moe_layer_end_index": "last",
    # Periods that must become explicit.
    "block_types": "repeat",
    "_block_types": "repeat",
    "attention_types": "attention-types",
    "decoder_sparse_step": "sparse-step",
    # Depth in the arithmetic, and ties between blocks.
    "scale_depth": "scale-depth",
    "scale_attn_by_inverse_layer_idx": "refuse-true",
    "moe_layer_interval": "refuse-above-1",
    "num_kv_shared_layers": "recount-shared",
    "num_hidden_groups": "refuse-above-1",
    "cross_layer_interval": "refuse-above-1",
    "moe_layer_frequency": "refuse-above-1",
    "moe_layer_freq": "refuse-above-1",
}
"""Field name to action. A field whose value is of another shape than its action means (an
`intermediate_size` that is one number) is left alone."""

COUNTS = (
    "num_hidden_layers",
    "n_layer",
    "n_layers",
    "num_layers",
    "decoder_layers",
    "num_decoder_layers",
    "layers",
)
"""Names under which configs keep the number of blocks."""

DECODER_COUNTS = ("decoder_layers", "num_decoder_layers")
"""Those of a decoder that may stand beside an encoder's."""

COPIED_COUNTS = ("num_blocks",)
"""Names under which a config may repeat the number; elsewhere they mean other things."""

LISTED_COUNTS = ("layers_block_type", "hybrid_override_pattern")
"""Lists with one entry a block, for configs that keep no other number."""

NESTED = ("linear_attn_config", "sparse_attention_config")
"""Parts of a section whose fields speak of the same blocks."""

ATTENTION_SETS: Mapping[str, int] = {
    "attn_layer_indices": 0,
    "full_attn_idxs": 0,
    "full_attn_layers": 1,
}
"""Sets of the blocks of attention in models that mix it with recurrence, and their first number."""

ATTENTION = frozenset(
    {
        "full_attention",
        "sliding_attention",
        "chunked_attention",
        "indexed_attention",
        "attention",
        "*",
    }
)
"""Entries of a list of block types that stand for attention over the tokens."""

WITHOUT_TOKENS = frozenset(
    {"linear_attention", "mamba", "conv", "recurrent", "M", "mlp", "-", "moe", "E"}
)
"""Entries that stand for a state of fixed size, or for a block that keeps none."""

SECTIONS = ("text_config", "llm_config", "language_config")
"""Sections of a config that may hold the language model's own fields."""

PREDICTION_COUNTS = ("num_nextn_predict_layers", "num_mtp_modules", "mtp_num_layers")
"""How many multi-token-prediction layers follow the blocks."""

NAMING_MODULES = ("quantization_config", "compression_config", "quantization")
"""Fields that list modules by name, or by patterns that only the quantiser's reader knows for such.
What else names a block by its number is found by that."""

NOT_PER_BLOCK = frozenset(
    {
        "architectures",
        "bad_words_ids",
        "begin_suppress_tokens",
        "bos_token_id",
        "chunk_size_feed_forward",
        "eos_token_id",
        "image_grid_pinpoints",
        "mrope_section",
        "pad_token_id",
        "suppress_tokens",
        "time_step_limit",
        "torch_dtype",
    }
)
"""Lists that have nothing to do with depth, however long they are."""
