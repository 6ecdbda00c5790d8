"""Recovery: perplexities of the demo model whole, with blocks removed, and recovered.

Maps are fitted on windows of four sources; measured are other text of each (WikiText's own test
split, the held-out tenth of the others) and text of a kind that was not fitted (Shakespeare). Each
removed set is a row of figures by text, with the paired change of the perplexity.

    python benchmarks/recovery.py --corpora ../shared/data --removed 4,5,13,14,25,26
"""

from __future__ import annotations

import argparse
import math
import time

import depthprune as dp
from depthprune.calibration import Calibration
from depthprune.models.loading import Model
from depthprune.models.removal import parse_blocks
from depthprune.study.recovered import judge_recovered

SOURCES = (
    "text:{}/wikitext-2/valid.txt",
    "jsonl:{}/choices/arc-easy-train.jsonl,field=prompt",
    "jsonl:{}/gsm8k/train.jsonl,field=question",
    "stdlib-code",
)
FURTHER = ("text:{}/wikitext-2/test.txt", "text:{}/tinyshakespeare/input.txt")


def texts(model: Model, calibration: Calibration, corpora: str, windows: int) -> list[Calibration]:
    keys = f"windows={windows},length=512"
    further = [dp.calibrate(f"{spec.format(corpora)},{keys}", model) for spec in FURTHER]
    return [*further, *calibration.held_out()]


def measure(model: Model, calibration: Calibration, judged: list[Calibration], blocks: str) -> None:
    began = time.monotonic()
    recovery = dp.recover(model, parse_blocks(blocks), calibration)
    seconds = time.monotonic() - began
    for run in recovery.runs:
        done = run.why_not or (
            f"ridge {run.ridge:g}, strength {run.strength:.2f}, {run.tokens:,} tokens, "
            f"{run.apart} apart; error {run.before:.2f} -> {run.after:.2f}"
        )
        print(f"  {run.blocks} into {run.into}: {done}")
    print(f"\nremoved {blocks}, {calibration.tokens:,} tokens, fitted in {seconds:.0f} s\n")
    print("| text | whole | removed | recovered | recovered / removed |\n|---|---:|---:|---:|---:|")
    for row in judge_recovered(model, judged, "nll", recovery):
        assert row.recovered is not None
        ratio = math.exp(row.recovered_change or 0.0)
        stderr = ratio * (row.recovered_change_stderr or 0.0)
        figures = " | ".join(
            f"{estimate.perplexity:.2f}" for estimate in (row.dense, row.pruned, row.recovered)
        )
        name = row.calibration.split(",")[0].split("/")[-1]
        print(f"| {name} | {figures} | {ratio:.3f} ± {stderr:.3f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpora", default="../shared/data")
    parser.add_argument("--windows", type=int, default=16, help="of 512 tokens, of each source")
    parser.add_argument("--judged", type=int, default=12, help="windows of each further text")
    parser.add_argument("--removed", action="append", help="such as 4,5,13; may be repeated")
    given = parser.parse_args()
    model = dp.load("demo")
    specs = [f"{spec.format(given.corpora)},windows={given.windows}" for spec in SOURCES]
    calibration = dp.calibrate(specs, model)
    judged = texts(model, calibration, given.corpora, given.judged)
    for blocks in given.removed or ["4,5,13,14,25,26"]:
        measure(model, calibration, judged, blocks)


if __name__ == "__main__":
    main()
