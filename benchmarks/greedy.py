"""Greedy, raced, against re-evaluating every candidate by a plain forward.

    python benchmarks/greedy.py --text wiki.valid.txt [--windows 32 --length 512 --sample 12]

The raced search is run whole and timed. Re-evaluation would run a transformers forward of the cut
model for each candidate of each step on all windows (two windows a batch, `use_cache=False`) and
the cross-entropy of its logits; it is timed on `--sample` candidates, two before the raced search
and the others, spread evenly over the steps of its path, after it, and scaled to all candidates by
the blocks that each keeps.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

import depthprune as dp


@torch.inference_mode()
def plain(model: dp.Model, tokens: torch.Tensor, removed: tuple[int, ...]) -> float:
    """Seconds of one candidate on all windows."""
    began = time.perf_counter()
    losses = []
    with model.anatomy.masked(removed) as module:
        for first in range(0, len(tokens), 2):
            batch = tokens[first : first + 2]
            logits = module(input_ids=batch, use_cache=False).logits[:, :-1]
            flat = logits.reshape(-1, logits.shape[-1]).float()
            losses.append(functional.cross_entropy(flat, batch[:, 1:].reshape(-1)).item())
    assert np.isfinite(losses).all()
    return time.perf_counter() - began


def candidates(path: Any, blocks: int) -> list[tuple[int, ...]]:
    answer, removed = [], ()
    for chosen in path:
        answer += [tuple(sorted((*removed, b))) for b in range(blocks) if b not in removed]
        removed = chosen
    return answer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="demo")
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--windows", type=int, default=32)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--sample", type=int, default=12)
    parser.add_argument("-k", type=int, default=6)
    options = parser.parse_args()
    model = dp.load(options.model)
    spec = f"text:{options.text},windows={options.windows},length={options.length},seed=0"
    calibration = dp.calibrate(spec, model)
    tokens = torch.from_numpy(np.stack([window.tokens for window in calibration.windows]))
    plain(model, tokens[:2], ())
    warm = dp.calibrate(spec.replace(f"windows={options.windows}", "windows=2"), model)
    dp.Evaluator(model, warm).score([(1,)])

    first = [plain(model, tokens, (block,)) for block in (4, 25)]
    evaluator = dp.Evaluator(model, calibration)
    began = time.perf_counter()
    result = dp.search("greedy", evaluator, k=options.k)
    seconds = time.perf_counter() - began
    every = candidates(result.path, model.blocks)
    places = np.linspace(0, len(every) - 1, options.sample - len(first)).round().astype(int)
    sample = [*((block,) for block in (4, 25)), *(every[place] for place in places)]
    times = [*first, *(plain(model, tokens, every[place]) for place in places)]
    kept = np.array([model.blocks - len(removed) for removed in sample])
    a_block = float(np.sum(times) / np.sum(kept))
    estimate = sum(a_block * (model.blocks - len(removed)) for removed in every)
    cost = result.cost
    print(f"{calibration.tokens:,} tokens, k = {options.k}, {model.dtype}, {model.device}")
    print(f"removed {', '.join(map(str, result.removed))}, loss {result.score.loss:.4f}")
    print(
        f"raced: {seconds:.0f} s, {cost.evaluations:.1f} evaluations, "
        f"{cost.block_tokens:,} block-tokens"
    )
    print(
        f"re-evaluation: {estimate:.0f} s for {len(every)} candidates, scaled from {len(sample)} "
        f"({min(times):.1f} to {max(times):.1f} s each)"
    )
    print(f"{estimate / seconds:.1f} times less")


if __name__ == "__main__":
    main()
