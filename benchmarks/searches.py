"""Every search on the same data: on tiny models against the truth, or on a real one side by side.

Without arguments: five random llamas of twelve blocks, four to be removed. All 495 sets are scored,
so each search's regret is known: how much higher its loss is than the best set's. Every set is
scored on every window (no racing), and each search pays for itself.

With `--model demo` (or any other model): one table of all searches on one calibration. Losses go
through one memo, so that no set is paid for twice: the share recalled says how much of what a
search asked for an earlier one had paid for. Block-tokens and seconds are what was still to be
paid; with `--apart` each search pays for itself.

    python benchmarks/searches.py
    python benchmarks/searches.py --model demo -k 6 \
        -c text:wikitext-valid.txt,windows=16,length=512 --test text:wikitext-test.txt,windows=32
"""

from __future__ import annotations

import argparse
import importlib
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import depthprune as dp
from depthprune.searches import SEARCHES, RemovedSet

_MODELS = 5
_BLOCKS = 12
_K = 4
_TEXT = "stdlib-prose,windows=16,length=64,seed=0"
# From the cheapest up: what one search pays for, later ones recall.
_ORDER = ("last-k", "block-influence", "relative-magnitude", "angular", "taylor", "window")


@dataclass(frozen=True)
class Row:
    """One search on one model: what it found and what it took."""

    removed: RemovedSet
    loss: float
    evaluations: float


def in_order(names: Sequence[str]) -> list[str]:
    return sorted(names, key=lambda n: _ORDER.index(n) if n in _ORDER else len(_ORDER))


def tiny(seed: int, folder: Path) -> dp.Model:
    sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
    save_tiny = importlib.import_module("tiny").save_tiny
    return dp.load(save_tiny(folder, blocks=_BLOCKS, seed=seed), dtype="float32", device="cpu")


def against_the_truth(names: Sequence[str], models: int = _MODELS) -> dict[str, list[Row]]:
    """Every search on every tiny model; the seed of the weights is the search's too."""
    found: dict[str, list[Row]] = {name: [] for name in names}
    for seed in range(models):
        with tempfile.TemporaryDirectory() as folder:
            model = tiny(seed, Path(folder) / "model")
            calibration = dp.calibrate(_TEXT, model)
            with dp.Memo.open(Path(folder) / "memo.sqlite") as memo:
                # What exhaustive has scored is recalled by all others.
                for name in ["exhaustive", *(n for n in names if n != "exhaustive")]:
                    evaluator = dp.Evaluator(model, calibration, racing=None, memo=memo)
                    result = dp.search(name, evaluator, k=_K, seed=seed)
                    row = Row(result.removed, result.score.loss, result.cost.evaluations)
                    found.setdefault(name, []).append(row)
    return found


def regrets(rows: dict[str, list[Row]], name: str) -> list[float]:
    return [a.loss - b.loss for a, b in zip(rows[name], rows["exhaustive"], strict=True)]


def truth_table(rows: dict[str, list[Row]]) -> str:
    lines = [
        "| search | evaluations | mean regret | worst regret | found the best set |",
        "|---|---:|---:|---:|---:|",
    ]
    order = sorted(rows, key=lambda n: (statistics.fmean(regrets(rows, n)), n))
    for name in order:
        lost = regrets(rows, name)
        # Losses of one set that were summed in another order differ in the last digit.
        best = sum(value < 1e-9 for value in lost)
        evaluations = statistics.fmean(row.evaluations for row in rows[name])
        lines.append(
            f"| {name} | {evaluations:.0f} | {max(0.0, statistics.fmean(lost)):.4f} | "
            f"{max(0.0, *lost):.4f} | {best} of {len(lost)} |"
        )
    return "\n".join(lines)


def panel(options: argparse.Namespace) -> None:
    model = dp.load(options.model, dtype=options.dtype)
    calibration = dp.calibrate(options.calibration, model)
    test = dp.calibrate(options.test, model)
    windows = len(calibration.windows)
    racing = dp.Racing() if options.racing else None
    print(
        f"{options.model}, k = {options.k}, {options.objective}, {model.dtype}, {model.device}, "
        f"seed {options.seed}; calibration {' + '.join(options.calibration)} "
        f"({calibration.tokens:,} tokens); held-out {options.test} ({test.tokens:,} tokens); "
        f"{'raced' if racing else 'every set on every window'}"
        f"{f'; budget {options.budget}' if options.budget else ''}\n"
    )
    print(
        "| search | removed | calibration loss | held-out loss | evaluations | block-tokens | "
        "seconds | recalled |\n|---|---|---:|---:|---:|---:|---:|---:|"
    )
    asked = recalled = 0.0
    with tempfile.TemporaryDirectory() as folder:
        place = Path(options.memo) if options.memo else Path(folder) / "memo.sqlite"
        with dp.Memo.open(place) as memo:
            shared = None if options.apart else memo
            held_out_scorer = dp.Evaluator(model, test, options.objective, memo=memo, plain=True)
            for name in in_order(options.searches or SEARCHES.names()):
                evaluator = dp.Evaluator(
                    model, calibration, options.objective, memo=shared, racing=racing
                )
                began = time.perf_counter()
                try:
                    result = dp.search(
                        name, evaluator, k=options.k, seed=options.seed, budget=options.budget
                    )
                except dp.UsageError as error:
                    print(f"{name}: {error}", file=sys.stderr)
                    continue
                seconds = time.perf_counter() - began
                cost = result.cost
                total = max(1.0, (cost.evaluations + 1) * windows)
                asked, recalled = asked + total, recalled + min(total, cost.recalled)
                held_out = held_out_scorer.score([result.removed])[0]
                print(
                    f"| {name} | {','.join(map(str, result.removed))} | {result.score.loss:.4f} | "
                    f"{held_out.loss:.4f} ± {held_out.stderr:.4f} | {cost.evaluations:.1f} | "
                    f"{cost.block_tokens:,} | {seconds:.0f} | "
                    f"{100 * min(1.0, cost.recalled / total):.0f}% |",
                    flush=True,
                )
    print(f"\nOf all losses asked for, {100 * recalled / max(asked, 1.0):.0f}% were recalled.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="a folder, a hub id, a .gguf file, or demo")
    parser.add_argument("-k", type=int, default=6)
    parser.add_argument("-c", dest="calibration", action="append", help="a calibration")
    parser.add_argument("--test", help="a calibration that held-out losses are of")
    parser.add_argument("--objective", default="nll")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--budget", help="what each search may spend, such as 200")
    parser.add_argument("--racing", action="store_true", help="race, as prune does by default")
    parser.add_argument("--apart", action="store_true", help="each search pays for itself")
    parser.add_argument("--memo", help="where losses are kept; by default until the run ends")
    parser.add_argument("searches", nargs="*", help="by default all")
    options = parser.parse_args()
    if options.model is None:
        print(truth_table(against_the_truth(options.searches or SEARCHES.names())))
        return
    options.calibration = options.calibration or ["default"]
    if options.test is None:
        parser.error("--test: expected a calibration that no search sees")
    panel(options)


if __name__ == "__main__":
    main()
