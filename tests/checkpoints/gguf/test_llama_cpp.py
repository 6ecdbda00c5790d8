"""llama.cpp loads a pruned GGUF and computes what transformers does, within quantisation.

`make test-slow` builds llama.cpp from source first, about five minutes on two cores; where there is
no compiler these tests are skipped. llama.cpp multiplies quantised weights by activations that it
rounds to eight bits, so it agrees with the unpacked weights only about as well on the pruned file
as it does on the whole one.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from depthprune.checkpoints.gguf import rules
from depthprune.models.loading import load
from depthprune.models.source import demo_file
from depthprune.pruning.apply import apply
from gemma import MISSING, gemma_file
from gguf_tiny import tiny_gguf

pytestmark = pytest.mark.slow

PROMPT = "The bridge over the river was repaired in the spring, and the people of the town"
NEW = 16
WHY = "llama-cpp-python is not installed; run: make llama-cpp (it needs a C++ compiler)"


def text() -> str:
    import pydoc_data.topics

    return " ".join("\n".join(pydoc_data.topics.topics.values()).split())[:6000]


@dataclass(frozen=True)
class Comparison:
    """llama.cpp beside transformers on one file.

    Attributes:
        difference: Of the logarithms of the perplexities on a text.
        agreement: Share of the text's positions with the same likeliest token.
        gaps: How much less likely (nats) each token of llama.cpp's greedy continuation is to
            transformers than the one that it would have taken there.
    """

    difference: float
    agreement: float
    gaps: np.ndarray[Any, Any]


def log_softmax(logits: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    result: np.ndarray[Any, Any] = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return result


def in_llama_cpp(file: Path, ids: list[int], prompt: list[int]) -> tuple[Any, list[int]]:
    """Log-probabilities (tokens × vocabulary) on a text, and the greedy continuation."""
    import llama_cpp

    model = llama_cpp.Llama(str(file), n_ctx=1024, n_batch=1024, logits_all=True, verbose=False)
    model.eval(ids)
    logits = np.array(model.scores[: len(ids)])
    model.reset()
    greedy = model.generate(prompt, temp=0.0, repeat_penalty=1.0)
    continuation = [int(next(greedy)) for _ in range(NEW)]
    model.close()
    return log_softmax(logits), continuation


def compare(file: Path, ids: list[int], prompt: list[int]) -> Comparison:
    theirs, continuation = in_llama_cpp(file, ids, prompt)
    module: Any = load(file, dtype="float32", device="cpu", tokenizer=object()).module
    with torch.inference_mode():
        ours = log_softmax(module(torch.tensor([ids])).logits[0].numpy())
        forced = log_softmax(module(torch.tensor([prompt + continuation])).logits[0].numpy())
    steps = forced[len(prompt) - 1 : -1]
    picked = [log[np.arange(len(ids) - 1), ids[1:]].mean() for log in (theirs[:-1], ours[:-1])]
    return Comparison(
        difference=abs(picked[0] - picked[1]),
        agreement=float((theirs.argmax(-1) == ours.argmax(-1)).mean()),
        gaps=steps.max(-1) - steps[np.arange(NEW), continuation],
    )


def widened(file: Path, out: Path) -> Path:
    """The same file with all tensors in float32: llama.cpp rounds nothing to eight bits."""
    import gguf

    read = gguf.GGUFReader(file)
    fields = {name: field for name, field in read.fields.items() if not name.startswith("GGUF.")}
    written = gguf.GGUFWriter(out, fields.pop("general.architecture").contents())
    for name, field in fields.items():
        inner = field.types[-1] if len(field.types) > 1 else None
        written.add_key_value(name, field.contents(), field.types[0], inner)
    for tensor in read.tensors:
        values = gguf.dequantize(tensor.data, tensor.tensor_type)
        written.add_tensor(tensor.name, values.astype(np.float32))
    written.write_header_to_file()
    written.write_kv_data_to_file()
    written.write_tensors_to_file()
    written.close()
    return out


def logits_of(file: Path, ids: list[int]) -> np.ndarray[Any, Any]:
    import llama_cpp

    model = llama_cpp.Llama(str(file), n_ctx=64, logits_all=True, verbose=False)
    model.eval(ids)
    logits = np.array(model.scores[: len(ids)])
    model.close()
    return logits


IDS = list(range(5, 45))

SAME = [
    ("llama", {}, (0, 3)),
    ("smollm3", {}, (1, 2, 3, 4)),
    ("smollm3", {}, (7,)),
    (
        "deci",
        {
            "feed_forward_length": [32, 64, 96, 128, 160, 192, 224, 256],
            "attention.head_count": [2] * 8,
            "attention.head_count_kv": [2] * 8,
        },
        (2, 5),
    ),
    ("qwen2", {}, (0, 3)),
    ("qwen3", {}, (0, 7)),
    ("gemma", {"attention.key_length": 16, "attention.value_length": 16}, (2, 3)),
    ("gemma2", {"attention.sliding_window": 8}, (2, 3)),
    ("gemma3", {}, (1, 6)),
    ("gemma3", {"attention.sliding_window": 8}, (0, 1, 2, 3, 4, 5)),
    (
        "gemma3",
        {"attention.sliding_window": 8, "attention.sliding_window_pattern": [True, False] * 4},
        (0, 5, 6),
    ),
    ("phi3", {}, (1, 5)),
    (
        "apertus",
        {
            f"xielu.{name}": [start + block / 8 for block in range(8)]
            for name, start in {"alpha_n": 0.5, "alpha_p": 0.8, "beta": 0.4, "eps": -0.1}.items()
        },
        (0, 4, 5),
    ),
    (
        "qwen3moe",
        {"expert_count": 4, "expert_used_count": 2, "expert_feed_forward_length": 64},
        (3, 4),
    ),
    (
        "lfm2",
        {"attention.head_count_kv": [0, 0, 2, 0, 2, 0, 0, 2], "shortconv.l_cache": 3},
        (1, 2, 5),
    ),
]


@pytest.mark.parametrize(
    ("name", "fields", "removed"), SAME, ids=[f"{name}-{removed}" for name, _, removed in SAME]
)
def test_a_cut_computes_what_blocks_that_add_nothing_compute(
    tmp_path: Path, name: str, fields: dict[str, Any], removed: tuple[int, ...]
) -> None:
    pytest.importorskip("llama_cpp", reason=WHY)
    settings: dict[str, Any] = {"blocks": 8, "tokenizer": True, "fields": fields}
    idle = tiny_gguf(tmp_path / "idle.gguf", name, idle=removed, **settings)
    whole = tiny_gguf(tmp_path / "whole.gguf", name, **settings)
    apply(whole, removed, tmp_path / "cut.gguf")
    expected, found = (logits_of(tmp_path / file, IDS) for file in ("idle.gguf", "cut.gguf"))
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())
    assert np.abs(logits_of(whole, IDS) - expected).max() > 0.1 * np.abs(expected).max()
    assert idle.is_file()


_GEMMA = {"attention.key_length": 16, "attention.value_length": 16, "attention.sliding_window": 8}
_YARN = {"rope.scaling.type": "yarn", "rope.scaling.original_context_length": 32}
_TABLE = [1.0, 1.0, 1.0, 4.781834, 8.0, 8.0, 8.0, 8.0]
"""Of a Llama 3.1 that was first trained on texts of 256 tokens."""

STATED: list[tuple[str, dict[str, Any], dict[str, list[float]]]] = [
    ("llama", {}, {}),
    ("llama", {}, {"rope_freqs.weight": _TABLE}),
    ("llama", {"rope.scaling.type": "linear", "rope.scaling.factor": 4.0}, {}),
    ("qwen2", _YARN | {"rope.scaling.factor": 4.0}, {}),
    ("gemma2", _GEMMA, {}),
    (
        "gemma3",
        _GEMMA
        | {"rope.freq_base": 1e6, "rope.scaling.type": "linear", "rope.scaling.factor": 4.0}
        | {"attention.sliding_window_pattern": [True, True, False, False] * 2},
        {},
    ),
]


@pytest.mark.parametrize(("name", "fields", "tables"), STATED)
def test_what_a_file_states_is_computed_as_llama_cpp_does(
    tmp_path: Path, name: str, fields: dict[str, Any], tables: dict[str, list[float]]
) -> None:
    """Its own cache of keys in half precision is all that parts the two."""
    pytest.importorskip("llama_cpp", reason=WHY)
    packed = tiny_gguf(
        tmp_path / "a.gguf", name, blocks=8, tokenizer=True, fields=fields, tables=tables
    )
    file = widened(packed, tmp_path / "wide.gguf")
    module: Any = load(file, dtype="float32", device="cpu", tokenizer=object()).module
    with torch.inference_mode():
        ours = module(torch.tensor([IDS])).logits[0].numpy()
    assert np.abs(logits_of(file, IDS) - ours).max() < 0.02 * np.abs(ours).max()


def test_a_period_that_does_not_survive_would_compute_something_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("llama_cpp", reason=WHY)
    monkeypatch.setattr(rules, "_check_rhythms", lambda *_: None)
    settings: dict[str, Any] = {"blocks": 8, "tokenizer": True}
    idle = tiny_gguf(tmp_path / "idle.gguf", "smollm3", idle=(1,), **settings)
    apply(tiny_gguf(tmp_path / "whole.gguf", "smollm3", **settings), (1,), tmp_path / "cut.gguf")
    expected, found = logits_of(idle, IDS), logits_of(tmp_path / "cut.gguf", IDS)
    assert np.abs(found - expected).max() > 0.01 * np.abs(expected).max()


def test_llama_cpp_agrees_with_transformers_on_the_whole_and_the_pruned_file(
    tmp_path: Path,
) -> None:
    pytest.importorskip("llama_cpp", reason=WHY)
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(demo_file().parent, gguf_file=demo_file().name)
    ids = tokenizer(text()).input_ids[:512]
    prompt = tokenizer(PROMPT).input_ids
    apply(demo_file(), "10,12,20", tmp_path / "pruned.gguf")
    dense, pruned = (compare(file, ids, prompt) for file in (demo_file(), tmp_path / "pruned.gguf"))

    for found in (dense, pruned):
        assert found.difference < 0.02
        assert found.agreement > 0.9
        # Where the two part ways, they were nearly of one mind.
        assert (found.gaps < 0.5).all()
        assert (found.gaps == 0).mean() > 0.7
    assert pruned.difference < 2 * dense.difference + 0.005
    assert pruned.agreement > dense.agreement - 0.05


def test_a_packed_file_of_two_kinds_of_attention_is_cut_exactly(tmp_path: Path) -> None:
    """Without a third of its blocks Gemma is so unsure that rounding to eight bits decides."""
    pytest.importorskip("llama_cpp", reason=WHY)
    from transformers import AutoTokenizer

    file = gemma_file()
    if file is None:
        pytest.skip(MISSING)
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    ids = tokenizer(text()).input_ids[:128]
    apply(file, "6-11", tmp_path / "cut.gguf")
    wide = widened(tmp_path / "cut.gguf", tmp_path / "wide.gguf")
    found = compare(wide, ids, tokenizer(PROMPT).input_ids)
    assert found.difference < 1e-3
    assert found.agreement > 0.99
    assert (found.gaps < 0.01).all()
