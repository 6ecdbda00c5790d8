"""Larger than memory: one-shot of a random Llama, its blocks streamed, against the model held.

A checkpoint of a few GB is written shard by shard, of random weights. One process scores the
removal of each block alone with the blocks read from the files, one with the model in memory, in
turns. The losses must be equal to the bit. What is measured of memory is the anonymous part of
the resident memory (`RssAnon` of /proc/self/status), sampled every 5 ms: weights, states, and the
libraries' own data (a fixed 0.3 GB, given beside). Pages of the files that the system keeps in its
cache are not in it; they are dropped when memory is wanted. For the same reason the held model's
own weights are not: on a processor transformers maps them from the file where no dtype changes.

    python benchmarks/streaming.py
"""

from __future__ import annotations

import argparse
import importlib
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

import depthprune as dp
from depthprune.calibration import Calibration, LoadedSource, Part
from depthprune.calibration.parsing import parse_line
from depthprune.calibration.spec import CalibrationSpec
from depthprune.calibration.windows import Split, Window

WIDTH, INNER, HEADS, KV_HEADS, VOCABULARY = 2048, 5632, 32, 8, 32_000
SHARD_BLOCKS = 4


def write_llama(folder: Path, blocks: int) -> int:
    """Write a random bfloat16 Llama, a few blocks at a time.

    Returns:
        Bytes of its weights.
    """
    from transformers import LlamaConfig

    config = LlamaConfig(
        hidden_size=WIDTH,
        intermediate_size=INNER,
        num_hidden_layers=blocks,
        num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS,
        vocab_size=VOCABULARY,
        max_position_embeddings=4096,
        tie_word_embeddings=False,
        architectures=["LlamaForCausalLM"],
    )
    config.save_pretrained(folder)
    narrow = WIDTH // HEADS * KV_HEADS
    shapes = {
        "self_attn.q_proj": (WIDTH, WIDTH),
        "self_attn.k_proj": (narrow, WIDTH),
        "self_attn.v_proj": (narrow, WIDTH),
        "self_attn.o_proj": (WIDTH, WIDTH),
        "mlp.gate_proj": (INNER, WIDTH),
        "mlp.up_proj": (INNER, WIDTH),
        "mlp.down_proj": (WIDTH, INNER),
        "input_layernorm": (WIDTH,),
        "post_attention_layernorm": (WIDTH,),
    }
    generator = torch.Generator().manual_seed(0)

    def drawn(shape: tuple[int, ...]) -> torch.Tensor:
        if len(shape) == 1:
            return torch.ones(shape, dtype=torch.bfloat16)
        return torch.empty(shape, dtype=torch.bfloat16).normal_(0, 0.02, generator=generator)

    ends = {
        "model.embed_tokens.weight": (VOCABULARY, WIDTH),
        "model.norm.weight": (WIDTH,),
        "lm_head.weight": (VOCABULARY, WIDTH),
    }
    shards = [ends] + [
        {
            f"model.layers.{block}.{name}.weight": shape
            for block in range(first, min(first + SHARD_BLOCKS, blocks))
            for name, shape in shapes.items()
        }
        for first in range(0, blocks, SHARD_BLOCKS)
    ]
    total, weight_map = 0, dict[str, str]()
    for number, names in enumerate(shards, 1):
        file = f"model-{number:05}-of-{len(shards):05}.safetensors"
        tensors = {name: drawn(shape) for name, shape in names.items()}
        save_file(tensors, folder / file, metadata={"format": "pt"})
        total += sum(tensor.numel() * 2 for tensor in tensors.values())
        weight_map |= dict.fromkeys(names, file)
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return total


@contextmanager
def peak_anonymous() -> Iterator[list[int]]:
    """Samples anonymous resident memory while the context lasts; the last entry is the peak."""
    samples, done = [anonymous()], threading.Event()

    def sample() -> None:
        while not done.wait(0.005):
            samples.append(anonymous())

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield samples
    finally:
        done.set()
        thread.join()
        samples.append(max(samples))


def anonymous() -> int:
    """Bytes of anonymous resident memory of this process."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("/proc/self/status has no RssAnon; this benchmark needs Linux")


def score(folder: Path, stream: bool, windows: int, length: int) -> dict[str, Any]:
    """Load a checkpoint and score the removal of each block alone: losses, seconds, memory."""
    importlib.import_module("transformers.models.llama.modeling_llama")
    tokens = np.random.default_rng(0).integers(0, VOCABULARY, (windows, length))
    calibration = random_calibration(tokens)
    before = anonymous()
    with peak_anonymous() as memory:
        began = time.perf_counter()
        model = dp.load(folder, dtype="bfloat16", device="cpu", tokenizer=object(), stream=stream)
        loaded = time.perf_counter()
        read = model.stream.bytes_read if model.stream else 0
        evaluator = dp.Evaluator(model, calibration)
        scores = evaluator.score([(), *((block,) for block in range(model.blocks))])
        ended = time.perf_counter()
    found: dict[str, Any] = {
        "losses": [each.loss for each in scores],
        "load": loaded - began,
        "score": ended - loaded,
        "libraries": before,
        "peak": memory[-1],
        "block_tokens": evaluator.cost.block_tokens,
    }
    if model.stream:
        found["pass"] = model.stream.bytes_a_pass
        found["read"] = model.stream.bytes_read - read
        found["read_loading"] = read
    return found


@dataclass(frozen=True)
class Drawn:
    """Windows that were drawn already, whatever is asked for."""

    windows: tuple[Window, ...]

    def draw(self, spec: CalibrationSpec, split: Split) -> tuple[Window, ...]:
        """The windows there are."""
        return self.windows


def random_calibration(tokens: Any) -> Calibration:
    """Windows of the given tokens, shape (windows, length), each token but the first scored."""
    scored = np.ones(tokens.shape[1], np.bool_)
    scored[0] = False
    windows = tuple(Window(row, scored, "random", place) for place, row in enumerate(tokens))
    material = LoadedSource(Drawn(windows), SimpleNamespace(bos_token_id=None), {}, 0)
    return Calibration((Part(parse_line("text:random"), 1.0, windows, material),))


def child(folder: Path, stream: bool, options: argparse.Namespace) -> dict[str, Any]:
    """`score` in a process of its own."""
    words = ["--child", str(folder), "--windows", str(options.windows)]
    words += ["--length", str(options.length), *(["--stream"] if stream else [])]
    command = [sys.executable, __file__, *words]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)  # type: ignore[no-any-return]


def report(streamed: list[dict[str, Any]], held: list[dict[str, Any]], size: int) -> None:
    runs = [*streamed, *held]
    assert all(run["losses"] == held[0]["losses"] for run in runs), "the losses differ"
    first = streamed[0]
    sets, work = len(first["losses"]), first["block_tokens"]
    print(f"{size / 1e9:.2f} GB of weights, {sets} sets, {work:,} block-tokens, losses equal")
    print(f"{'':10}{'load s':>8}{'score s':>9}{'peak GB':>9}{'of size':>9}{'libraries GB':>14}")
    for name, found in (("streamed", streamed), ("held", held)):
        load, seconds = (statistics.median(run[key] for run in found) for key in ("load", "score"))
        peak = max(run["peak"] for run in found)
        row = f"{load:>8.1f}{seconds:>9.1f}{peak / 1e9:>9.2f}{peak / size:>9.0%}"
        print(f"{name:10}{row}{found[0]['libraries'] / 1e9:>14.2f}")
    passes, loading = (first[key] / first["pass"] for key in ("read", "read_loading"))
    print(
        f"the search read {first['read']:,} bytes, {passes:.2f} passes over the blocks; loading "
        f"and its proof, {loading:.2f} (with the embeddings and the head)"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--blocks", type=int, default=32)
    parser.add_argument("--windows", type=int, default=2)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="where the model is put for the time")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--stream", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        found = score(options.child, options.stream, options.windows, options.length)
        print(json.dumps(found))
        return
    with tempfile.TemporaryDirectory(prefix="depthprune-", dir=options.folder) as folder:
        size = write_llama(Path(folder), options.blocks)
        streamed, held = [], []
        for _ in range(options.repeats):
            streamed.append(child(Path(folder), True, options))
            held.append(child(Path(folder), False, options))
    report(streamed, held, size)


if __name__ == "__main__":
    main()
