"""A search that is killed: what is lost, and whether the finished run is the same.

    python benchmarks/kills.py [--kills 20]

A greedy search on a tiny model, each window a walk of its own, is killed (SIGKILL) at a random
moment and run again to its end with the same memo, as often as `--kills` says. Every finished run
must print what the undisturbed one did. `stored` is what the memo held at the kill and `computed`
what the second run computed; together they are exactly what the search needs, so nothing that was
stored is computed again, and what was lost is the walk in flight.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

_CHILD = """
import json, sys
from contextlib import closing
from pathlib import Path
import numpy as np, torch
torch.set_num_threads(1)
import depthprune as dp
from depthprune.calibration import Calibration, CalibrationSpec, Part, Window
from depthprune.evaluator import memory as module
from depthprune.evaluator.memo.store import Memo
from depthprune.models.blocks.find import find_anatomy
from depthprune.models.devices import DTYPES
from depthprune.models.pretrained import load_module
from depthprune.models.source import find_model
module._CALL_TOKENS = {"cpu": 1}
source = find_model(sys.argv[1])
net = load_module(source, DTYPES["float32"], torch.device("cpu"))
model = dp.Model(source, net, None, find_anatomy(net), "float32", "cpu")
rng = np.random.default_rng(0)
windows = tuple(
    Window(rng.integers(0, 256, 96), np.arange(96) > 0, "random", 0) for _ in range(24)
)
spec = CalibrationSpec(source="text", target="random")
calibration = Calibration((Part(spec, 1.0, windows, None),))
with Memo.open(Path(sys.argv[2])) as memo:
    evaluator = dp.Evaluator(model, calibration, memo=memo, racing=None)
    print("ready", flush=True)
    result = dp.search("greedy", evaluator, k=5)
answer = {
    "removed": result.removed,
    "loss": repr(result.score.loss),
    "path": result.path,
    "trace": [[point.removed, repr(point.loss)] for point in result.trace],
}
print(json.dumps({"answer": answer, "recalled": evaluator.cost.recalled}), flush=True)
"""


def start(folder: Path, memo: Path) -> subprocess.Popen[str]:
    words = [sys.executable, "-c", _CHILD, str(folder), str(memo)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    return process


def finish(process: subprocess.Popen[str]) -> dict[str, Any]:
    output, _ = process.communicate()
    return json.loads(output)  # type: ignore[no-any-return]


def save_model(folder: Path, *, width: int, blocks: int) -> None:
    """Save a small model of random weights."""
    torch.manual_seed(0)
    LlamaForCausalLM(
        LlamaConfig(
            vocab_size=256,
            hidden_size=width,
            intermediate_size=2 * width,
            num_hidden_layers=blocks,
            num_attention_heads=4,
            num_key_value_heads=2,
        )
    ).save_pretrained(folder)


def stored(memo: Path) -> int:
    """How many losses a memo holds."""
    with closing(sqlite3.connect(memo)) as db:
        try:
            return int(db.execute("SELECT count(*) FROM losses").fetchone()[0])
        except sqlite3.OperationalError:  # killed before the table was made
            return 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    options = parser.parse_args()
    rng = random.Random(0)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "model"
        save_model(folder, width=96, blocks=16)
        began = time.monotonic()
        whole = finish(start(folder, Path(place) / "whole.sqlite"))
        seconds = time.monotonic() - began
        needed = stored(Path(place) / "whole.sqlite")
        print(f"undisturbed: {needed:,} losses")
        print(f"{'kill':>4}{'after s':>9}{'stored':>8}{'computed':>10}{'same':>6}")
        same = 0
        for kill in range(options.kills):
            memo = Path(place) / f"{kill}.sqlite"
            process = start(folder, memo)
            delay = rng.uniform(0.0, 0.8 * seconds)
            time.sleep(delay)
            process.send_signal(signal.SIGKILL)
            process.communicate()
            at_kill = stored(memo)
            again = finish(start(folder, memo))
            equal = again["answer"] == whole["answer"]
            same += equal
            computed = stored(memo) - at_kill
            assert stored(memo) == needed, "the memo holds other losses than the search needs"
            assert again["recalled"] == at_kill, "something stored was not used"
            word = "yes" if equal else "NO"
            print(f"{kill + 1:>4}{delay:>9.2f}{at_kill:>8,}{computed:>10,}{word:>6}")
    print(f"{same} of {options.kills} runs ended as the undisturbed one")
    assert same == options.kills


if __name__ == "__main__":
    main()
