"""What llama.cpp knows of each architecture that a GGUF does not say, as data.

A GGUF states most of what differs between blocks in arrays with an entry a block, and those can be
cut. Some of it stands in llama.cpp's own code: every fourth block of SmolLM3 has no rotary
positions, whatever the file says, and Gemma 2 of 46 blocks scales its attention otherwise than one
of any other depth. A cut that breaks such a rule loads, runs, and is wrong. So each architecture
whose code was read has a row here (llama.cpp as vendored by llama-cpp-python 0.3.36), and any
other needs a comparison of logits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

_WINDOW = "attention.sliding_window"


@dataclass(frozen=True)
class LayerPattern:
    """Blocks at regular places that are of another kind than the rest.

    Attributes:
        what: What distinguishes them, in words.
        period: How many blocks from one to the next, where the file does not say.
        key: The key that may hold the period as a number, or as an array the kinds themselves.
        listed: Another key that may hold the kinds as an array.
        when: The key that must be above 0 for the rhythm to exist.
        first: The odd block begins each period; else it ends it.
    """

    what: str
    period: int
    key: str = ""
    listed: str = ""
    when: str = ""
    first: bool = False

    @property
    def rule(self) -> str:
        """The rhythm in words."""
        period = f"every {self.period}th block" if self.period > 1 else "blocks by a stated period"
        said = " or ".join(key for key in (self.key, self.listed) if key)
        return f"{period}: {self.what}" + (f", unless {said} says otherwise" if said else "")


@dataclass(frozen=True)
class GgufArchitecture:
    """One architecture of llama.cpp.

    Attributes:
        name: As in `general.architecture`.
        rhythms: Kinds of blocks that follow from their number.
        depths: Numbers of blocks by which llama.cpp tells variants that compute differently.
        needs: A key without which a value would follow from the depth.
        refused: Why it cannot be cut at all; empty where it can.
    """

    name: str
    rhythms: tuple[LayerPattern, ...] = ()
    depths: tuple[frozenset[int], ...] = ()
    needs: str = ""
    refused: str = ""

    @property
    def status(self) -> str:
        """`"known"` where llama.cpp's code was read and allows a cut, else `"refused"`."""
        return "refused" if self.refused else "known"

    @property
    def rule(self) -> str:
        """What must hold of a cut beyond the rules for every key, briefly."""
        if self.refused:
            return ""
        parts = [rhythm.rule for rhythm in self.rhythms]
        parts += [
            f"{' or '.join(map(str, sorted(depths)))} blocks are computed otherwise"
            for depths in self.depths
        ]
        parts += [f"{self.needs} needed"] if self.needs else []
        return "; ".join(parts) or "by field"


_PLAIN = """
apertus arcee arctic bailingmoe bailingmoe2 bitnet bloom chatglm codeshell dbrx deci deepseek
dots1 dream exaone falcon falcon-h1 gemma glm4 glm4moe gpt2 gptneox granite granitehybrid
granitemoe grok grovemoe hunyuan-dense hunyuan-moe internlm2 jais jais2 jamba kimi-linear lfm2
lfm2moe llada llada-moe llama maincoder mamba mamba2 mimo2 minimax-m2 mistral3 mistral4 mpt
nemotron nemotron_h nemotron_h_moe olmo olmoe openelm orion pangu-embedded phi2 phi3 phimoe plamo
plamo2 plm qwen qwen2 qwen2moe qwen2vl qwen3 qwen3moe qwen3vl qwen3vlmoe refact rnd1 seed_oss
stablelm starcoder starcoder2 step35 xverse
"""
"""Architectures whose blocks differ by nothing but what the file says of each."""


def _window(period: int, when: str = _WINDOW, *, first: bool = False) -> LayerPattern:
    return LayerPattern("full attention", period, f"{_WINDOW}_pattern", when=when, first=first)


def _recurrent() -> LayerPattern:
    return LayerPattern(
        "full attention", 4, "full_attention_interval", "attention.recurrent_layers"
    )


_NO_ROPE = "no rotary positions"
_EXPERTS = LayerPattern("experts", 1, "interleave_moe_layer_step")
_BY_DEPTH = "llama.cpp tells how to compute from the number of blocks"
_TIES = "its blocks share caches or embeddings by position"

_ROWS: tuple[GgufArchitecture, ...] = (
    *(GgufArchitecture(name) for name in _PLAIN.split()),
    GgufArchitecture("afmoe", (LayerPattern(_NO_ROPE, 4), _window(4))),
    GgufArchitecture("cohere2", (_window(4, ""),)),
    GgufArchitecture("cohere2moe", (_window(4, "", first=True),)),
    # From 64 blocks on it expects norms that a model of fewer does not have.
    GgufArchitecture("command-r", depths=(frozenset({64}),)),
    GgufArchitecture("deepseek2", depths=(frozenset({26, 27}), frozenset({47}), frozenset({48}))),
    GgufArchitecture("ernie4_5", (_EXPERTS,)),
    GgufArchitecture("ernie4_5-moe", (_EXPERTS,)),
    GgufArchitecture("exaone4", depths=(frozenset({64}),)),
    GgufArchitecture("exaone-moe", (_window(4, ""),)),
    GgufArchitecture("gemma2", (_window(2, ""),), (frozenset({46}),)),
    GgufArchitecture("gemma3", (_window(6),), (frozenset({62}),)),
    GgufArchitecture("gpt-oss", (_window(2, ""),)),
    GgufArchitecture("laguna", (_window(4, first=True),)),
    GgufArchitecture("llama4", (LayerPattern(_NO_ROPE, 4), _window(4, ""), _EXPERTS)),
    GgufArchitecture("mellum", (_window(4),)),
    GgufArchitecture("minicpm", needs="residual_scale"),
    GgufArchitecture("olmo2", (_window(4),)),
    GgufArchitecture("plamo3", (_window(8),)),
    GgufArchitecture("qwen35", (_recurrent(),)),
    GgufArchitecture("qwen35moe", (_recurrent(),)),
    GgufArchitecture("qwen3next", (_recurrent(),)),
    GgufArchitecture(
        "smallthinker",
        (LayerPattern(_NO_ROPE, 4, when=_WINDOW, first=True), _window(4, first=True)),
    ),
    GgufArchitecture("smollm3", (LayerPattern(_NO_ROPE, 4),)),
    *(
        GgufArchitecture(name, refused=why)
        for name, why in {
            "baichuan": _BY_DEPTH,
            "minicpm3": _BY_DEPTH,
            "hrm_text": _BY_DEPTH,
            "gemma3n": _TIES,
            "nanbeige": "its blocks are run several times over",
            "clip": "it is a vision tower, not a language model",
            "t5": "it is an encoder and a decoder",
            "t5encoder": "it is an encoder",
            "rwkv7": "its first block alone lacks a tensor, and blocks share its values",
            "arwkv7": "its first block alone lacks a tensor, and blocks share its values",
        }.items()
    ),
)

GGUF_ARCHITECTURES: Mapping[str, GgufArchitecture] = {row.name: row for row in _ROWS}
"""Every architecture whose code was read, by name."""


def listed_architectures() -> tuple[GgufArchitecture, ...]:
    """Every architecture whose code was read, those that can be cut first, by name."""
    return tuple(sorted(_ROWS, key=lambda row: (bool(row.refused), row.name)))


SLICED = frozenset(
    {
        "activation_sparsity_scale",
        "attention.compress_ratios",
        "attention.head_count",
        "attention.head_count_kv",
        "attention.indexer.types",
        "attention.recurrent_layers",
        "attention.rope_pattern",
        "attention.sliding_window_pattern",
        "deepstack_mapping",
        "expert_feed_forward_length",
        "expert_used_count",
        "feed_forward_length",
        "swiglu_clamp_exp",
        "swiglu_clamp_shexp",
        "xielu.alpha_n",
        "xielu.alpha_p",
        "xielu.beta",
        "xielu.eps",
    }
)
"""Keys whose value, where it is an array, has one entry a block."""

RECOUNTED = frozenset({"hash_layer_count", "leading_dense_block_count"})
"""Keys that count blocks at the start."""

TIED: Mapping[str, int] = {
    "attention.shared_kv_layers": 0,
    "attn_res.block_size": 0,
    "decoder_block_count": 0,
    "embedding_length_per_layer_input": 0,
    "moe_every_n_layers": 1,
    "num_loops": 1,
    "rescale_every_n_layers": 0,
}
"""Keys that tie blocks to their places when their value is above the one given."""

RECURRENT = frozenset(
    {
        "granitehybrid",
        "jamba",
        "kimi-linear",
        "lfm2",
        "lfm2moe",
        "nemotron_h",
        "nemotron_h_moe",
        "plamo2",
    }
)
"""Architectures in which a block without heads keeps a state instead; llama.cpp needs one such."""

LEADING = frozenset({"n_deepstack_layers"})
"""Keys that count blocks at the start into which something is fed by number; those must stay."""

NOT_PER_BLOCK = frozenset(
    {"classifier.output_labels", "rope.dimension_sections", "rope.scaling.attn_factor"}
)
"""Arrays that have nothing to do with depth, however long they are."""
