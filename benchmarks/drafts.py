"""What a pruned copy is worth as the draft of its original: acceptance, and speed.

    python benchmarks/drafts.py ../shared/data --shares 25 50 70 --measure

Sets are grown greedily on the standard library's prose and code, under each of three objectives;
what of their drafts the whole model would accept is taken on windows of texts that no search saw.
"cost" is what a drafted token takes of one of the model's: the share of blocks that are left, which
is what a large model that is bound by reading its weights pays, or with --measure what decoding
takes here.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from pathlib import Path

import depthprune as dp
from depthprune.models.assisted import best_length, predicted_speedup

TEXTS = {
    "Shakespeare": "text:{data}/tinyshakespeare/input.txt,windows={windows},length=128",
    "wiki": "text:{data}/wikitext-2/test.txt,windows={windows},length=128",
    "GSM8K": "jsonl:{data}/gsm8k/train.jsonl,field=answer,windows={windows},length=128",
}
TRAINED_ON = [
    "stdlib-prose,windows={windows},length=128",
    "stdlib-code,windows={windows},length=128",
]


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="folder of corpora")
    parser.add_argument("--model", default="demo")
    parser.add_argument("--shares", type=int, nargs="+", default=[25, 50, 70], help="percent")
    parser.add_argument("--objectives", nargs="+", default=["acceptance", "kl", "nll"])
    parser.add_argument("--windows", type=int, default=8, help="of each source and text")
    parser.add_argument("--search", default="greedy")
    parser.add_argument("--measure", action="store_true", help="write real checkpoints and bench")
    options = parser.parse_args()
    model = dp.load(options.model)
    sizes = [max(1, round(model.blocks * share / 100)) for share in options.shares]
    trained = [spec.format(windows=options.windows) for spec in TRAINED_ON]
    calibration = dp.calibrate(trained, model)
    judges = {
        name: dp.Evaluator(
            model,
            dp.calibrate(spec.format(data=options.data, windows=options.windows), model),
            "acceptance",
            racing=None,
        )
        for name, spec in TEXTS.items()
        if _is_there(spec, options.data)
    }
    print(f"{options.model}: {model.blocks} blocks, {model.dtype}; {calibration.tokens:,} tokens")
    print("| objective | k | cost | " + " | ".join(f"α {n}" for n in judges) + " | best × |")
    print("|---|---:|---:|" + "---:|" * (len(judges) + 1))
    chosen: dict[int, tuple[int, ...]] = {}
    for objective in options.objectives:
        evaluator = dp.Evaluator(model, calibration, objective)
        path = dp.search(options.search, evaluator, k=max(sizes)).path
        for k in sizes:
            removed = path[k - 1]
            chosen.setdefault(k, removed)
            found = {n: math.exp(-e.score([removed])[0].loss) for n, e in judges.items()}
            cost = 1 - k / model.blocks
            mean = sum(found.values()) / len(found)
            length = best_length(mean, cost)
            speed = predicted_speedup(mean, length, cost)
            cells = " | ".join(f"{value:.3f}" for value in found.values())
            print(f"| {objective} | {k} | {cost:.2f} | {cells} | {speed:.2f} (γ {length}) |")
    if options.measure:
        _measure(options.model, chosen)


def _is_there(spec: str, data: Path) -> bool:
    return Path(spec.format(data=data, windows=1).partition(":")[2].partition(",")[0]).exists()


def _measure(model: str, chosen: dict[int, tuple[int, ...]]) -> None:
    """Real assisted generation with the sets of the first objective."""
    print()
    print("| k | | cost | taken | predicted × | measured × | the same |")
    print("|---:|---|---:|---:|---:|---:|---:|")
    for k, removed in chosen.items():
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "draft"
            dp.prune(
                model,
                k=k,
                out=out,
                protect=[b for b in range(dp.load(model).blocks) if b not in removed],
                calibration="stdlib-prose,windows=1,length=32",
                search="last-k",
                bench=False,
                prompt="One",
            )
            found = dp.bench_draft(model, out)
        for run in found.runs:
            same = "—" if run.equal is None else f"{run.equal} of {run.prompts}"
            print(
                f"| {k} | {'sampled' if run.temperature else 'greedy'} | {found.cost:.2f} | "
                f"{run.acceptance:.2f} | {run.predicted:.2f} | {run.speedup:.2f} | {same} |"
            )


if __name__ == "__main__":
    main()
