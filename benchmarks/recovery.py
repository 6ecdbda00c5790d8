"""Recovery: what it gives back of the demo model, for sets of several sizes and searches.

Maps are fitted on windows of four sources. Measured are WikiText's own test split, the held-out
tenth of each source, text that is like none of them (Shakespeare) or like one (HumanEval's
problems with their solutions), and items with options (ARC-easy, PIQA and BoolQ, test splits); of
each the figure after removal and after recovery, and the paired change; and how many seconds of
processor time fitting took.

    python benchmarks/recovery.py --corpora ../shared/data --memo recovery.sqlite
    python benchmarks/recovery.py --corpora ../shared/data --removed 4,5,13,14,25,26
    python benchmarks/recovery.py --corpora ../shared/data --in-search --k 6
    python benchmarks/recovery.py --corpora ../shared/data --model gemma.gguf --removed 8,9 \
        --recover magnitude --recover linear:refit=none --recover linear --upper-bound

The first finds the sets itself, by one-shot and greedy on fewer windows of the same sources; a
memo lets it go on where it was stopped. The last compares searches that score every set as it is
after recovery with those whose winner alone is recovered, on the same windows. Sets that are given
are recovered in each of the ways that `--recover` names; `--upper-bound` adds LinearPatch's and a
free matrix at each gap (see `upper_bound.py`).
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import depthprune as dp
from depthprune.calibration import Calibration
from depthprune.evaluator import increase
from depthprune.evaluator.memo.store import Memo
from depthprune.models.loading import Model
from depthprune.pruning.recovering.held_out_recovered import judge_recovered
from depthprune.recovery import Linear, Magnitude, RecoveringScorer, parse_method, rescale
from depthprune.recovery.result import RunRecovery
from depthprune.removed_sets import parse_blocks
from upper_bound import BOUNDS, Kind, patched, patches

SOURCES = (
    "text:{}/wikitext-2/valid.txt",
    "jsonl:{}/choices/arc-easy-train.jsonl,field=prompt",
    "jsonl:{}/gsm8k/train.jsonl,field=question",
    "stdlib-code",
)
FURTHER = (
    "text:{}/wikitext-2/test.txt",
    "text:{}/tinyshakespeare/input.txt",
    "jsonl:{}/humaneval/HumanEval.jsonl,prompt=prompt,answer=canonical_solution",
)
ITEMS = ("arc-easy", "piqa", "boolq")
_FURTHER_TEXTS = ("WikiText test", "Shakespeare", "HumanEval")
TEXTS = (*_FURTHER_TEXTS, "WikiText valid", "ARC train", "GSM8K train", "stdlib")
NAMES = (*TEXTS, "ARC-easy test", "PIQA test", "BoolQ test")
SEARCHES = ("one-shot", "greedy")
Set = tuple[int, ...]


class Bench:
    """The model, the windows that maps are fitted on, and the texts that are measured."""

    def __init__(self, given: argparse.Namespace, memo: Memo | None) -> None:
        self.model: Model = dp.load(given.model)
        self.corpora = given.corpora
        self.memo = memo
        self.calibration = self.drawn(given.windows)
        keys = f"windows={given.judged},length=512"
        further = [dp.calibrate(f"{s.format(self.corpora)},{keys}", self.model) for s in FURTHER]
        self.texts = [*further, *self.calibration.held_out()]
        files = [f"choices:{self.corpora}/choices/{name}-test.jsonl" for name in ITEMS]
        self.items = [dp.calibrate(f"{file},windows={given.items}", self.model) for file in files]

    def drawn(self, windows: int) -> Calibration:
        """Windows of each source, in equal shares."""
        specs = [f"{s.format(self.corpora)},windows={windows},length=512" for s in SOURCES]
        return dp.calibrate(specs, self.model)

    def bound(self, removed: Sequence[int], kind: Kind) -> list[str]:
        """The same figures with a matrix at each gap."""
        began = time.process_time()
        context = partial(patched, self.model, patches(self.model, removed, self.calibration, kind))
        cells = [self._fitting(began)]
        for text, objective in self._judged():
            evaluator = dp.Evaluator(self.model, text, objective, memo=self.memo, plain=True)
            (before,) = evaluator.score([tuple(removed)])
            after = evaluator.score_changed(removed, context)
            write = _text_cell if objective == "nll" else _items_cell
            cells.append(write(before.loss, after.loss, *increase(after, before)))
        return cells

    def cells(self, removed: Sequence[int], way: str = "linear", *, say: bool = False) -> list[str]:
        """Recover a set, and its figures text by text, then the accuracies."""
        began = time.process_time()
        method = parse_method(way)
        if isinstance(method, Magnitude):
            recovery = rescale(self.model, removed, self.calibration)
        else:
            assert isinstance(method, Linear)
            recovery = dp.recover(self.model, removed, self.calibration, method)
        cells = [self._fitting(began)]
        if say:
            print(f"<!-- {way}: {'; '.join(map(_done, recovery.runs))} -->")
        for text, objective in self._judged():
            (row,) = judge_recovered(self.model, [text], objective, recovery, memo=self.memo)
            assert row.recovered is not None
            change = (row.recovered_change or 0.0, row.recovered_change_stderr or 0.0)
            write = _text_cell if objective == "nll" else _items_cell
            cells.append(write(row.pruned.loss, row.recovered.loss, *change))
        return cells

    def _judged(self) -> list[tuple[Calibration, str]]:
        return [*((t, "nll") for t in self.texts), *((i, "accuracy") for i in self.items)]

    def _fitting(self, began: float) -> str:
        windows = len(self.calibration.windows)
        return f"{windows} windows, {time.process_time() - began:.0f} s"

    def whole(self) -> list[str]:
        """The same figures of the model with every block."""
        cells = ["none"]
        for text, kind in self._judged():
            loss = dp.Evaluator(self.model, text, kind, memo=self.memo, plain=True).dense.loss
            cells.append(f"{math.exp(loss):.2f}" if kind == "nll" else f"{100 * (1 - loss):.0f}%")
        return cells


def _text_cell(before: float, after: float, change: float, stderr: float) -> str:
    ratio = math.exp(change)
    losses = f"{math.exp(before):.2f} → {math.exp(after):.2f}"
    return f"{losses}, {ratio:.3f} ± {ratio * stderr:.3f}"


def _items_cell(before: float, after: float, change: float, stderr: float) -> str:
    shares = f"{100 * (1 - before):.0f}% → {100 * (1 - after):.0f}%"
    return f"{shares}, {-100 * change + 0.0:+.1f} ± {100 * stderr:.1f}"


def _done(run: RunRecovery) -> str:
    """What was done for a run, in a line."""
    if run.why_not is not None:
        return f"{run.blocks}: {run.why_not}"
    if run.factor is not None:
        return f"{run.blocks}: scaled by {run.factor:.3f}"
    fitted = "" if run.before is None else f", error {run.before:.2f} -> {run.after:.2f}"
    return (
        f"{run.blocks} into {run.into}: strength {run.strength:.2f}, {run.tokens:,} tokens, "
        f"{run.apart} apart{fitted}"
    )


def found_sets(
    bench: Bench, searches: Sequence[str], windows: int, sizes: Sequence[int]
) -> Iterator[tuple[str, Set]]:
    """The sets of each size on each search's nested path."""
    calibration = bench.drawn(windows)
    for name in searches:
        evaluator = dp.Evaluator(bench.model, calibration, memo=bench.memo)
        result = dp.search(name, evaluator, k=max(sizes))
        for k in sizes:
            yield name, tuple(sorted(result.path[k - 1]))


def searched_sets(
    bench: Bench, searches: Sequence[str], windows: int, sizes: Sequence[int]
) -> Iterator[tuple[str, Set]]:
    """What each search chooses, and what it chooses if it scores recovered sets.

    Of each, the sets of all sizes on its path, which are what it would have ended with.
    """
    calibration = bench.drawn(windows)
    for name in searches:
        for knows in (False, True):
            scorer: Any = (
                RecoveringScorer(bench.model, calibration)
                if knows
                else dp.Evaluator(bench.model, calibration, racing=None)
            )
            result = dp.search(name, scorer, k=max(sizes))
            cost = result.cost
            print(
                f"<!-- {name}, recovered sets: {knows}: {cost.block_tokens:,} block-tokens, "
                f"{cost.evaluations:g} sets, {cost.seconds:.0f} s -->",
                flush=True,
            )
            for k in sizes:
                label = name + (", recovered sets" if knows else "")
                yield label, tuple(sorted(result.path[k - 1]))


def table(
    bench: Bench, sets: Iterator[tuple[str, Set]], ways: Sequence[str], *, say: bool, bound: bool
) -> None:
    """One row a set, each printed when it is measured."""
    heads = ("search", "k", "removed", "fitting", *NAMES)
    print(f"| {' | '.join(heads)} |\n|---|---:|---|---|{'---:|' * len(NAMES)}")
    print(f"| whole model | 0 | | {' | '.join(bench.whole())} |", flush=True)
    for name, removed in sets:
        blocks = ", ".join(map(str, removed))
        for way in ways:
            cells = bench.cells(removed, way, say=say)
            label = way if say else name
            print(f"| {label} | {len(removed)} | {blocks} | {' | '.join(cells)} |", flush=True)
        for label, kind in BOUNDS.items() if bound else ():
            cells = bench.bound(removed, kind)
            print(f"| {label} | {len(removed)} | {blocks} | {' | '.join(cells)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpora", default="../shared/data")
    parser.add_argument("--windows", type=int, default=16, help="of 512 tokens, of each source")
    parser.add_argument("--judged", type=int, default=12, help="windows of each further text")
    parser.add_argument("--items", type=int, default=100, help="with options, of each task")
    parser.add_argument("--removed", action="append", help="such as 4,5,13; may be repeated")
    parser.add_argument("--model", default="demo", help="a folder, a hub id or a GGUF")
    parser.add_argument("--recover", action="append", help="ways to recover; by default linear")
    parser.add_argument("--upper-bound", action="store_true", help="a free matrix at each gap")
    parser.add_argument("--k", default="3,6,9", help="sizes of the sets that are searched for")
    parser.add_argument("--search-windows", type=int, default=4, help="of each source")
    parser.add_argument(
        "--in-search", action="store_true", help="compare searches that know and do not"
    )
    parser.add_argument("--memo", help="keeps losses of the model as it is, to go on with")
    parser.add_argument("--search", action="append", choices=SEARCHES, help="by default both")
    given = parser.parse_args()
    searches = given.search or SEARCHES
    sizes = [int(k) for k in given.k.split(",")]
    with Memo.open(Path(given.memo)) if given.memo else nullcontext() as memo:
        bench = Bench(given, memo)
        if given.removed:
            sets = iter([("given", parse_blocks(blocks)) for blocks in given.removed])
        elif given.in_search:
            sets = searched_sets(bench, searches, given.search_windows, sizes)
        else:
            sets = found_sets(bench, searches, given.search_windows, sizes)
        ways = given.recover or ["linear"]
        table(bench, sets, ways, say=bool(given.removed), bound=given.upper_bound)


if __name__ == "__main__":
    main()
