"""Surgery against `cp`: what cutting a checkpoint costs beyond copying what is kept.

    python benchmarks/surgery.py [--gigabytes 2.5] [--repeats 5] [--folder DIR]

Makes a random bfloat16 Llama checkpoint of 20 blocks in several shards, removes five scattered
blocks, and interleaves that with `cp` of the files that come out. Each cut runs in a process of
its own, timed from inside around `apply` (`surgery`) and from outside with the interpreter's start
(`process`); its peak memory is the kernel's figure for that process. `sync` precedes every timing,
so that no run pays for the last one's writes.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

REMOVED = "2,7,11,12,17"
BLOCKS = 20
SHARDS = 4

_CHILD = """
import json, resource, sys, time
from depthprune.models.apply import apply
start = time.perf_counter()
apply(sys.argv[1], sys.argv[2], sys.argv[3])
seconds = time.perf_counter() - start
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps({"seconds": seconds, "peak": peak * (1 if sys.platform == "darwin" else 1024)}))
"""


def tensors(hidden: int) -> Iterator[tuple[int, str, list[int]]]:
    """Shard, name and shape of every tensor."""
    yield 0, "model.embed_tokens.weight", [8192, hidden]
    for block in range(BLOCKS):
        for name, shape in {
            "self_attn.q_proj": [hidden, hidden],
            "self_attn.k_proj": [hidden, hidden],
            "self_attn.v_proj": [hidden, hidden],
            "self_attn.o_proj": [hidden, hidden],
            "mlp.gate_proj": [3 * hidden, hidden],
            "mlp.up_proj": [3 * hidden, hidden],
            "mlp.down_proj": [hidden, 3 * hidden],
            "input_layernorm": [hidden],
            "post_attention_layernorm": [hidden],
        }.items():
            yield block * SHARDS // BLOCKS, f"model.layers.{block}.{name}.weight", shape
    yield SHARDS - 1, "model.norm.weight", [hidden]
    yield SHARDS - 1, "lm_head.weight", [8192, hidden]


def make(folder: Path, gigabytes: float) -> None:
    """Write the checkpoint, streaming random bytes."""
    # Thirteen square matrices a block, two bytes an element.
    hidden = max(64, round((gigabytes * 1e9 / (2 * 13 * BLOCKS)) ** 0.5 / 64) * 64)
    folder.mkdir()
    weight_map = {}
    for shard in range(SHARDS):
        file = f"model-{shard + 1:05d}-of-{SHARDS:05d}.safetensors"
        mine = [(name, shape) for where, name, shape in tensors(hidden) if where == shard]
        weight_map.update({name: file for name, _ in mine})
        write_shard(folder / file, mine)
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    config = {"model_type": "llama", "num_hidden_layers": BLOCKS, "hidden_size": hidden}
    (folder / "config.json").write_text(json.dumps(config))


def write_shard(path: Path, listed: list[tuple[str, list[int]]]) -> None:
    header, at = {}, 0
    for name, shape in listed:
        size = 2 * shape[0] * (shape[1] if len(shape) == 2 else 1)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [at, at + size]}
        at += size
    raw = json.dumps(header).encode()
    raw += b" " * (-len(raw) % 8)
    with open(path, "wb") as file:
        file.write(len(raw).to_bytes(8, "little") + raw)
        while at:
            at -= file.write(os.urandom(min(at, 16 << 20)))


def cut(source: Path, out: Path) -> tuple[float, float, int]:
    """Seconds of surgery, seconds of the whole process, and its peak memory in bytes."""
    os.sync()
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", _CHILD, str(source), REMOVED, str(out)],
        check=True,
        capture_output=True,
        text=True,
    )
    process = time.perf_counter() - start
    told = json.loads(done.stdout)
    return told["seconds"], process, told["peak"]


def copy(source: Path, out: Path) -> float:
    os.sync()
    start = time.perf_counter()
    subprocess.run(["cp", "-r", str(source), str(out)], check=True)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gigabytes", type=float, default=2.5)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--folder", help="a folder on the disk to measure")
    options = parser.parse_args()
    cp, surgery, process, peaks = [], [], [], []
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        make(folder / "whole", options.gigabytes)
        cut(folder / "whole", folder / "model")
        whole, kept = (
            sum(path.stat().st_size for path in (folder / which).iterdir())
            for which in ("whole", "model")
        )
        for _ in range(options.repeats):
            cp.append(copy(folder / "model", folder / "copy"))
            shutil.rmtree(folder / "copy")
            seconds, outside, peak = cut(folder / "whole", folder / "again")
            shutil.rmtree(folder / "again")
            surgery.append(seconds)
            process.append(outside)
            peaks.append(peak)
    print(f"checkpoint {whole / 1e9:.2f} GB, kept {kept / 1e9:.2f} GB, removed {REMOVED}")
    print(f"{'':10} {'median s':>9} {'low':>7} {'high':>7} {'× cp':>6}")
    for label, runs in {"cp": cp, "surgery": surgery, "process": process}.items():
        median = statistics.median(runs)
        ratio = median / statistics.median(cp)
        print(f"{label:10} {median:9.3f} {min(runs):7.3f} {max(runs):7.3f} {ratio:6.2f}")
    print(f"peak memory of the process: {max(peaks) / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
