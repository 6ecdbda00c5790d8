"""Surgery against `cp`, and against mergekit: what cutting costs beyond copying what is kept.

    python benchmarks/surgery.py [--gigabytes 2.5] [--repeats 5] [--folder DIR]
                                 [--mergekit VENV] [--mergekit-repeats 3]

Makes a random bfloat16 Llama checkpoint of 20 blocks in several shards, removes five scattered
blocks, and interleaves that with `cp` of the files that come out. Each cut runs in a process of
its own, timed from inside around `apply` (`surgery`) and from outside with the interpreter's start
(`process`); its peak memory is the kernel's figure for that process. `sync` precedes every timing,
so that no run pays for the last one's writes.

With `--mergekit`, the same blocks are taken out by mergekit's passthrough too, timed from outside;
both results must hold the same tensors. It is installed into the named virtual environment, which
is made if it is not there: it brings a torch of its own, at the version in `constraints.txt`.
"""

from __future__ import annotations

import argparse
import hashlib
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
from depthprune.pruning.apply import apply
start = time.perf_counter()
apply(sys.argv[1], sys.argv[2], sys.argv[3])
seconds = time.perf_counter() - start
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps({"seconds": seconds, "peak": peak * (1 if sys.platform == "darwin" else 1024)}))
"""


_PASSTHROUGH = """
merge_method: passthrough
dtype: bfloat16
slices:
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
    config = {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "num_hidden_layers": BLOCKS,
        "hidden_size": hidden,
        "intermediate_size": 3 * hidden,
        "num_attention_heads": hidden // 64,
        "num_key_value_heads": hidden // 64,
        "vocab_size": 8192,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
    }
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


def install_mergekit(venv: Path) -> Path:
    """Mergekit's command in an environment of its own, installed if it is not there."""
    command = venv / "bin" / "mergekit-yaml"
    if not command.exists():
        print(f"installing mergekit into {venv}", file=sys.stderr)
        constraints = Path(__file__).parent.parent / "constraints.txt"
        subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
        pip = [str(venv / "bin" / "pip"), "install", "--quiet", "--constraint", str(constraints)]
        subprocess.run([*pip, "mergekit"], check=True)
    return command


def merge(command: Path, source: Path, out: Path) -> tuple[float, int]:
    """Seconds of mergekit's whole process, and its peak memory in bytes."""
    gone = {int(block) for block in REMOVED.split(",")}
    recipe = _PASSTHROUGH
    for block in range(BLOCKS):
        if block not in gone:
            recipe += f"  - sources: [{{model: {source}, layer_range: [{block}, {block + 1}]}}]\n"
    config = out.with_suffix(".yaml")
    config.write_text(recipe)
    os.sync()
    start = time.perf_counter()
    words = [str(command), str(config), str(out), "--no-copy-tokenizer", "--quiet"]
    log = out.with_suffix(".log")
    with open(log, "w") as output:
        process = subprocess.Popen(words, stdout=output, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"mergekit failed:\n{log.read_text()[-2000:]}")
    peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return time.perf_counter() - start, peak


def digests(folder: Path) -> dict[str, str]:
    """A hash of each tensor's bytes, by name."""
    found = {}
    for path in folder.glob("*.safetensors"):
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length))
            header.pop("__metadata__", None)
            for name, entry in header.items():
                begin, end = entry["data_offsets"]
                file.seek(8 + length + begin)
                digest = hashlib.blake2b()
                # In pieces: what this process holds counts as its children's peak too.
                while begin < end:
                    piece = file.read(min(end - begin, 1 << 20))
                    digest.update(piece)
                    begin += len(piece)
                found[name] = digest.hexdigest()
    return found


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
    parser.add_argument("--mergekit", type=Path, help="virtual environment for mergekit")
    parser.add_argument("--mergekit-repeats", type=int, default=3)
    options = parser.parse_args()
    command = install_mergekit(options.mergekit.absolute()) if options.mergekit else None
    runs: dict[str, list[float]] = {"cp": [], "surgery": [], "process": [], "mergekit": []}
    peaks: dict[str, list[int]] = {"surgery": [], "mergekit": []}
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        make(folder / "whole", options.gigabytes)
        cut(folder / "whole", folder / "model")
        whole, kept = (
            sum(path.stat().st_size for path in (folder / which).iterdir())
            for which in ("whole", "model")
        )
        for repeat in range(options.repeats):
            runs["cp"].append(copy(folder / "model", folder / "copy"))
            shutil.rmtree(folder / "copy")
            seconds, outside, peak = cut(folder / "whole", folder / "again")
            shutil.rmtree(folder / "again")
            runs["surgery"].append(seconds)
            runs["process"].append(outside)
            peaks["surgery"].append(peak)
            if command is not None and repeat < options.mergekit_repeats:
                seconds, peak = merge(command, folder / "whole", folder / "merged")
                if not repeat and digests(folder / "merged") != digests(folder / "model"):
                    sys.exit("mergekit's tensors are not those of the cut")
                shutil.rmtree(folder / "merged")
                runs["mergekit"].append(seconds)
                peaks["mergekit"].append(peak)
    print(f"checkpoint {whole / 1e9:.2f} GB, kept {kept / 1e9:.2f} GB, removed {REMOVED}")
    print(f"{'':10} {'median s':>9} {'low':>7} {'high':>7} {'× cp':>6}")
    for label, seconds_of in runs.items():
        if seconds_of:
            median = statistics.median(seconds_of)
            ratio = median / statistics.median(runs["cp"])
            low, high = min(seconds_of), max(seconds_of)
            print(f"{label:10} {median:9.3f} {low:7.3f} {high:7.3f} {ratio:6.2f}")
    for label, found in peaks.items():
        if found:
            print(f"peak memory, {label}: {max(found) / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
