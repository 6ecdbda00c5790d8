"""How the cost of a search grows with blocks, tokens and k.

    python benchmarks/growth.py [--figure docs/images/growth.svg]

One-shot and greedy, exact, on random Llamas of tiny width, so that the arithmetic of a block is
small and what the walk itself adds would show. For each axis the others are held, and an exponent
is fitted by least squares on logarithms, for block-tokens (counted) and for seconds (measured;
small models pay for calls more than for arithmetic). In theory one-shot runs N(N+1)/2 blocks a
token, greedy about k times as many: exponents 2 and 2 in N, 1 in tokens, 0 and 1 in k; a plain
forward for each candidate has the same exponents and about twice the block-tokens.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import depthprune as dp
from depthprune.calibration import Calibration, CalibrationSpec, Part, Window
from depthprune.models.blocks.find import find_anatomy
from depthprune.models.source import ModelSource

BLOCKS = (6, 12, 20, 30, 42, 60)
TOKENS = (1024, 4096, 16_384, 65_536)
SIZES = (1, 2, 4, 8)
THEORY = {"blocks": (2, 2), "tokens": (1, 1), "k": (0, 1)}


@dataclass(frozen=True)
class Point:
    """What one search cost at one value of an axis."""

    x: int
    block_tokens: int
    plain: int
    seconds: float


def model_of(blocks: int) -> dp.Model:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=256,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=blocks,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=512,
    )
    module = LlamaForCausalLM(config).eval()
    source = ModelSource.__new__(ModelSource)
    return dp.Model(source, module, None, find_anatomy(module), "float32", "cpu")


def calibration_of(tokens: int, length: int = 256) -> Calibration:
    rng = np.random.default_rng(0)
    scored = np.arange(length) > 0
    windows = tuple(
        Window(rng.integers(0, 256, length), scored, "random", 0) for _ in range(tokens // length)
    )
    spec = CalibrationSpec.model_validate({"source": "text", "target": "random"})
    return Calibration((Part(spec, 1.0, windows, cast(Any, None)),))


def measure(search: str, x: int, blocks: int, tokens: int, k: int) -> Point:
    evaluator = dp.Evaluator(model_of(blocks), calibration_of(tokens), racing=None)
    began = time.perf_counter()
    dp.search(search, evaluator, k=k)
    cost = evaluator.cost
    return Point(x, cost.block_tokens, cost.plain_block_tokens, time.perf_counter() - began)


def exponent(points: list[Point], value: str) -> float:
    x = np.log([point.x for point in points])
    y = np.log([getattr(point, value) for point in points])
    return float(np.polyfit(x, y, 1)[0])


def sweep(search: str) -> dict[str, list[Point]]:
    return {
        "blocks": [measure(search, n, n, 1024, 3) for n in BLOCKS],
        "tokens": [measure(search, t, 8, t, 3) for t in TOKENS],
        "k": [measure(search, k, 24, 1024, k) for k in SIZES],
    }


def draw(results: dict[str, dict[str, list[Point]]], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3), layout="constrained")
    for axes, axis in zip(figure.subplots(1, 3), THEORY, strict=True):
        for search, color in (("one-shot", "#2a78b5"), ("greedy", "#c2571a")):
            points = results[search][axis]
            x = [point.x for point in points]
            axes.loglog(x, [p.block_tokens for p in points], "o-", color=color, label=search)
            axes.loglog(x, [p.plain for p in points], ":", color=color, label=f"{search}, plain")
        axes.set_xlabel({"blocks": "blocks N", "tokens": "tokens", "k": "blocks removed k"}[axis])
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.3)
        axes.set_xticks(x, [f"{each:,}" for each in x], rotation=30)
        axes.minorticks_off()
    first = figure.axes[0]
    first.set_ylabel("block-tokens")
    first.legend(frameon=False, fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--figure", type=Path)
    options = parser.parse_args()
    measure("one-shot", 6, 6, 1024, 1)
    results = {search: sweep(search) for search in ("one-shot", "greedy")}
    print(f"{'axis':8}{'search':10}{'theory':>8}{'block-tokens':>14}{'seconds':>9}{'plain ÷':>9}")
    for axis, (one_shot, greedy) in THEORY.items():
        for search, theory in (("one-shot", one_shot), ("greedy", greedy)):
            points = results[search][axis]
            last = points[-1]
            print(
                f"{axis:8}{search:10}{theory:>8}{exponent(points, 'block_tokens'):>14.2f}"
                f"{exponent(points, 'seconds'):>9.2f}{last.plain / last.block_tokens:>9.2f}"
            )
    if options.figure:
        draw(results, options.figure)
        print(f"figure: {options.figure}")


if __name__ == "__main__":
    main()
