"""What a pruned copy is worth as the draft of its original: acceptance, and speed.

    python benchmarks/drafts.py ../shared/data --quick -o drafts-rows.jsonl
    python benchmarks/drafts.py ../shared/data --quick --pieces drafts -o drafts-rows.jsonl
    python benchmarks/drafts.py ../shared/data --model gemma.gguf -o drafts-rows.jsonl

Sets are grown on the standard library's prose and code, by two searches under three objectives.
What the whole model would accept of their drafts (α) is taken on windows of texts that no search
saw, and after `--recover linear` too. Then the sets that greedy
found under the first objective write drafts for the whole model, which is timed; each token that
was looked at had a chance of being taken, and the mean of those is the acceptance predicted for
just these tokens. They are healed by training as well, if `--pieces lora` asks for it.

Every piece is a row of the output file as soon as it is measured, and what is there is not measured
again, so that this can be stopped at any time and goes on where it was. The tables at the end are
of the rows that there are; `--tables` prints them alone. `--quick` takes fewer windows.

The last column of the first table is for a model of 8 billion parameters on a GPU whose decoding is
bound by reading weights: its 32 blocks are 93% of what is read for a token (6.98 of 7.50 billion
weights of Llama 3.1 8B, the head being the rest), so that a drafted token costs c = 1 - 0.93 k/N.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import tempfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

import depthprune as dp
from depthprune.evaluator import Score
from depthprune.models.assisted import (
    DraftCounts,
    best_length,
    first_mismatch,
    predicted_speedup,
    write,
)
from depthprune.recovery import recovered

TEXTS = {
    "prose": "text:{data}/wikitext-2/test.txt",
    "code": "stdlib-code",
    "GSM8K": "jsonl:{data}/gsm8k/train.jsonl,field=answer",
}
TRAINED_ON = ("stdlib-prose", "stdlib-code")
OBJECTIVES = ("acceptance", "kl", "nll")
SEARCHES = ("one-shot", "greedy")
PIECES = ("sets", "drafts", "recovery")
HEALED = dp.LoRA(steps=80, batch=8)
BLOCKS_OF_8B = 0.93
"""The share of the weights read for a token that the blocks of a model of 8 billion have."""
LENGTH, NEW, PROMPT = 4, 32, 32
Row = dict[str, Any]
Set = tuple[int, ...]
Way = bool | str
"""Whether something was recovered: linearly if it is True, else by what it names."""


class Rows:
    """What was measured so far, in a file of a JSON document a line."""

    def __init__(self, file: Path, model: str, size: str) -> None:
        self._file = file
        self._key = {"model": model, "size": size}
        lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
        rows = [json.loads(line) for line in lines]
        self._rows: list[Row] = [row for row in rows if row.items() >= self._key.items()]

    def of(self, kind: str, **key: Any) -> list[Row]:
        """Rows of a kind."""
        wanted = {"kind": kind, **key}.items()
        return [row for row in self._rows if all(row[k] == v for k, v in wanted if k in row)]

    def add(self, kind: str, **facts: Any) -> Row:
        """Keep a row."""
        row = {"kind": kind, **self._key, **facts}
        self._rows.append(row)
        with self._file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        print(str({k: v for k, v in row.items() if k not in ("model", "size")})[:150], flush=True)
        return row


class Bench:
    """A model, the windows that searches see, and those that judge."""

    def __init__(self, asked: argparse.Namespace, rows: Rows) -> None:
        self.rows = rows
        self.model = dp.load(asked.model)
        self.sizes = _sizes(self.model.blocks, asked.shares)
        windows, self.judged, self.prompts, fitted = (
            (2, 6, 6, 16) if asked.quick else (8, 16, 8, 32)
        )
        self.trained = self._drawn(TRAINED_ON, windows)
        self._fitted = self._drawn(TRAINED_ON, fitted)
        self.texts = {
            name: self._drawn([spec.format(data=asked.data)], self.judged, "held-out")
            for name, spec in TEXTS.items()
        }
        self.judges = {
            name: dp.Evaluator(self.model, text, "acceptance", racing=None)
            for name, text in self.texts.items()
        }

    def _drawn(self, specs: Sequence[str], windows: int, split: Any = "draw") -> Any:
        keys = f"windows={windows},length=128,order=random"
        return dp.calibrate([f"{spec},{keys}" for spec in specs], self.model, split=split)

    @cached_property
    def _original(self) -> str:
        """What is cut: of a GGUF, the folder that it unpacks to.

        llama.cpp knows some models' kinds of blocks by their numbers, and then a file cannot hold
        every set.
        """
        if self.model.source.gguf is None:
            return str(self.model.source.name)
        self._unpacked = tempfile.TemporaryDirectory()
        module: Any = self.model.module
        module.save_pretrained(self._unpacked.name)
        self.model.tokenizer.save_pretrained(self._unpacked.name)
        return self._unpacked.name

    def find(self, search: str, objective: str) -> None:
        """The sets of all sizes that a search finds."""
        key = {"search": search, "objective": objective}
        if self.rows.of("sets", **key):
            return
        evaluator = dp.Evaluator(self.model, self.trained, objective)
        found = dp.search(search, evaluator, k=max(self.sizes))
        sets = {str(k): found.path[k - 1] for k in self.sizes}
        spent = evaluator.cost.block_tokens
        self.rows.add("sets", **key, sets=sets, tokens=self.trained.tokens, block_tokens=spent)

    def judge(self) -> None:
        """What is accepted of each set's drafts."""
        for text, judge in self.judges.items():
            unknown = [
                removed
                for removed in _sets(self.rows)
                if not self.rows.of("accepted", text=text, removed=list(removed), recovered=False)
            ]
            for score in judge.score(unknown):
                self._keep(text, score, changed=False)

    def recover(self, removed: Set) -> None:
        """The same after recovery."""
        self._changed(removed, True, lambda: dp.recover(self.model, removed, self._fitted))

    def heal(self, removed: Set) -> None:
        """The same after training, on what recovery is fitted on."""
        way = HEALED.name
        self._changed(removed, way, lambda: dp.distil(self.model, removed, self._fitted, HEALED))

    def _changed(self, removed: Set, way: Way, mend: Callable[[], dp.Recovery]) -> None:
        key = {"removed": list(removed), "recovered": way}
        missing = [text for text in self.judges if not self.rows.of("accepted", text=text, **key)]
        if not missing:
            return
        recovery = mend()
        for text in missing:
            score = self.judges[text].score_changed(
                removed, lambda: recovered(self.model, recovery)
            )
            self._keep(text, score, changed=way)

    def _keep(self, text: str, score: Score, *, changed: Way) -> None:
        each = np.exp(-score.window_losses)
        self.rows.add(
            "accepted",
            text=text,
            removed=list(score.removed),
            recovered=changed,
            mean=float(each.mean()),
            stderr=float(each.std(ddof=1) / math.sqrt(len(each))),
            tokens=score.tokens,
        )

    def draft(self, removed: Set) -> None:
        """The whole model writes with the drafts of a copy without these blocks."""
        keys = [
            {"k": len(removed), "text": text, "temperature": temperature}
            for text in self.texts
            for temperature in (0.0, 1.0)
        ]
        missing = [key for key in keys if not self.rows.of("written", **key)]
        if not missing:
            return
        with _copy(self._original, removed) as copy:
            for key in missing:
                self.rows.add("written", **key, **self._written(copy, key))

    def _written(self, copy: Any, key: Row) -> Row:
        """What became of drafts; greedily the time as well, with and without them in turns."""
        temperature = key["temperature"]
        prompts = [window.tokens[:PROMPT].tolist() for window in self.texts[key["text"]].windows]
        modules, drafted, chances = (self.model.module, copy), DraftCounts(LENGTH), []
        costs, speeds, same = [], [], 0
        for module in modules:
            write(module, prompts[0], 2)
        for number, prompt in enumerate(prompts[: self.prompts]):
            # What is taken of one row's drafts must not be chance that another row shares.
            seed = zlib.crc32(json.dumps([key, number]).encode())
            before = len(drafted.taken)
            helped = write(
                modules[0],
                prompt,
                NEW,
                draft=copy,
                drafted=drafted,
                temperature=temperature,
                seed=seed,
            )
            shared = _chances(modules, prompt, helped.tokens, temperature)
            chances += [shared[p] for p in _looked_at(drafted, before)]
            if not temperature:
                alone, small = (write(module, prompt, NEW) for module in modules)
                costs.append(small.seconds / alone.seconds)
                speeds.append(alone.seconds / helped.seconds)
                same += first_mismatch(alone.tokens, helped.tokens) is None
        timed = {
            "cost": statistics.median(costs or [math.nan]),
            "speedup": statistics.median(speeds or [math.nan]),
            "same": same,
        }
        return {
            "taken": sum(drafted.taken),
            "looked_at": len(chances),
            "predicted": float(np.mean(chances)),
            "variance": sum(p * (1 - p) for p in chances),
            "prompts": min(self.prompts, len(prompts)),
            **({} if temperature else timed),
        }


@contextmanager
def _copy(original: str, removed: Set) -> Iterator[Any]:
    """A model without some blocks, written and loaded."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "draft"
        dp.apply(original, removed, out)
        yield dp.load(out).module


def _looked_at(drafted: DraftCounts, first: int) -> Iterator[int]:
    """Places of a continuation whose drafted token was looked at."""
    place = 0
    for taken, offered in zip(drafted.taken[first:], drafted.offered[first:], strict=True):
        yield from range(place, place + min(taken + 1, offered))
        place += taken + 1


@torch.inference_mode()
def _chances(
    modules: Sequence[Any], prompt: list[int], written: Sequence[int], temperature: float
) -> list[float]:
    """By place of a continuation, the chance that a token drafted there is taken."""
    ids = torch.tensor([[*prompt, *written]])
    logits = [module(ids).logits[0, len(prompt) - 1 : -1].float() for module in modules]
    if not temperature:
        agree: list[float] = (logits[0].argmax(-1) == logits[1].argmax(-1)).float().tolist()
        return agree
    p, q = ((each / temperature).softmax(-1) for each in logits)
    taken: list[float] = torch.minimum(p, q).sum(-1).tolist()
    return taken


def _sizes(blocks: int, shares: Sequence[int]) -> list[int]:
    return [max(1, round(blocks * share / 100)) for share in shares]


def _sets(rows: Rows, **key: str) -> list[Set]:
    found = {tuple(s) for row in rows.of("sets", **key) for s in row["sets"].values()}
    return sorted(found, key=lambda removed: (len(removed), removed))


def main() -> None:
    """Measure what is missing, and print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("data", type=Path, help="folder of corpora")
    parser.add_argument("--model", default="demo")
    parser.add_argument("--shares", type=int, nargs="+", default=[25, 50, 70], help="percent")
    parser.add_argument("--searches", nargs="+", default=SEARCHES, choices=SEARCHES)
    parser.add_argument("--objectives", nargs="+", default=OBJECTIVES, choices=OBJECTIVES)
    parser.add_argument("--pieces", nargs="+", default=PIECES, choices=(*PIECES, "lora"))
    parser.add_argument("--quick", action="store_true", help="fewer windows")
    parser.add_argument("--tables", action="store_true", help="measure nothing")
    parser.add_argument("-o", "--out", type=Path, default=Path("drafts-rows.jsonl"))
    asked = parser.parse_args()
    rows = Rows(asked.out, asked.model, "quick" if asked.quick else "full")
    if not asked.tables:
        bench = Bench(asked, rows)
        rows.of("model") or rows.add(
            "model", blocks=bench.model.blocks, dtype=bench.model.dtype, sizes=bench.sizes
        )
        _measure(bench, asked)
    _acceptances(rows)
    _drafts(rows)
    _healed(rows)


def _measure(bench: Bench, asked: argparse.Namespace) -> None:
    """The pieces that are asked for, the most telling sets first."""
    if "sets" in asked.pieces:
        for search in asked.searches:
            for objective in asked.objectives:
                bench.find(search, objective)
                bench.judge()
    grown = _sets(bench.rows, search="greedy", objective=OBJECTIVES[0])
    if "drafts" in asked.pieces:
        for removed in grown:
            bench.draft(removed)
    if "recovery" in asked.pieces:
        for removed in dict.fromkeys([*grown, *_sets(bench.rows)]):
            bench.recover(removed)
    if "lora" in asked.pieces:
        for removed in grown:
            bench.heal(removed)


def _acceptances(rows: Rows) -> None:
    """The first table: what is accepted, before and after recovery, and what that gains."""
    (model,) = rows.of("model")
    print(f"\n{model['model']}: {model['blocks']} blocks, {model['dtype']}\n")
    heads = [f"α {text}" for text in TEXTS]
    print(f"| k | search | objective | {' | '.join(heads)} | mean → recovered | 8B |")
    print("|---:|---|---|" + "---:|" * (len(heads) + 2))
    for k in model["sizes"]:
        for row in sorted(rows.of("sets"), key=_in_order):
            removed = list(row["sets"][str(k)])
            before, after = (
                rows.of("accepted", removed=removed, recovered=changed) for changed in (False, True)
            )
            cells = [f"{a['mean']:.3f} ± {2 * a['stderr']:.3f}" for a in before]
            means = [statistics.mean(a["mean"] for a in each) for each in (before, after) if each]
            cost = 1 - BLOCKS_OF_8B * k / model["blocks"]
            cells += [" → ".join(f"{mean:.3f}" for mean in means)]
            cells += [" → ".join(_gain(mean, cost) for mean in means)]
            print(f"| {k} | {row['search']} | {row['objective']} | {' | '.join(cells)} |")


def _in_order(row: Row) -> tuple[int, int]:
    return SEARCHES.index(row["search"]), OBJECTIVES.index(row["objective"])


def _gain(alpha: float, cost: float) -> str:
    length = best_length(alpha, cost)
    return f"× {predicted_speedup(alpha, length, cost):.2f} (γ {length})"


def _drafts(rows: Rows) -> None:
    """The second table: drafts that were written, and all texts of a size together."""
    print("\n| k | text | sampled: predicted α | seen | greedy: seen | c | predicted | measured |")
    print("|---:|---|---:|---:|---:|---:|---:|---:|")
    (model,) = rows.of("model")
    for k in model["sizes"]:
        sampled, greedy = (rows.of("written", k=k, temperature=t) for t in (1.0, 0.0))
        for row in sampled:
            cells = [row["text"], *_sampled([row])]
            for other in (o for o in greedy if o["text"] == row["text"]):
                seen = other["taken"] / other["looked_at"]
                gain = predicted_speedup(seen, LENGTH, other["cost"])
                cells += [f"{seen:.3f} ({other['same']} of {other['prompts']} the same)"]
                cells += [f"{other['cost']:.2f}", f"× {gain:.2f}", f"× {other['speedup']:.2f}"]
            print(f"| {k} | {' | '.join(cells)} |")
        if sampled:
            print(f"| {k} | all | {' | '.join(_sampled(sampled))} | | | | |")


def _healed(rows: Rows) -> None:
    """The third table: the mean acceptance of greedy's sets as they are, mended, and trained."""
    print("\n| k | removed | as it is | `linear` | `lora` |\n|---:|---|---:|---:|---:|")
    for removed in _sets(rows, search="greedy", objective=OBJECTIVES[0]):
        cells = []
        for way in (False, True, HEALED.name):
            found = rows.of("accepted", removed=list(removed), recovered=way)
            cells.append(f"{statistics.mean(row['mean'] for row in found):.3f}" if found else "")
        blocks = ", ".join(map(str, removed))
        print(f"| {len(removed)} | {blocks} | {' | '.join(cells)} |")


def _sampled(rows: Sequence[Row]) -> list[str]:
    """The acceptance that was predicted for what was looked at, and that was seen."""
    count = sum(row["looked_at"] for row in rows)
    predicted = sum(row["predicted"] * row["looked_at"] for row in rows) / count
    spread = 2 * math.sqrt(sum(row["variance"] for row in rows)) / count
    return [f"{predicted:.3f} ± {spread:.3f}", f"{sum(r['taken'] for r in rows) / count:.3f}"]


if __name__ == "__main__":
    main()
