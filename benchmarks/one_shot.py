"""One-shot, exact: the prefix walk against one plain forward for each candidate.

Both score the removal of each block of the demo model alone, on the same windows, in the same
dtype. The plain way is what peers do: for each candidate a transformers forward of the model
without that block (one batch, `use_cache=False`), and the cross-entropy of all its logits; once
with the attention that transformers takes, once with the evaluator's own (`plain, same`), whose
losses the walk's must equal in float32 and, where products of more rows round alike, in bfloat16.
Beside them stands the time that the bare matrix products take (the
blocks' projections and the head, of the same shapes and number as the walk runs them), which no
evaluator can undercut. In a round before, which is not timed, the memory of each is taken: the most
anonymous memory above what the loaded model has.

    python benchmarks/one_shot.py --repeats 3
"""

from __future__ import annotations

import argparse
import ctypes
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

import depthprune as dp
from depthprune.calibration import Calibration
from depthprune.models.attention import fast_attention
from depthprune.models.loading import Model
from depthprune.objectives.tiles import tiles
from streaming import anonymous, peak_anonymous


def walked(model: Model, calibration: Calibration) -> tuple[list[float], Any]:
    evaluator = dp.Evaluator(model, calibration, racing=None)
    scores = evaluator.score([(), *((block,) for block in range(model.blocks))])
    return [score.loss for score in scores], evaluator.cost


@torch.inference_mode()
def plain(model: Model, calibration: Calibration) -> list[float]:
    tokens = torch.from_numpy(np.stack([window.tokens for window in calibration.windows]))
    losses = []
    for removed in [(), *((block,) for block in range(model.blocks))]:
        with model.anatomy.masked(removed) as module:
            logits = module(input_ids=tokens, use_cache=False).logits
        targets = tokens[:, 1:].reshape(-1)
        flat = logits[:, :-1].reshape(len(targets), -1).float()
        losses.append(functional.cross_entropy(flat, targets).item())
    return losses


@torch.inference_mode()
def products(model: Model, cost: Any, length: int) -> None:
    """The walk's matrix products alone: every linear map of a block, and the head's."""
    block = model.anatomy.blocks.modules[0]
    maps = [m for m in block.modules() if isinstance(m, nn.Linear)]
    dtype = maps[0].weight.dtype
    inputs = {m.in_features: torch.randn(1, length, m.in_features, dtype=dtype) for m in maps}
    for _ in range(cost.block_tokens // length):
        for linear in maps:
            linear(inputs[linear.in_features])
    head: Any = model.module.get_output_embeddings()  # type: ignore[operator]
    chunk = torch.randn(min(length, 512), head.in_features, dtype=dtype)
    for _ in range(cost.head_tokens // len(chunk)):
        for tile in tiles(head.out_features, "cpu"):
            functional.linear(chunk, head.weight[tile])


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    began = time.perf_counter()
    answer = work()
    return time.perf_counter() - began, answer


def peak(work: Callable[[], Any]) -> int:
    """Bytes that the work takes above what stands before it, on a Linux with glibc."""
    # What was freed and not given back would hide what the work takes.
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    before = anonymous()
    with peak_anonymous() as memory:
        work()
    return memory[-1] - before


def peaks(model: Model, calibration: Calibration) -> dict[str, int]:
    """Of each way; the plain one twice, with either attention."""
    found = {"plain": peak(lambda: plain(model, calibration))}
    with fast_attention():
        found["plain, same"] = peak(lambda: plain(model, calibration))
    return found | {"walk": peak(lambda: walked(model, calibration))}


def _difference(ours: list[float], theirs: list[float]) -> float:
    return max(abs(a - b) / b for a, b in zip(ours, theirs, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="demo")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--windows", type=int, default=4)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    model = dp.load(options.model, dtype=options.dtype)
    spec = f"stdlib-prose,windows={options.windows},length={options.length},seed=0"
    calibration = dp.calibrate(spec, model)
    walked(model, dp.calibrate(f"stdlib-prose,windows=1,length={options.length}", model))
    times: dict[str, list[float]] = {"plain": [], "plain, same": [], "walk": [], "products": []}
    memory = peaks(model, calibration)
    worst = rounding = 0.0
    for _ in range(options.repeats):
        seconds, theirs = timed(lambda: plain(model, calibration))
        times["plain"].append(seconds)
        with fast_attention():
            seconds, same = timed(lambda: plain(model, calibration))
        times["plain, same"].append(seconds)
        seconds, (ours, cost) = timed(lambda: walked(model, calibration))
        times["walk"].append(seconds)
        times["products"].append(timed(lambda c=cost: products(model, c, options.length))[0])  # type: ignore[misc]
        worst = max(worst, _difference(ours, same))
        rounding = max(rounding, _difference(ours, theirs))
    if model.dtype == "float32" and worst > 1e-5:
        raise SystemExit(f"losses differ by {worst:.1e}")
    print(f"{model.blocks + 1} sets, {calibration.tokens:,} tokens, {model.dtype}, {model.device}")
    print(f"block-tokens {cost.block_tokens:,} of {cost.plain_block_tokens:,} for plain forwards")
    print(f"{'':12}{'median s':>10}{'low':>8}{'high':>8}{'÷ walk':>9}{'peak MB':>9}")
    for name, values in times.items():
        ratio = statistics.median(a / b for a, b in zip(values, times["walk"], strict=True))
        median = statistics.median(values)
        row = f"{name:12}{median:>10.2f}{min(values):>8.2f}{max(values):>8.2f}{ratio:>9.2f}"
        print(row + (f"{memory[name] / 1e6:>9.0f}" if name in memory else ""))
    share = statistics.median(a / b for a, b in zip(times["products"], times["walk"], strict=True))
    print(f"the walk runs at {share:.2f} of the bare products' rate")
    print(f"losses within {worst:.1e} with the same attention, {rounding:.1e} with the other")


if __name__ == "__main__":
    main()
