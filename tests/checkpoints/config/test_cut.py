"""Every field that speaks of depth is rewritten; what cannot be said is refused."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from depthprune.checkpoints.config.cut import cut_config
from depthprune.checkpoints.config.sections import count_blocks
from depthprune.errors import CheckpointError, ModelError, UsageError

REMOVED = (1, 4)


def config(**fields: Any) -> dict[str, Any]:
    return {"model_type": "made_up", "num_hidden_layers": 6, **fields}


def cut(name: str, value: Any, removed: tuple[int, ...] = REMOVED, **fields: Any) -> Any:
    return cut_config(config(**{name: value}, **fields), removed).config[name]


@pytest.mark.parametrize(
    "name", ["num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers"]
)
def test_the_count_is_set_under_its_own_name(name: str) -> None:
    assert cut_config({name: 6}, REMOVED).config == {name: 4}


def test_the_old_config_is_left_alone() -> None:
    old = config(layer_types=list("abcdef"), text={"a": [1]})
    before = copy.deepcopy(old)
    cut_config(old, REMOVED)
    assert old == before


def test_two_names_of_the_same_count_are_both_set() -> None:
    new = cut_config({"n_layer": 6, "num_hidden_layers": 6}, REMOVED).config
    assert new == {"n_layer": 4, "num_hidden_layers": 4}


def test_counts_that_disagree_are_refused() -> None:
    with pytest.raises(CheckpointError, match=r"disagree \(num_hidden_layers=6, n_layer=5\)"):
        count_blocks({"n_layer": 5, "num_hidden_layers": 6})


@pytest.mark.parametrize("value", [0, -1, True, "6", 6.0, [6]])
def test_a_count_that_is_no_positive_number_is_refused(value: Any) -> None:
    with pytest.raises(CheckpointError, match=r"num_hidden_layers is .*, expected a whole number"):
        count_blocks({"num_hidden_layers": value})


def test_a_config_without_a_count_is_refused() -> None:
    with pytest.raises(CheckpointError, match="expected the number of blocks"):
        count_blocks({"num_hidden_layers": None})


def test_a_count_beyond_all_models_is_refused_before_anything_is_made_for_it() -> None:
    with pytest.raises(CheckpointError, match="is 1000000000000, expected at most 100000"):
        count_blocks({"num_hidden_layers": 10**12})


def test_a_nested_text_config_is_cut_and_its_neighbours_are_not() -> None:
    new = cut_config(
        {
            "text_config": config(layer_types=list("abcdef")),
            "vision_config": {"num_hidden_layers": 6, "layer_types": list("abcdef")},
        },
        REMOVED,
    ).config
    assert new["text_config"]["num_hidden_layers"] == 4
    assert new["text_config"]["layer_types"] == list("acdf")
    assert new["vision_config"] == {"num_hidden_layers": 6, "layer_types": list("abcdef")}


@pytest.mark.parametrize("name", ["layer_types", "no_rope_layers", "intermediate_size"])
def test_lists_with_one_entry_a_block_are_sliced(name: str) -> None:
    assert cut(name, list("abcdef")) == list("acdf")


def test_a_pattern_written_as_a_string_is_sliced() -> None:
    assert cut("hybrid_override_pattern", "M-M*ME") == "MM*E"


@pytest.mark.parametrize("value", [48, None, []])
def test_a_field_that_is_no_list_here_is_left(value: Any) -> None:
    assert cut("intermediate_size", value) == value


def test_a_list_that_disagrees_with_the_count_is_refused() -> None:
    with pytest.raises(CheckpointError, match="layer_types has 5 entries and the model 6 blocks"):
        cut("layer_types", list("abcde"))


def test_sets_of_blocks_are_renumbered() -> None:
    assert cut("mlp_only_layers", [0, 1, 3, 5]) == [0, 2, 3]
    assert cut("ple_layer_ids", [1, 2, 4, 6]) == [1, 3, 4]


def test_a_set_that_names_a_block_the_model_lacks_is_refused() -> None:
    with pytest.raises(CheckpointError, match="expected block numbers from 0 to 5"):
        cut("mlp_only_layers", [6])


@pytest.mark.parametrize(("before", "after"), [(0, 0), (1, 1), (2, 1), (3, 2), (6, 4), (28, 4)])
def test_a_count_of_blocks_at_the_start_counts_those_kept(before: int, after: int) -> None:
    assert cut("first_k_dense_replace", before) == after
    assert cut("max_window_layers", before) == after


def test_the_last_block_of_a_range_is_renumbered() -> None:
    assert cut("moe_layer_end_index", 5) == 3
    assert cut("moe_layer_end_index", 4) == 2
    assert cut("moe_layer_end_index", -1) == -1
    with pytest.raises(ModelError, match="no block of the range"):
        cut("moe_layer_end_index", 0, removed=(0,))


def test_a_period_of_expert_blocks_becomes_the_set_of_dense_ones() -> None:
    new = cut_config(config(mlp_only_layers=[5], decoder_sparse_step=2), REMOVED).config
    assert new["decoder_sparse_step"] == 1
    assert new["mlp_only_layers"] == [0, 1, 3]
    assert cut_config(config(decoder_sparse_step=2), REMOVED).config["mlp_only_layers"] == [0, 1]


def test_an_empty_set_of_special_blocks_is_no_missing_one() -> None:
    """As of a Llama 4 that a cut left without experts, and that is cut again."""
    assert cut("moe_layers", [], model_type="llama4_text", interleave_moe_layer_step=2) == []
    assert cut("moe_layers", None, model_type="llama4_text", interleave_moe_layer_step=2) == [2, 3]


def test_a_set_that_the_class_assumes_is_written_out() -> None:
    types = ["full_attention"] * 6
    new = cut_config(config(model_type="flint", layer_types=types), (0, 4)).config
    assert new["mlp_only_layers"] == [0]


def test_a_window_that_the_class_assumes_makes_blocks_differ() -> None:
    types = cut_config(config(model_type="exaone4"), (0,)).config["layer_types"]
    assert [block for block, kind in enumerate(types) if kind == "full_attention"] == [2]
    none = cut_config(config(model_type="exaone4", sliding_window=None), (0,)).config
    assert "layer_types" not in none


def test_a_repeated_pattern_becomes_one_entry_a_kept_block() -> None:
    assert cut("block_types", ["r", "r", "a"]) == ["r", "a", "r", "a"]


def test_a_repeated_pattern_without_attention_names_each_block_that_would_do() -> None:
    with pytest.raises(ModelError, match=r"no attention block would be left.* keep one of 1, 3$"):
        cut("block_types", ["recurrent", "attention"], removed=(1, 3, 5))


def jamba(removed: tuple[int, ...], **fields: Any) -> tuple[Any, ...]:
    """The periods and offsets of a Jamba of 16 blocks after a cut, attention and experts."""
    old = config(model_type="jamba", num_hidden_layers=16, **fields)
    new = cut_config(old, removed).config
    names = ("attn_layer_period", "attn_layer_offset", "expert_layer_period", "expert_layer_offset")
    return tuple(new.get(name) for name in names)


def test_a_period_with_an_offset_is_fitted_to_the_kept_blocks() -> None:
    dense = {"attn_layer_period": 8, "attn_layer_offset": 4, "num_experts": 1}
    assert jamba((1, 9), **dense) == (7, 3, None, None)
    assert jamba((15,), **dense) == (8, 4, None, None)
    assert jamba((4,), **dense) == (16, 11, None, None)
    assert jamba((0, 1)) == (8, 2, None, None)
    assert jamba((0,)) == (8, 3, 2, 0)
    assert jamba(tuple(range(1, 16, 2))) == (4, 2, 9, 8)


def test_kinds_at_uneven_distances_are_refused_where_two_numbers_say_them() -> None:
    with pytest.raises(ModelError, match=r"by expert_layer_period, blocks 1, 2, 4.* no period"):
        jamba((2,))
    with pytest.raises(ModelError, match=r"no attention block would be left.* keep one of 4, 12"):
        jamba((4, 12))
    with pytest.raises(CheckpointError, match=r"attn_layer_period is 0 and attn_layer_offset is 4"):
        jamba((0,), attn_layer_period=0)
    with pytest.raises(CheckpointError, match="attn_layer_offset is -4, expected"):
        jamba((0,), attn_layer_offset=-4)


def test_kinds_that_begin_later_than_their_distance_are_refused() -> None:
    # Of ten blocks 4 and 7 would be of attention: every third, but so would 1 be.
    with pytest.raises(ModelError, match=r"blocks 4, 7.* no period and offset say"):
        jamba((5, 6, 7, 8, 9, 13), num_experts=1)


def test_pairs_of_pattern_and_repeats_become_one_entry_a_kept_block() -> None:
    new = cut("attention_types", [[["global", "local"], 3]])
    assert new == [[["global", "global", "local", "local"], 1]]


def test_a_scale_that_the_depth_divides_stays_the_same() -> None:
    assert cut("scale_depth", 1.4) / 4**0.5 == pytest.approx(1.4 / 6**0.5)


def test_a_scale_that_the_file_leaves_out_is_the_class_s_own_and_a_null_follows_the_depth() -> None:
    bare = {"model_type": "minicpm3", "num_hidden_layers": 6}
    assert cut_config(bare, (1,)).config["scale_depth"] / 5**0.5 == pytest.approx(1.4 / 6**0.5)
    assert cut_config(bare | {"scale_depth": None}, (1,)).config["scale_depth"] is None


@pytest.mark.parametrize("name", ["moe_topk", "num_experts", "moe_intermediate_size"])
def test_lists_that_may_say_something_else_are_sliced_where_they_have_an_entry_a_block(
    name: str,
) -> None:
    assert cut(name, [1, 2, 3, 4, 5, 6]) == [1, 3, 4, 6]
    assert cut(name, [64, 32]) == [64, 32]
    assert cut(name, 4) == 4


def test_a_list_inside_sparse_attention_settings_is_cut() -> None:
    settings = {"sparse_attention_freq": [0, 0, 1, 1, 0, 1], "sparse_block_size": 6}
    assert cut("sparse_attention_config", settings) == {
        "sparse_attention_freq": [0, 1, 1, 1],
        "sparse_block_size": 6,
    }


def test_what_a_config_repeats_of_its_nested_one_is_cut_alike() -> None:
    text = config(layer_types=list("abcdef"), max_window_layers=5, mlp_only_layers=[0, 5])
    new = cut_config({**text, "model_type": "outer", "text_config": text}, REMOVED).config
    cut_text = new.pop("text_config")
    assert cut_text["layer_types"] == list("acdf")
    assert new == cut_text | {"model_type": "outer"}


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"full_attn_idxs": [1, 4]}, "keep one of 1, 4"),
        ({"attn_layer_indices": [1, 4]}, "keep one of 1, 4"),
        (
            {"linear_attn_config": {"full_attn_layers": [2, 5], "kda_layers": [1, 3, 4, 6]}},
            "keep one of 1, 4",
        ),
    ],
)
def test_attention_told_by_a_set_of_blocks_may_not_all_go(
    fields: dict[str, Any], named: str
) -> None:
    cut_config(config(**fields), (1,))
    with pytest.raises(ModelError, match=f"no attention block would be left.*{named}"):
        cut_config(config(**fields), REMOVED)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("scale_attn_by_inverse_layer_idx", True),
        ("moe_layer_interval", 2),
        ("moe_layer_freq", 2),
    ],
)
def test_what_no_config_of_fewer_blocks_can_say_is_refused(name: str, value: Any) -> None:
    with pytest.raises(ModelError, match=f"{name} is .* cannot be depth-pruned"):
        cut(name, value)


LAYERS = {"layer_types": ["sliding_attention", "full_attention"] * 3, "num_kv_shared_layers": 2}


def test_blocks_that_share_keys_and_values_are_counted_from_the_end() -> None:
    assert cut_config(config(**LAYERS), (0,)).config["num_kv_shared_layers"] == 2
    assert cut_config(config(**LAYERS), (4,)).config["num_kv_shared_layers"] == 1
    assert cut_config(config(**LAYERS), (4, 5)).config["num_kv_shared_layers"] == 0


def test_a_block_whose_keys_and_values_others_read_must_stay() -> None:
    with pytest.raises(ModelError, match="block 4 reads the keys and values of block 2"):
        cut_config(config(**LAYERS), (2,))
    # Once no block reads them, it may go.
    assert cut_config(config(**LAYERS), (2, 4)).config["num_kv_shared_layers"] == 1


def test_a_block_whose_index_others_use_must_stay() -> None:
    types = ["full", "shared", "full", "shared", "shared", "full"]
    with pytest.raises(ModelError, match="block 3 uses what block 2 computed"):
        cut_config(config(indexer_types=types), (2,))
    new = cut_config(config(indexer_types=types), (2, 3, 4)).config
    assert new["indexer_types"] == ["full", "shared", "full"]


def test_settings_keyed_by_block_are_renumbered_in_the_form_they_had() -> None:
    assert cut("per_layer_config", {"01": {"a": 1}, "05": {"b": 2}}) == {"03": {"b": 2}}
    with pytest.raises(CheckpointError, match="block numbers from 0 to 5 as keys"):
        cut("per_layer_config", {"6": {}})
    with pytest.raises(CheckpointError, match="expected each block's number once"):
        cut("per_layer_config", {"5": {"a": 1}, "05": {"b": 2}})


def test_fields_of_a_nested_part_are_rewritten_too() -> None:
    part = {"kda_layers": [1, 2, 4, 5], "full_attn_layers": [3, 6], "num_heads": 2}
    assert cut("linear_attn_config", part) == {
        "kda_layers": [1, 3],
        "full_attn_layers": [2, 4],
        "num_heads": 2,
    }


def test_entries_of_layers_behind_the_blocks_go_with_them() -> None:
    assert cut("compress_ratios", [0, 4, 128, 4, 128, 4, 0]) == [0, 128, 4, 4]


def test_a_hybrid_keeps_some_attention() -> None:
    mixed = {"layer_types": ["linear_attention", "full_attention", "conv"] * 2}
    with pytest.raises(ModelError, match=r"no attention block would be left.*keep one of 1, 4"):
        cut_config(config(**mixed), (1, 4))
    assert len(cut_config(config(**mixed), (0, 2, 3, 5)).config["layer_types"]) == 2
    for removed in ((1,), (0, 1, 2, 4)):
        with pytest.raises(ModelError, match="no attention block would be left"):
            cut_config(config(hybrid_override_pattern="M*M-M-"), removed)


def test_kinds_of_attention_may_go_as_wholes() -> None:
    windows = {"layer_types": ["sliding_attention", "full_attention"] * 3}
    assert set(cut_config(config(**windows), (1, 3, 5)).config["layer_types"]) == {
        "sliding_attention"
    }


def test_a_type_that_must_stand_at_an_end_is_asked_for() -> None:
    full, sliding = "full_attention", "sliding_attention"
    gemma = config(model_type="gemma4_text", layer_types=[sliding, full] * 3)
    with pytest.raises(ModelError, match="last kept block would be of type sliding_attention"):
        cut_config(gemma, (5,))
    # Its config class makes the last block a full one, so the file's word for it is not what ran.
    gemma["layer_types"] = [sliding, full] * 2 + [full, sliding]
    assert cut_config(gemma, (0,)).config["layer_types"][-1] == full


def test_a_count_that_only_a_list_states_is_its_length() -> None:
    new = cut_config({"layers_block_type": ["mamba", "attention"] * 3}, (0,)).config
    assert new["layers_block_type"] == ["attention", "mamba"] * 2 + ["attention"]


def test_an_encoder_beside_a_decoder_keeps_its_own_count() -> None:
    whole = {"model_type": "bart", "encoder_layers": 6, "decoder_layers": 6}
    new = cut_config(whole | {"num_hidden_layers": 6}, (1, 2)).config
    assert (new["encoder_layers"], new["decoder_layers"], new["num_hidden_layers"]) == (6, 4, 6)


def test_a_model_of_several_modalities_is_cut_by_the_rule_of_its_language_model() -> None:
    text = {"num_hidden_layers": 6, "sliding_window_pattern": 3}
    whole = {"model_type": "gemma3", "text_config": text, "vision_config": {"num_hidden_layers": 6}}
    new = cut_config(whole, (0, 1)).config
    full, sliding = "full_attention", "sliding_attention"
    assert new["text_config"]["layer_types"] == [full, sliding, sliding, full]
    assert new["vision_config"] == {"num_hidden_layers": 6}


def test_the_same_fields_are_harmless_when_off() -> None:
    assert cut("scale_attn_by_inverse_layer_idx", False) is False
    assert cut("moe_layer_freq", 1) == 1
    assert cut("moe_layer_freq", [0, 1, 1, 1, 1, 1]) == [0, 1, 1, 1]
    assert cut("num_kv_shared_layers", 0) == 0


def test_lists_that_happen_to_be_as_long_are_not_cut() -> None:
    value = [1, 2, 3, 4, 5, 6]
    for name in ("eos_token_id", "architectures", "mtp_layer_types", "mrope_section"):
        new = cut_config(config(**{name: value}), REMOVED)
        assert new.config[name] == value
        assert new.notes == ()


def test_an_unknown_list_that_speaks_of_layers_is_cut_and_reported() -> None:
    new = cut_config(config(layer_flavours=list("abcdef")), REMOVED)
    assert new.config["layer_flavours"] == list("acdf")
    assert new.notes == ("config.json: layer_flavours has one entry a block and was cut like them",)


def test_unknown_settings_by_block_number_are_renumbered_and_others_left_alone() -> None:
    found = cut_config(config(layer_gain={"2": 0.5, "5": 0.25}), (1, 4))
    assert found.config["layer_gain"] == {"1": 0.5, "3": 0.25}
    assert found.notes == ("config.json: layer_gain is keyed by block numbers and was renumbered",)
    for other in ({"2": 0.5, "6": 0.25}, {"2": 0.5, "mean": 1.0}):
        left = cut_config(config(layer_gain=other), (1, 4))
        assert (left.config["layer_gain"], left.notes) == (other, ())


@pytest.mark.parametrize(("name", "value"), [("skip_layers", [2]), ("flavours", list("abcdef"))])
def test_an_unknown_list_that_may_speak_of_blocks_is_left_and_reported(
    name: str, value: Any
) -> None:
    new = cut_config(config(**{name: value}), REMOVED)
    assert new.config[name] == value
    assert new.notes == (f"config.json: {name} may speak of blocks and was left as it was",)


def test_a_list_that_a_config_class_would_derive_is_written_out_first() -> None:
    new = cut_config({"model_type": "gemma2", "num_hidden_layers": 6}, (0, 2)).config
    full, sliding = "full_attention", "sliding_attention"
    assert new["layer_types"] == [full, full, sliding, full]


def test_a_period_in_words_is_refused() -> None:
    bad = config(model_type="exaone4", sliding_window=8, sliding_window_pattern="LLLG")
    with pytest.raises(CheckpointError, match="write out layer_types"):
        cut_config(bad, REMOVED)


def test_a_list_that_must_be_there_is_asked_for() -> None:
    with pytest.raises(ModelError, match="expected layer_types with one entry a block"):
        cut_config(config(model_type="qwen2_moe", use_sliding_window=True), REMOVED)


def test_a_block_that_must_stay_is_named() -> None:
    with pytest.raises(ModelError, match="block 5 must stay; the last block alone"):
        cut_config(config(model_type="gpt_neox_japanese"), (5,))


def test_a_refused_type_is_refused_with_its_reason() -> None:
    with pytest.raises(ModelError, match="diffllama: cannot be depth-pruned; each block"):
        cut_config(config(model_type="diffllama"), REMOVED)


def test_a_set_that_does_not_fit_is_refused() -> None:
    with pytest.raises(UsageError, match="out of range"):
        cut_config(config(), (6,))
