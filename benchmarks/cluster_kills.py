"""Searches by workers that are killed, and drivers too: what is run twice, and what comes of it.

    python benchmarks/cluster_kills.py [--workers 10] [--drivers 3]

A greedy search on a tiny model, each window a call of its own, on a cluster of two workers that
starts and ends with its driver. At random moments (of a seed) a random worker that has begun is
killed (SIGKILL), or the driver, which is then started again with the same memo; searches go on,
each with a memo of its own, until all kills are spent. Workers write down each shard as they begin
it. Every search must end as that of one process does; of losses, no more may be begun again than
were in flight with a worker that died, or were begun and not yet stored when a driver did.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from kills import save_model, stored

_CHILD = """
import hashlib, json, os, sys
from pathlib import Path
import numpy as np, torch
torch.set_num_threads(1)
import depthprune as dp
from depthprune.calibration import Calibration, CalibrationSpec, Part, Window
from depthprune.engine import join, losses, parse_engine
from depthprune.engine.losses import LossWorker, RayLosses
from depthprune.evaluator import memory as module
from depthprune.evaluator import Memo
from depthprune.models.blocks.find import find_anatomy
from depthprune.models.devices import DTYPES
from depthprune.models.pretrained import load_module
from depthprune.models.source import find_model
folder, memo, log, spread = sys.argv[1:]
module._CALL_TOKENS = {"cpu": 1}

def load():
    torch.set_num_threads(1)
    source = find_model(folder)
    net = load_module(source, DTYPES["float32"], torch.device("cpu"))
    return dp.Model(source, net, None, find_anatomy(net), "float32", "cpu")

class Writing(LossWorker):
    def score(self, scoring, shrunk, shard):
        pairs = [f"{call[0]}:{'-'.join(map(str, s))}" for call in shard.calls for s in shard.sets]
        for what in ("begin", "end"):
            line = json.dumps([what, os.getpid(), pairs]) + "\\n"
            file = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
            os.write(file, line.encode())
            os.close(file)
            if what == "begin":
                scored = super().score(scoring, shrunk, shard)
        return scored

class Making:
    def __init__(self, load):
        self.load = load

    def __call__(self):
        return Writing(self.load)

losses._Factory = Making
model = load()
rng = np.random.default_rng(0)
windows = tuple(
    Window(rng.integers(0, 256, 96), np.arange(96) > 0, "random", 0) for _ in range(WINDOWS)
)
spec = CalibrationSpec(source="text", target="random")
calibration = Calibration((Part(spec, 1.0, windows, None),))

def search(workers, deaths):
    with Memo.open(Path(memo)) as store:
        evaluator = dp.Evaluator(model, calibration, memo=store, racing=None, workers=workers)
        print("ready", flush=True)
        result = dp.search("greedy", evaluator, k=6)
    answer = {
        "removed": result.removed,
        "loss": repr(result.score.loss),
        "path": result.path,
        "trace": [[point.removed, repr(point.loss)] for point in result.trace],
    }
    print(json.dumps({"answer": answer, "deaths": deaths()}), flush=True)

if spread == "alone":
    search(None, lambda: 0)
else:
    with join(parse_engine("ray", 2, None, 0.5)) as cluster:
        with RayLosses(cluster, load, model) as each:
            search(each, lambda: each.deaths)
"""

_WINDOWS = 40


def start(*words: str) -> subprocess.Popen[str]:
    """Start a search, and wait until it is about to begin."""
    child = _CHILD.replace("WINDOWS", str(_WINDOWS))
    process = subprocess.Popen(
        [sys.executable, "-c", child, *words],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    process.stdout.readline()
    return process


@dataclass
class Log:
    """What workers wrote down of one search."""

    file: Path
    begun: list[tuple[str, ...]] = field(default_factory=list)
    died: list[tuple[str, ...]] = field(default_factory=list)
    workers: set[int] = field(default_factory=set)
    killed: set[int] = field(default_factory=set)

    def read(self) -> None:
        """Take what was written since."""
        text = self.file.read_text(encoding="utf-8") if self.file.exists() else ""
        running: dict[int, tuple[str, ...]] = {}
        self.begun.clear()
        self.died.clear()
        for line in text.splitlines():
            what, pid, pairs = json.loads(line)
            shard = tuple(pairs)
            self.workers.add(pid)
            if what == "begin":
                self.begun.append(shard)
                running[pid] = shard
            else:
                running.pop(pid, None)
        self.died.extend(running.values())

    @property
    def twice(self) -> int:
        """Losses that were begun again, counted as often as they were."""
        counts = Counter(pair for shard in self.begun for pair in shard)
        return sum(count - 1 for count in counts.values())

    @property
    def pairs(self) -> int:
        """Losses that were begun, each once."""
        return len({pair for shard in self.begun for pair in shard})


def kill_worker(log: Log, rng: random.Random) -> bool:
    """Kill a worker that has begun a shard; whether there was one."""
    log.read()
    alive = [pid for pid in sorted(log.workers - log.killed) if psutil.pid_exists(pid)]
    if alive:
        chosen = rng.choice(alive)
        log.killed.add(chosen)
        os.kill(chosen, signal.SIGKILL)
    return bool(alive)


def main() -> None:
    """Kill until all kills are spent, and print what came of each search."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--workers", type=int, default=10)
    parser.add_argument("--drivers", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    kills = ["worker"] * options.workers + ["driver"] * options.drivers
    rng.shuffle(kills)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "model"
        save_model(folder, width=128, blocks=20)
        whole = Path(place) / "whole.sqlite"
        alone = start(str(folder), str(whole), "", "alone")
        expected = json.loads(alone.communicate()[0])["answer"]
        needed = stored(whole)
        print(f"one process: {needed:,} losses")
        print("search  workers killed  drivers killed  shards  begun twice  losses  again  same")
        total: Counter[str] = Counter()
        number = 0
        while kills:
            number += 1
            row = one_search(Path(place), folder, number, kills, rng, needed, expected)
            total.update(row)
            print(
                f"{number:>6}{row['workers']:>16}{row['drivers']:>16}{row['shards']:>8}"
                f"{row['twice']:>13}{needed:>8,}{row['again']:>7}{'yes':>6}",
                flush=True,
            )
        print(
            f"{total['workers']} workers and {total['drivers']} drivers killed, "
            f"{total['twice']} of {total['shards']:,} shards begun again; "
            "every search ended as in one process"
        )


def one_search(
    place: Path,
    folder: Path,
    number: int,
    kills: list[str],
    rng: random.Random,
    needed: int,
    expected: Any,
) -> Counter[str]:
    """Run one search to its end, killing on the way, and hold it to what was expected."""
    memo, log = place / f"{number}.sqlite", Log(place / f"{number}.log")
    words = (str(folder), str(memo), str(log.file), "spread")
    done: Counter[str] = Counter()
    lost = 0
    process = start(*words)
    while process.poll() is None:
        due = time.monotonic() + rng.uniform(0.5, 6.0)
        while kills and time.monotonic() < due and process.poll() is None:
            time.sleep(0.05)
        if not kills or process.poll() is not None:
            break
        if kills[0] == "worker":
            if kill_worker(log, rng):
                kills.pop(0)
                done["workers"] += 1
            continue
        kills.pop(0)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        done["drivers"] += 1
        time.sleep(2.0)  # Its workers end with it.
        log.read()
        lost += log.pairs - stored(memo)
        process = start(*words)
    output, _ = process.communicate()
    answer = json.loads(output)
    log.read()
    assert answer["answer"] == expected, "the search ended otherwise than in one process"
    assert stored(memo) == log.pairs == needed, "the memo holds other losses than it needs"
    in_flight = sum(len(shard) for shard in log.died)
    assert log.twice <= in_flight + lost, "more was begun again than was in flight"
    done["again"] = log.twice
    done["shards"] = len(log.begun)
    done["twice"] = len(log.begun) - len(set(log.begun))
    return done


if __name__ == "__main__":
    main()
