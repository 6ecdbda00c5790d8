"""What is fuzzed: how a good input is made, how it is damaged, and what must be true of the end.

A target's `attempt` raises whatever comes of the damaged input. The test allows a `DepthpruneError`
only; where the input is taken, `attempt` has checked the result by a way of its own.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from safetensors import safe_open
from safetensors.numpy import save_file

from depthprune.calibration import parse_calibration
from depthprune.checkpoints.checkpoint import INDEX, open_checkpoint
from depthprune.checkpoints.gguf.reader import read_gguf
from depthprune.checkpoints.gguf.surgery import cut_gguf, write_gguf
from depthprune.checkpoints.safetensors import read_header
from depthprune.evaluator.memo.store import Context, Memo
from depthprune.manifest import Manifest, SourceModel, versions
from depthprune.pruning.apply import apply
from depthprune.study.grid import read_grid
from fuzz.flags import attempt_flags, make_flags
from fuzz.mutations import damaged, misshapen
from fuzz.places import attempt_links, attempt_outputs, make_links, make_outputs
from gguf_tiny import tiny_gguf


@dataclass(frozen=True)
class Target:
    """One kind of input.

    Attributes:
        make: Writes what is good into a folder.
        attempt: Damages it by a generator, reads it, and checks what comes of it.
        each: One attempt for so many inputs of other kinds, where one takes as long.
    """

    make: Callable[[Path], None]
    attempt: Callable[[Path, random.Random], None]
    each: int = 1


def _blocks(*numbers: int) -> dict[str, np.ndarray[Any, Any]]:
    return {f"model.layers.{n}.mlp.w": np.full((2, 3), n, np.float32) for n in numbers}


CONFIG: dict[str, Any] = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "num_hidden_layers": 4,
    "hidden_size": 8,
    "layer_types": ["full_attention"] * 4,
    "tie_word_embeddings": False,
    "quantization_config": {"quant_method": "x", "ignore": ["model.layers.2.mlp", "re:.*gate$"]},
    "quantization": {"bits": 4, "model.layers.3.mlp": {"bits": 8}},
    "per_layer_config": {"0": {"a": 1}, "3": {"a": 2}},
    "mlp_only_layers": [0, 2],
    "rope_scaling": {"type": "linear", "factor": 2.0},
}


def _folder(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps(CONFIG))
    shards = {
        "a.safetensors": _blocks(0, 1, 2),
        "b.safetensors": {**_blocks(3), "lm_head.w": np.ones(3, np.float32)},
    }
    for name, arrays in shards.items():
        save_file(arrays, folder / name, metadata={"format": "pt"})
    weight_map = {tensor: name for name, arrays in shards.items() for tensor in arrays}
    index = {"metadata": {"total_size": 108}, "weight_map": weight_map}
    (folder / INDEX).write_text(json.dumps(index))


def _cut(folder: Path) -> None:
    """A cut that is written can be opened again, and has each kept block's bytes once."""
    out = folder / "out"
    shutil.rmtree(out, ignore_errors=True)
    try:
        done = apply(folder, (1,), out)
    except BaseException:
        assert not out.exists()
        raise
    again = open_checkpoint(out)
    assert again.blocks == len(done.kept)
    assert len(again.tensors) == sum(len(shard.tensors) for shard in again.shards)
    json.loads((out / "config.json").read_text())


def _write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8", errors="surrogatepass")
    return path


def _mutated(document: Any, rng: random.Random) -> str:
    """Half of the texts are damaged as bytes, half as what they say."""
    if rng.random() < 0.5:
        return damaged(json.dumps(document).encode(), rng).decode("utf-8", "replace")
    return misshapen(document, rng)


def _config(folder: Path, rng: random.Random) -> None:
    _write(folder / "config.json", _mutated(CONFIG, rng))
    _cut(folder)


def _index_make(folder: Path) -> None:
    _folder(folder)
    shutil.copyfile(folder / INDEX, folder / "good")


def _index(folder: Path, rng: random.Random) -> None:
    _write(folder / INDEX, _mutated(json.loads((folder / "good").read_text()), rng))
    _cut(folder)


def _header_make(folder: Path) -> None:
    save_file(_blocks(0, 1, 2, 3), folder / "good", metadata={"format": "pt"})


def _header(folder: Path, rng: random.Random) -> None:
    good = (folder / "good").read_bytes()
    length = int.from_bytes(good[:8], "little")
    if rng.random() < 0.5:
        raw = damaged(good, rng, most=8 + length)
    else:
        text = misshapen(json.loads(good[8 : 8 + length]), rng).encode("utf-8", "surrogatepass")
        raw = len(text).to_bytes(8, "little") + text + good[8 + length :]
    path = folder / "model.safetensors"
    path.write_bytes(raw)
    found = read_header(path)
    reached = sum(tensor.nbytes for tensor in found.tensors)
    assert reached == sum(tensor.end - tensor.begin for tensor in found.tensors)
    assert all(0 < tensor.begin <= tensor.end <= len(raw) for tensor in found.tensors)
    with safe_open(path, "numpy") as theirs:
        assert set(theirs.keys()) == {tensor.name for tensor in found.tensors}


def _gguf_make(folder: Path) -> None:
    tiny_gguf(folder / "good", blocks=4)


def _gguf(folder: Path, rng: random.Random) -> None:
    good = (folder / "good").read_bytes()
    path, out = folder / "model.gguf", folder / "out.gguf"
    path.write_bytes(damaged(good, rng, most=2_600))
    out.unlink(missing_ok=True)
    file = read_gguf(path)
    cut = cut_gguf(file, (1,))
    write_gguf(cut, out)
    again = read_gguf(out)
    assert again.blocks == file.blocks - 1
    raw, new = path.read_bytes(), out.read_bytes()
    written = {tensor.name: tensor for tensor in again.tensors}
    for name, tensor in cut.tensors:
        assert new[written[name].begin : written[name].end] == raw[tensor.begin : tensor.end]


def _manifest_make(folder: Path) -> None:
    Manifest(
        created="2026-01-01T00:00:00+00:00",
        model=SourceModel(name="x", kind="folder", model_type="llama", blocks=6),
        removed=[2, 4],
        kept=[0, 1, 3, 5],
        dtype="float32",
        versions=versions(),
        files=["config.json"],
    ).write(folder / "good")


def _manifest(folder: Path, rng: random.Random) -> None:
    good = json.loads((folder / "good").read_text())
    path = _write(folder / "depthprune.json", _mutated(good, rng))
    found = Manifest.read(path)
    assert Manifest.model_validate_json(found.text()) == found


_CONTEXT = Context("a1" * 32, "float32", "cpu", "2.8.0", "nll")
_WINDOWS = [bytes([number]) * 16 for number in range(8)]


def _memo_make(folder: Path) -> None:
    with Memo.open(folder / "good") as memo:
        memo.store_all(_CONTEXT, _WINDOWS, {(block,): np.arange(8.0) for block in range(4)})


def _memo(folder: Path, rng: random.Random) -> None:
    for path in folder.glob("memo*"):
        path.unlink()
    path = folder / "memo.sqlite"
    path.write_bytes(damaged((folder / "good").read_bytes(), rng))
    with Memo.open(path) as memo:
        found = memo.look_up(_CONTEXT, [(0,), (9,)], _WINDOWS)
        assert not found[(9,)].known.any()
        assert (found[(0,)].losses == np.arange(8.0))[found[(0,)].known].all()
        memo.store(_CONTEXT, (5,), _WINDOWS, np.arange(8.0))
        memo.statistics()


PLAN: dict[str, Any] = {
    "name": "a study",
    "models": ["demo"],
    "k": [1, 2],
    "calibrations": {
        "prose": "stdlib-prose,windows=2,length=64",
        "crossed": {"spec": "stdlib-code", "windows": [2, 4], "length": [32, 64]},
    },
    "searches": ["one-shot", "greedy"],
    "objectives": ["nll"],
    "draws": 2,
    "seeds": [0, 1],
    "exclude": [{"k": 1, "search": "greedy"}],
}

_ODD_YAML = (
    "\na: &a [x, x, x]\nb: &b [*a, *a, *a]\nc: [*b, *b]\n",
    "\nbig: !!binary aGVsbG8=\n",
    "\nwhen: 2024-01-01\n",
    "\n? [1, 2]\n: 3\n",
    "\nx: !!python/object/apply:os.system ['true']\n",
    "\nx: &x {y: *x}\n",
    "\n- 1\n",
)


def _yaml_of(document: Any, rng: random.Random) -> str:
    if rng.random() < 0.5:
        return misshapen(document, rng)
    text = yaml.safe_dump(document)
    if rng.random() < 0.3:
        return text + rng.choice(_ODD_YAML)
    return damaged(text.encode(), rng).decode("utf-8", "replace")


def _plan(folder: Path, rng: random.Random) -> None:
    grid = read_grid(_write(folder / "plan.yaml", _yaml_of(PLAN, rng)))
    assert 0 < len(grid.cells) <= 100_000
    assert len(grid.fingerprint()) > 8 if callable(getattr(grid, "fingerprint", None)) else True


SPEC: dict[str, Any] = {
    "source": "stdlib-prose",
    "windows": 4,
    "length": 64,
    "seed": 3,
    "weight": 0.5,
    "reduction": "token",
    "ngram": 13,
}
_LINE = "stdlib-prose,windows=4,length=64,seed=3,weight=0.5,order=first,pack=true"


def _spec(folder: Path, rng: random.Random) -> None:
    if rng.random() < 0.4:
        found = parse_calibration(damaged(_LINE.encode(), rng).decode("utf-8", "replace"))
    else:
        entries: Any = [SPEC, "stdlib-code,windows=2"] if rng.random() < 0.5 else SPEC
        path = _write(folder / "spec.yaml", _yaml_of(entries, rng))
        found = parse_calibration(str(path))
    assert all(parse_calibration(spec.line())[0].source == spec.source for spec in found)


ADAPTER: dict[str, Any] = {
    "peft_type": "LORA",
    "base_model_name_or_path": "org/base",
    "target_modules": ["q_proj", "v_proj"],
    "exclude_modules": "model.layers.2.self_attn.v_proj",
    "layers_to_transform": [0, 2, 3],
    "rank_pattern": {"model.layers.3.self_attn.q_proj": 4},
}


def _adapter_make(folder: Path) -> None:
    stem = "base_model.model.model.layers"
    names = [f"{stem}.{n}.self_attn.q_proj.lora_{s}.weight" for n in range(4) for s in "AB"]
    save_file({name: np.ones((2, 2), np.float32) for name in names},
              folder / "adapter_model.safetensors", metadata={"format": "pt"})  # fmt: skip


def _adapter(folder: Path, rng: random.Random) -> None:
    _write(folder / "adapter_config.json", _mutated(ADAPTER, rng))
    out = folder / "out"
    shutil.rmtree(out, ignore_errors=True)
    apply(folder, (1,), out)
    assert len(read_header(out / "adapter_model.safetensors").tensors) == 6
    json.loads((out / "adapter_config.json").read_text())


def _nothing(folder: Path) -> None:
    del folder


TARGETS = {
    "safetensors": Target(_header_make, _header),
    "index": Target(_index_make, _index),
    "config": Target(_folder, _config),
    "gguf": Target(_gguf_make, _gguf),
    "manifest": Target(_manifest_make, _manifest),
    "memo": Target(_memo_make, _memo),
    "plan": Target(_nothing, _plan),
    "spec": Target(_nothing, _spec),
    "adapter": Target(_adapter_make, _adapter),
    "links": Target(partial(make_links, good=_folder), attempt_links),
    "flags": Target(partial(make_flags, good=_folder), attempt_flags, each=10),
    "outputs": Target(partial(make_outputs, good=_folder), attempt_outputs),
}
