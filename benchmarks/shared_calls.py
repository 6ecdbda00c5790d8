"""Items that share calls: filled up to a multiple of so many tokens, against each alone.

Items differ in length, and only those of one length share a call; filled up by tokens that nothing
sees, more of them do. Both score the removal of every third block of the demo model on the same
items, in turns, the memo off and nothing raced. What is filled in is counted in block-tokens, and
the losses are held to those of each item alone: in float32 they may differ in the sixth place, and
in a shorter dtype by its rounding.

    python benchmarks/shared_calls.py choices:ITEMS.jsonl --items 96 --repeats 3
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np
import torch

import depthprune as dp
from depthprune.evaluator import calls

STEPS = (1, 8, 16, 32)


def scored(model: dp.Model, items: dp.Calibration, step: int) -> tuple[float, list[float], int]:
    """Seconds, losses and block-tokens with items filled up to a multiple of so many tokens."""
    calls._ITEM_STEP["cpu"] = step
    evaluator = dp.Evaluator(model, items, "option-ce", racing=None)
    began = time.perf_counter()
    scores = evaluator.score([(block,) for block in range(0, model.blocks, 3)])
    seconds = time.perf_counter() - began
    return seconds, [score.loss for score in scores], evaluator.cost.block_tokens


def compare(model: dp.Model, items: dp.Calibration, repeats: int) -> None:
    """Print a row a step."""
    runs = [[scored(model, items, step) for step in STEPS] for _ in range(repeats)]
    first = runs[0][0]

    def median(at: int) -> float:
        return statistics.median(run[at][0] for run in runs)

    print(f"{model.dtype}, {torch.get_num_threads()} threads")
    print(f"{'step':>5}{'seconds':>9}{'of alone':>9}{'block-tokens':>14}{'losses apart':>14}")
    for at, step in enumerate(STEPS):
        _, losses, tokens = runs[0][at]
        apart = float(np.median(np.abs(np.subtract(losses, first[1]))))
        of_alone = statistics.median(run[at][0] / run[0][0] for run in runs)
        print(f"{step:>5}{median(at):>9.2f}{of_alone:>9.2f}{tokens:>14,}{apart:>14.1e}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("spec", help="of items")
    parser.add_argument("--items", type=int, default=96)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--dtype", nargs="+", default=["bfloat16", "float32"])
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    for dtype in options.dtype:
        model = dp.load(options.model, dtype=dtype, device="cpu")
        items = dp.calibrate(f"{options.spec},windows={options.items}", model)
        lengths = [len(window.tokens) for window in items.windows]
        spread = f"{min(lengths)}, {statistics.median(lengths):g} and {max(lengths)}"
        print(f"{len(lengths)} items of {spread} tokens (least, median, most)")
        compare(model, items, options.repeats)


if __name__ == "__main__":
    main()
