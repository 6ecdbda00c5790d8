"""Choosing the calibration by a task, against what a user would do without.

    python benchmarks/auto.py DATA [--model demo] [--targets arc-easy,shakespeare,…] [-k 3,6]
                              [--splits 3] [--tokens 8192] [--random] [--memo FILE] [-o rows.jsonl]

DATA holds the public corpora: ARC-easy and its like in `choices/`, with `gsm8k/train.jsonl`,
`tinyshakespeare/input.txt` and `humaneval/HumanEval.jsonl`. For each target, k and split it prints,
on the part of the target that decided nothing:

- `auto`: the set that `prune --for` takes;
- `default`, `task`: the search (greedy) on all windows of the default calibration and of the task;
- `one-shot default`, `one-shot task`: the same by one-shot;
- `hindsight`: the best set that any calibration gave, had the judged part chosen it;
- `random`: with `--random`, the best on the task of as many random sets as the same cost pays for.

Each with its loss, how far it is above auto's with the paired standard error, and accuracy of
items. Then the mean rank, the regret against hindsight, and the mean advantage over `default` and
`task` with a 95% interval over targets. `--tokens` sizes everything: calibrations, and what chooses
and judges. Rows already in the output file are not measured again. A target on which the whole
model is at chance is refused, and told.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import statistics
import time
from collections import defaultdict
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from scipy import stats

from depthprune.calibration import Calibration
from depthprune.errors import UsageError
from depthprune.evaluator import Evaluator, Memo, Racing, RemovedSet, increase
from depthprune.progress import SILENT
from depthprune.pruning.session import Loading, read_tokenizer
from depthprune.pruning.target.auto import Chosen, Resources, choose
from depthprune.pruning.target.options import TargetJob
from depthprune.pruning.target.task import TargetTask, parse_target, read_target
from depthprune.pruning.target.trials import Rules
from depthprune.searches import make_search, make_space
from depthprune.searches.common.moves import random_set

TARGETS = {
    "arc-easy": "choices:{}/choices/arc-easy-train.jsonl",
    "piqa": "choices:{}/choices/piqa-test.jsonl",
    "winogrande": "choices:{}/choices/winogrande-test.jsonl",
    "boolq": "choices:{}/choices/boolq-test.jsonl",
    "gsm8k": "jsonl:{}/gsm8k/train.jsonl,prompt=question,answer=answer",
    "shakespeare": "text:{}/tinyshakespeare/input.txt",
    "code": "jsonl:{}/humaneval/HumanEval.jsonl,prompt=prompt,answer=canonical_solution",
}


@dataclass(frozen=True)
class Row:
    """One way to choose on one target, k and split, judged."""

    model: str
    target: str
    k: int
    split: int
    tokens: int
    way: str
    found_on: str
    removed: list[int]
    loss: float
    stderr: float
    above: float
    above_stderr: float
    accuracy: float | None
    choosing: float | None
    spent: float


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--targets", default=",".join(TARGETS))
    parser.add_argument("-k", default="3,6")
    parser.add_argument("--splits", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=8192)
    parser.add_argument("--random", action="store_true")
    parser.add_argument("--no-self", action="store_true", help="do without the model's own text")
    parser.add_argument("--memo", type=Path)
    parser.add_argument("-o", "--out", type=Path, default=Path("auto-rows.jsonl"))
    asked = parser.parse_args()
    known = _read(asked.out)
    loading = Loading(asked.model)
    source = loading.find()
    reader = read_tokenizer(source, SILENT, loading)
    model = loading.load(source, reader.tokenizer, SILENT)
    with Memo.open(asked.memo) if asked.memo else Memo.temporary() as memo:
        resources = Resources(model, Racing(), memo=memo)
        for name in asked.targets.split(","):
            for split in range(asked.splits):
                spec = TARGETS[name].format(asked.data)
                job = TargetJob((spec,), tokens=asked.tokens)
                task = None
                for k in map(int, asked.k.split(",")):
                    mine = (asked.model, name, k, split, asked.tokens)
                    if any((r.model, r.target, r.k, r.split, r.tokens) == mine for r in known):
                        continue
                    if task is None:
                        parsed = parse_target(job, (), "nll")
                        generates = not asked.no_self
                        task = read_target(parsed, reader, split, generates=generates)
                    try:
                        rows = _measured(task, k, split, resources, mine, with_random=asked.random)
                    except UsageError as error:  # the whole model is at chance on it
                        print(f"{mine}: refused: {error}", flush=True)
                        continue
                    known += rows
                    with asked.out.open("a", encoding="utf-8") as file:
                        file.writelines(f"{json.dumps(asdict(row))}\n" for row in rows)
                    _show(rows)
    _summary(known)


def _read(file: Path) -> list[Row]:
    if not file.exists():
        return []
    return [Row(**json.loads(line)) for line in file.read_text(encoding="utf-8").splitlines()]


def _measured(
    task: TargetTask,
    k: int,
    split: int,
    resources: Resources,
    key: tuple[str, str, int, int, int],
    *,
    with_random: bool,
) -> list[Row]:
    began = time.monotonic()
    rules = Rules(make_search("greedy"), k, seed=split)
    chosen = choose(task, rules, None, resources)
    spent = chosen.spent
    ways: dict[str, tuple[str, RemovedSet]] = {"auto": (chosen.trial.arm, chosen.result.removed)}
    for way, removed in (("default", spent.default), ("task", spent.task)):
        if removed is not None:
            ways[way] = (way, removed)
        arm = next((c for c in task.configurations if getattr(c.row, f"is_{_kind(way)}")), None)
        if arm is not None:
            scorer = resources.evaluator(arm.calibration, arm.objective)
            ways[f"one-shot {way}"] = (way, rules.run("one-shot", scorer).removed)
    if with_random:
        ways["random"] = ("random", _random(task, chosen, resources, k, split))
    judge = partial(Evaluator, resources.model, memo=resources.memo)
    scorer = judge(task.target.judge, task.objective)
    sets = list(dict.fromkeys([*(removed for _, removed in ways.values()), *spent.first]))
    scores = dict(zip(sets, scorer.score(sets), strict=True))
    best = min(spent.first, key=lambda removed: (scores[removed].loss, removed))
    found = next(trial.arm for trial in spent.trials if trial.removed == best)
    ways["hindsight"] = (found, best)
    right = _accuracies(task.target.judge, [removed for _, removed in ways.values()], judge)
    dense = scorer.score([()])[0]
    scores[()] = dense
    ways["whole model"] = ("", ())
    if right is not None:
        right[()] = 1 - judge(task.target.judge, "accuracy").score([()])[0].loss
    cost = chosen.result.cost.asked_block_tokens / (chosen.budget.block_tokens or math.inf)
    print(f"{key}: {time.monotonic() - began:.0f} s, {cost:.2f} of the budget", flush=True)
    rows = []
    for way, (on, removed) in ways.items():
        above, stderr = increase(scores[removed], scores[chosen.result.removed])
        choosing = chosen.raced.scores.get(removed)
        rows.append(
            Row(
                *key,
                way=way,
                found_on=on,
                removed=list(removed),
                loss=scores[removed].loss,
                stderr=scores[removed].stderr,
                above=above,
                above_stderr=stderr,
                accuracy=None if right is None else right[removed],
                choosing=None if choosing is None else choosing.loss,
                spent=cost,
            )
        )
    return rows


def _kind(way: str) -> str:
    return "default" if way == "default" else "target"


def _accuracies(
    judge: Calibration, sets: list[RemovedSet], make: partial[Evaluator]
) -> dict[RemovedSet, float] | None:
    if any(window.item is None for window in judge.windows):
        return None
    scores = make(judge, "accuracy").score(sets)
    return {removed: 1 - score.loss for removed, score in zip(sets, scores, strict=True)}


def _random(
    task: TargetTask, chosen: Chosen, resources: Resources, k: int, split: int
) -> RemovedSet:
    """The best on the task of random sets, as many as cost what the choice did."""
    own = next(c for c in task.configurations if c.row.is_target)
    evaluator = resources.evaluator(own.calibration, own.objective)
    rng, allowed = random.Random(split), chosen.result.cost.asked_block_tokens
    space = make_space(evaluator.blocks, k)
    best: tuple[float, RemovedSet] = (math.inf, ())
    while evaluator.cost.asked_block_tokens < allowed:
        sets = [random_set(space, rng) for _ in range(16)]
        found = zip((score.loss for score in evaluator.score(sets)), sets, strict=True)
        best = min(best, *found)
    return best[1]


def _show(rows: list[Row]) -> None:
    for row in rows:
        right = "" if row.accuracy is None else f"{100 * row.accuracy:6.1f}%"
        print(
            f"{row.target:12} k={row.k} split {row.split}  {row.way:17} {row.loss:8.4f} "
            f"± {row.stderr:.4f}  above auto {row.above:+8.4f} ± {row.above_stderr:.4f} {right:8} "
            f"{row.found_on}: {','.join(map(str, row.removed))}",
            flush=True,
        )


def _summary(rows: list[Row]) -> None:
    cases: dict[tuple[str, str, int, int, int], dict[str, Row]] = defaultdict(dict)
    for row in rows:
        cases[row.model, row.target, row.k, row.split, row.tokens][row.way] = row
    ranks, regrets = defaultdict(list), defaultdict(list)
    for case in cases.values():
        ways = {way: row for way, row in case.items() if way not in ("hindsight", "whole model")}
        losses = sorted(row.loss for row in ways.values())
        for way, row in ways.items():
            same = [place for place, loss in enumerate(losses, 1) if loss == row.loss]
            ranks[way].append(statistics.fmean(same))
            regrets[way].append(row.loss - case["hindsight"].loss)
    print(f"\n{'way':18}{'mean rank':>10}{'regret':>10}   cases")
    for way in sorted(ranks, key=lambda way: statistics.fmean(ranks[way])):
        mean, regret = statistics.fmean(ranks[way]), statistics.fmean(regrets[way])
        print(f"{way:18}{mean:10.2f}{regret:10.4f}   {len(ranks[way])}")
    for way in ("default", "task"):
        _advantage(way, cases)


def _advantage(way: str, cases: dict[tuple[str, str, int, int, int], dict[str, Row]]) -> None:
    """Auto's advantage, the mean over targets of their mean over splits and k."""
    by_target: dict[str, list[float]] = defaultdict(list)
    worse = []
    for key, case in cases.items():
        if way in case:
            by_target[key[1]].append(case[way].above)
            if case[way].above < -2 * case[way].above_stderr:
                worse.append(key)
    means = [statistics.fmean(values) for values in by_target.values()]
    if not means:
        return
    words = f"auto is {statistics.fmean(means):.4f} below {way} on the mean of {len(means)} targets"
    if len(means) > 1:
        reach = float(stats.t.ppf(0.975, len(means) - 1)) * statistics.stdev(means)
        words += f" (95% ± {reach / math.sqrt(len(means)):.4f})"
    print(f"{words}; worse by more than two standard errors in {len(worse)}: {worse}")


if __name__ == "__main__":
    main()
