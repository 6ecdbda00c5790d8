"""Recovery by training: perplexities of the demo model pruned, recovered linearly, and trained on.

Adapters are trained on windows of four sources; measured are WikiText's own test split, the
held-out tenth of the sources, and text of a kind that was not trained on (Shakespeare). Each way to
recover is a table with the paired change of the perplexity against the unrecovered model.

    python benchmarks/distillation.py --corpora ../shared/data --steps 60
    python benchmarks/distillation.py --corpora ../shared/data --steps 60 --recover lora \
        --recover lora:nll=0.3 --recover lora:own=0.25 --recover last

Without `--recover`: the linear recovery, and adapters trained on from the plain model and from it.
`--steps` and `--settings` are of every training that does not say otherwise.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

import depthprune as dp
from depthprune.calibration import Calibration
from depthprune.evaluator import Memo
from depthprune.pruning.recovering.held_out_recovered import judge_recovered
from depthprune.recovery import Last, Linear, LoRA, parse_method
from depthprune.removed_sets import parse_blocks
from recovery import FURTHER, SOURCES


def measure(
    model: dp.Model,
    calibration: Calibration,
    judged: list[Calibration],
    blocks: str,
    way: str,
    memo: Memo,
) -> None:
    began = time.monotonic(), time.process_time()
    method = parse_method(way)
    if isinstance(method, (LoRA, Last)):
        recovery = dp.distil(model, parse_blocks(blocks), calibration, method)
    else:
        assert isinstance(method, Linear)
        recovery = dp.recover(model, parse_blocks(blocks), calibration, method)
    wall, spent = time.monotonic() - began[0], time.process_time() - began[1]
    print(f"\n{way}: {calibration.tokens:,} tokens, {wall:.0f} s, {spent:.0f} s of a core")
    if recovery.training is not None:
        for point in recovery.training.points:
            print(
                f"  step {point.step}: {point.choosing:.4f} choosing, {point.held_out:.4f} held "
                f"out, text {math.exp(point.held_out_nll):.2f}"
            )
        print(f"  step {recovery.training.best} kept, {recovery.training.tokens:,} tokens trained")
    print("\n| text | whole | removed | recovered | ratio |\n|---|---:|---:|---:|---:|")
    for row in judge_recovered(model, judged, "nll", recovery, memo=memo):
        assert row.recovered is not None
        ratio = math.exp(row.recovered_change or 0.0)
        stderr = ratio * (row.recovered_change_stderr or 0.0)
        figures = " | ".join(
            f"{estimate.perplexity:.2f}" for estimate in (row.dense, row.pruned, row.recovered)
        )
        name = row.calibration.split(",")[0].split("/")[-1]
        print(f"| {name} | {figures} | {ratio:.3f} ± {stderr:.3f} |", flush=True)


def _with_settings(way: str, steps: int, settings: str) -> str:
    """A training with what it does not say itself."""
    name, _, own = way.partition(":")
    said = {each.split("=")[0] for each in own.split(",")}
    shared = f"steps={steps},{settings}".split(",")
    added = [each for each in shared if each.split("=")[0] not in said]
    return f"{name}:{','.join(filter(None, [own, *added]))}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpora", default="../shared/data")
    parser.add_argument("--windows", type=int, default=32, help="of each source")
    parser.add_argument("--length", type=int, default=256, help="of a window, in tokens")
    parser.add_argument("--judged", type=int, default=12, help="windows of each further text")
    parser.add_argument("--removed", default="4,5,13,14,25,26")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--settings", default="every=20,batch=4,judge=4,lr=0.001")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--memo", type=Path, default=None)
    parser.add_argument("--recover", action="append", help="ways to recover")
    given = parser.parse_args()
    model = dp.load("demo", dtype=given.dtype)
    keys = f"windows={given.windows},length={given.length}"
    calibration = dp.calibrate([f"{spec.format(given.corpora)},{keys}" for spec in SOURCES], model)
    further = f"windows={given.judged},length={given.length}"
    judged = [dp.calibrate(f"{spec.format(given.corpora)},{further}", model) for spec in FURTHER]
    judged += calibration.held_out()
    ways = given.recover or ["linear", "lora:start=plain", "lora"]
    with Memo.open(given.memo) as memo:
        for way in ways:
            full = way if way == "linear" else _with_settings(way, given.steps, given.settings)
            measure(model, calibration, judged, given.removed, full, memo)


if __name__ == "__main__":
    main()
