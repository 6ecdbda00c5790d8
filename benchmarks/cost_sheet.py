"""What a study's grid costs on 1, 8 and 64 GPUs: counted work over a rate, no model needed.

    python benchmarks/cost_sheet.py docs/recipes/paper-v1.yaml
    python benchmarks/cost_sheet.py docs/recipes/paper-v1.yaml --measure     (on one of the GPUs)

Searches are rehearsed on made-up losses, as `study --dry-run` does, on models of which only the
shape is known; what they ask for is cut among workers as a study cuts it. The rate is stated:
`--flops` of a GPU times `--utilisation` (by default an H100's 989e12 in bfloat16, and 0.4); or,
with `--measure`, that of the evaluator on the device at hand, on a model of `--blocks` blocks of
the first model's shape and random weights, loaded as `depthprune` does (some 3 GB on disk). A
block-token is two operations for each parameter of a block, and four for each token before it and
each number that attention compares; a head-token is two for each parameter of the head.
Loading, recovery, parity, generation and the start of workers are left out. Takes four minutes, of
which the search `bayesian` takes nearly all.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import depthprune as dp
from depthprune.evaluator import RemovedSet
from depthprune.evaluator.memory import call_tokens
from depthprune.evaluator.prefix_walk import block_runs
from depthprune.evaluator.rehearsal import Rehearsal
from depthprune.evaluator.shards import Work, cut
from depthprune.pruning.session import Loading
from depthprune.searches import search
from depthprune.study.grid import Cell, Grid, read_grid
from depthprune.study.plan_reader import Specs

CALL = 16_384
"""Tokens that share a call on a GPU."""


@dataclass(frozen=True)
class Shape:
    """A model's numbers, as its config has them."""

    blocks: int
    hidden: int
    inner: int
    heads: int
    key_heads: int
    head: int
    vocabulary: int

    def block(self, length: int) -> float:
        """Operations of a token in a block, where a window has so many tokens."""
        own = self.heads * self.head
        attention = self.hidden * (2 * own + 2 * self.key_heads * self.head)
        # A token compares itself with half of its window.
        return 2.0 * (attention + 3 * self.hidden * self.inner) + 2.0 * length * own

    @property
    def top(self) -> float:
        """Operations of a token in the head."""
        return 2.0 * self.hidden * self.vocabulary


_LLAMA = Shape(32, 4096, 14336, 32, 8, 128, 128_256)
SHAPES = {
    "meta-llama/Meta-Llama-3-8B": _LLAMA,
    "meta-llama/Llama-3.1-8B": _LLAMA,
    "Qwen/Qwen3-8B": Shape(36, 4096, 12288, 32, 8, 128, 151_936),
}
WINDOWS = {
    # About 150 tokens an item, options included; 141 windows of Llama 3's tokenizer; 5,153 passages
    # of about 90 tokens, joined.
    "commonsense": (128, 150),
    "wikitext-2": (141, 2048),
    "lambada": (226, 2048),
}
"""How many windows of how many tokens, where a spec does not say it; `--windows` says otherwise."""
TASKS = {
    # Requests (items times options) times about so many tokens.
    "hellaswag": 40_168 * 90,
    "winogrande": 2_534 * 23,
    "arc_easy": 9_501 * 32,
    "arc_challenge": 4_687 * 38,
    "piqa": 3_676 * 37,
    "boolq": 6_540 * 145,
}
"""Tokens of the harness's tasks; others are left out, and said."""


@dataclass(frozen=True)
class Text:
    """Windows of one length, a few of which share a call."""

    windows: int
    length: int

    @property
    def calls(self) -> list[int]:
        """Tokens of each call."""
        each = max(1, CALL // self.length)
        full, rest = divmod(self.windows, each)
        return [each * self.length] * full + [rest * self.length] * bool(rest)


class Recorded(Rehearsal):
    """A rehearsal on one token, that keeps what had to be computed."""

    def __init__(self, blocks: int) -> None:
        super().__init__(blocks, 1, 1, 64)
        self.asked: list[list[RemovedSet]] = []

    def _pay(self, new: Sequence[RemovedSet], share: float) -> None:
        assert share == 1, "a search that looks at some windows first is not counted here"
        self.asked.append(list(new))
        super()._pay(new, share)


@cache
def rehearsed(
    blocks: int, cells: tuple[tuple[str, int, int], ...], protect: RemovedSet
) -> Recorded:
    """What cells that share a draw and an objective ask for, each set once."""
    recorded = Recorded(blocks)
    for name, k, seed in cells:
        recorded.forget_asked()
        result = search(name, recorded, k=k, seed=seed, protect=protect)
        recorded.score([(), *((block,) for block in result.removed)])
    return recorded


def groups(cells: Sequence[Cell]) -> Iterator[list[Cell]]:
    """Cells that share a draw and an objective."""
    for _, group in itertools.groupby(cells, key=lambda c: (c.calibration, c.draw, c.objective)):
        yield list(group)


def busiest(costs: Sequence[float], workers: int) -> float:
    """What the busiest worker has to do, where each takes the dearest piece that is left."""
    busy = [0.0] * workers
    for cost in sorted(costs, reverse=True):
        heapq.heapreplace(busy, busy[0] + cost)
    return max(busy)


def spread(shape: Shape, text: Text, sets: Sequence[RemovedSet], workers: int) -> float:
    """Operations of the busiest worker, where an ask is cut among all."""
    work = [Work(((place,),), tokens, sets) for place, tokens in enumerate(text.calls)]
    shards = cut(work, shape.blocks, workers)
    tokens = text.calls
    return busiest(
        [
            shard.cost * shape.block(text.length)
            + len(shard.sets) * sum(tokens[call[0]] for call in shard.calls) * shape.top
            for shard in shards
        ],
        workers,
    )


@dataclass
class Phase:
    """A part of a study: what it is in all, and what the busiest of some workers does."""

    name: str
    block_tokens: float
    head_tokens: float
    operations: float
    busy: dict[int, float]
    limit: str


def searching(
    shape: Shape, grid: Grid, cells: Sequence[Cell], texts: dict[str, Text], gpus: Sequence[int]
) -> Phase:
    """Every cell's search."""
    units = []
    for group in groups(cells):
        asked = rehearsed(
            shape.blocks, tuple((c.search, c.k, c.seed) for c in group), grid.protect
        ).asked
        units.append((texts[group[0].calibration], asked))
    blocks = heads = 0
    whole = []
    for text, asked in units:
        tokens = text.windows * text.length
        runs = tokens * sum(block_runs(sets, shape.blocks) for sets in asked)
        tops = tokens * sum(map(len, asked))
        blocks, heads = blocks + runs, heads + tops
        whole.append(runs * shape.block(text.length) + tops * shape.top)
    busy = {
        workers: busiest(whole, workers)
        if len(units) >= workers
        else sum(spread(shape, text, sets, workers) for text, asked in units for sets in asked)
        for workers in gpus
    }
    return Phase(
        "searching", blocks, heads, sum(whole), busy, "asks of a set or two have too few calls"
    )


def judging(
    shape: Shape, cells: Sequence[Cell], texts: dict[str, Text], gpus: Sequence[int]
) -> Phase:
    """Every cell's set and the whole model, on every text."""
    few = sum(1 for _ in groups(cells))
    pieces = [(text, left) for left in (0, *(c.k for c in cells)) for text in texts.values()]
    costs, blocks, heads = [], 0, 0
    for text, k in pieces:
        tokens = text.windows * text.length
        blocks, heads = blocks + tokens * (shape.blocks - k), heads + tokens
        costs.append(tokens * ((shape.blocks - k) * shape.block(text.length) + shape.top))
    busy = {
        workers: busiest(costs, workers)
        if few >= workers
        else sum(spread(shape, text, [tuple(range(k))], workers) for text, k in pieces)
        for workers in gpus
    }
    return Phase(
        "judging", blocks, heads, sum(costs), busy, "a text has fewer calls than there are workers"
    )


def finalists(shape: Shape, grid: Grid, gpus: Sequence[int]) -> Phase:
    """The whole model and the best sets of each k, on the harness's tasks."""
    sets = [0, *(k for k in grid.plan.k for _ in range(grid.plan.finalists))]
    known = [TASKS[task] for task in grid.tasks if task in TASKS]
    each = {k: (shape.blocks - k) * shape.block(64) + shape.top for k in set(sets)}
    busy = {}
    for workers in gpus:
        parts = -(-workers // len(sets))
        pieces = [sum(known[part::parts]) * each[k] for k in sets for part in range(parts)]
        busy[workers] = busiest(pieces, workers)
    tokens = sum(known)
    return Phase(
        "finalists",
        tokens * sum(shape.blocks - k for k in sets),
        tokens * len(sets),
        sum(tokens * each[k] for k in sets),
        busy,
        f"{len(sets)} sets, and one task is most of the work",
    )


LENGTH = 2048
"""Tokens of a window on which the rate is measured."""


def random_model(shape: Shape, blocks: int, folder: str) -> None:
    """Save a model of so many blocks of a shape, with random weights."""
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    config = LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.inner,
        num_hidden_layers=blocks,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.key_heads,
        head_dim=shape.head,
        max_position_embeddings=2 * LENGTH,
        tie_word_embeddings=True,
    )
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(folder)
    # Any tokenizer does that has fewer tokens.
    Loading("demo").find().tokenizer().save_pretrained(folder)


def measured(shape: Shape, blocks: int) -> float:
    """Operations a second that the evaluator does on this machine, on one-shot's sets."""
    with tempfile.TemporaryDirectory() as folder:
        random_model(shape, blocks, folder)
        model = dp.load(folder)
        count = 2 * max(1, call_tokens(model) // LENGTH) + 1
        spec = f"stdlib-code,windows={count},length={LENGTH}"
        evaluator = dp.Evaluator(model, dp.calibrate(spec, model))
        sets = [(block,) for block in range(blocks)]
        # Kernels are chosen and memory is taken before the clock starts.
        evaluator.score(sets, windows=1)
        before, began = evaluator.cost, time.perf_counter()
        evaluator.score(sets)
        seconds, spent = time.perf_counter() - began, evaluator.cost - before
    rate = (spent.block_tokens * shape.block(LENGTH) + spent.head_tokens * shape.top) / seconds
    print(
        f"measured on {model.device} in {model.dtype}: {rate / 1e12:.3g} TFLOP/s, "
        f"{spent.block_tokens / seconds:,.0f} block-tokens a second with their heads "
        f"({blocks} blocks, {count - 1} windows of {LENGTH:,} tokens, {seconds:.1f} s)\n"
    )
    return rate


def text_of(name: str, specs: Specs, windows: dict[str, tuple[int, int]]) -> Text:
    """How much a spec draws."""
    if name in windows:
        return Text(*windows[name])
    count = specs[0].windows
    if len(specs) > 1 or not isinstance(count, int):
        raise SystemExit(f"{name}: how much is drawn is not known; say --windows {name}=141x2048")
    return Text(count, specs[0].length)


def main() -> None:
    """Print what is counted, and the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("plan", type=Path)
    parser.add_argument("--flops", type=float, default=989e12, help="of a GPU, a second")
    parser.add_argument("--utilisation", type=float, default=0.4)
    parser.add_argument("--measure", action="store_true", help="the rate, on this machine")
    parser.add_argument("--blocks", type=int, default=4, help="of the model that is measured")
    parser.add_argument(
        "--rate", type=float, help="measured: block-tokens a second of the first model, 2,048 long"
    )
    parser.add_argument(
        "--windows",
        action="append",
        default=[],
        metavar="NAME=NxL",
        help="of a text or calibration",
    )
    parser.add_argument("--gpus", type=int, nargs="+", default=[1, 8, 64])
    options = parser.parse_args()
    gpus: list[int] = options.gpus
    windows = dict(WINDOWS)
    for each in options.windows:
        name, _, size = each.partition("=")
        count, _, length = size.partition("x")
        windows[name] = (int(count), int(length))
    grid = read_grid(options.plan)
    rate = options.flops * options.utilisation
    if options.measure:
        rate = measured(SHAPES[grid.cells[0].model], options.blocks)
    elif options.rate is not None:
        rate = options.rate * SHAPES[grid.cells[0].model].block(2048)
    calibrations = {n: text_of(n, c.specs, windows) for n, c in grid.calibrations.items()}
    texts = {n: text_of(n, specs, windows) for n, specs in grid.texts.items()}
    phases: list[Phase] = []
    print("| model | phase | block-tokens | head-tokens | block-tokens a second |")
    print("|---|---|---:|---:|---:|")
    for name, of_model in itertools.groupby(grid.cells, key=lambda cell: cell.model):
        cells, shape = list(of_model), SHAPES[name]
        found = [searching(shape, grid, cells, calibrations, gpus)]
        found.append(judging(shape, cells, texts, gpus))
        found += [finalists(shape, grid, gpus)] * bool(grid.tasks)
        for each in found:
            speed = each.block_tokens / each.operations * rate
            print(
                f"| {name} | {each.name} | {each.block_tokens / 1e9:,.2f}G | "
                f"{each.head_tokens / 1e9:,.2f}G | {speed / 1e3:,.0f}k |"
            )
        phases += found
    left_out = [task for task in grid.tasks if task not in TASKS]
    print(f"left out: {', '.join(left_out)}\n" if left_out else "")
    names = list(dict.fromkeys(each.name for each in phases))
    print(
        "| GPUs | "
        + " | ".join(f"{name}, h" for name in names)
        + " | all, h | of the best | limit |"
    )
    print("|---:|" + "---:|" * len(names) + "---:|---:|---|")
    total = sum(each.operations for each in phases)
    for workers in gpus:
        hours = [
            sum(e.busy[workers] for e in phases if e.name == name) / rate / 3600 for name in names
        ]
        idle = {
            name: sum(e.busy[workers] - e.operations / workers for e in phases if e.name == name)
            for name in names
        }
        worst = max(names, key=lambda name: idle[name])
        reason = next(e.limit for e in phases if e.name == worst)
        limit = f"{worst}: {reason}" if idle[worst] > 0.02 * total / workers else "the rate"
        best = total / rate / 3600 / workers / sum(hours)
        print(
            f"| {workers} | "
            + " | ".join(f"{each:.2f}" for each in hours)
            + f" | {sum(hours):.2f} | {best:.0%} | {limit} |"
        )


if __name__ == "__main__":
    main()
