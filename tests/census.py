"""The census: every type that transformers maps to a causal language model, cut and compared.

A second part goes over the types that read pictures or sound besides and are mapped elsewhere:
their language model is cut, and every other tensor must be the original's, byte for byte.

Each type is built tiny, six blocks or more; several sets of blocks are removed by surgery on its
saved files; the result is reloaded and must have no missing, unexpected or mismatched key, compute
the logits of the original with those blocks skipped in place, and generate with a cache what it
generates without. A type that cannot be cut is refused by its row, with a reason, and the refusal
is tried. A causal type then goes through the whole job: it
is loaded, sets are scored and must have the losses of plain masked forwards, a greedy step is
searched, and its blocks are streamed, with the same losses. Nothing is left out: a type without a
row counts as unexplained. The census runs on any
version of transformers and names it; what an older one lacks or does wrongly uncut is skipped, with
a word.

    python tests/census.py [TYPE...]    prints a line a type, then the counts

A whole census, without a type named and without a failure, also writes docs/architectures.md.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from transformers.models.auto import modeling_auto
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

import depthprune as dp
from depthprune.calibration import Calibration, CalibrationSpec, Part, Window
from depthprune.checkpoints.architectures.schema import Architecture
from depthprune.checkpoints.architectures.table import (
    architectures,
    find,
    require_prunable,
)
from depthprune.checkpoints.checkpoint import (
    OTHER_TOWERS,
    Checkpoint,
    open_checkpoint,
)
from depthprune.checkpoints.config.cut import row_of
from depthprune.checkpoints.config.sections import text_section
from depthprune.checkpoints.gguf.architectures import listed_architectures
from depthprune.checkpoints.surgery import write_pruned
from depthprune.errors import ModelError
from depthprune.models.blocks.anatomy import find_anatomy
from tiny import model_class, save_tiny
from tiny_types import CROSS_ATTENTION

TYPES = tuple(modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
MULTIMODAL = tuple(
    name
    for name in modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
    | getattr(modeling_auto, "MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES", {})
    if name not in TYPES
)
VERSION = tuple(int(part) for part in transformers.__version__.split(".")[:2])
NEWEST = (5, 23)
"""The version from which on every type must have a row and nothing may be skipped."""

OLDER = {
    "code_llama": "its checkpoints call themselves llama",
    "mega": "transformers 5 has it no more; it has no row, so apply asks for --verify",
    "open-llama": "transformers 5 has it no more; it has no row, so apply asks for --verify",
    "qdqbert": "transformers 5 has it no more; it has no row, so apply asks for --verify",
    "speech_to_text_2": "transformers 5 has it no more; it has no row, so apply asks for --verify",
    "transfo-xl": "transformers 5 has it no more; it has no row, so apply asks for --verify",
    "xlm-prophetnet": "transformers 5 has it no more; it has no row, so apply asks for --verify",
    "dbrx": "this transformers does not build it at a tiny size",
    "emu3": "this transformers does not build it at a tiny size",
    "glm4v": "this transformers does not build it at a tiny size",
    "glm4v_moe": "this transformers does not build it at a tiny size",
    "jetmoe": "this transformers does not build it at a tiny size",
    "perception_lm": "its vision tower needs the package timm there",
    "pixtral": "its checkpoints call themselves llava",
    "mllama": "this transformers cannot run its blocks of cross-attention without pixels",
    "phi4_multimodal": "this transformers does not build it at a tiny size",
    "recurrent_gemma": "this transformers keeps the state of an earlier call, even uncut",
}
"""Why a type is not tried before that version."""

LIMIT = 1e-5
"""Of the logits' scale, in float32."""

_SETS = {
    "one": (2,),
    "first": (0,),
    "last": (-1,),
    "contiguous": (2, 3),
    "scattered": (1, 2, 4),
    "off the period": (1, 3),
}
_MORE = {str(removed): removed for removed in [(1,), (3,), (-2,), (0, 1), (0, 3), (1, -2)]}
"""Tried where a type refuses too many of those."""

_LENGTH, _PROMPT, _NEW = 24, 6, 10
_LEAST = 4
"""A type that allows fewer sets than this is not one that can be depth-pruned."""


@dataclass(frozen=True)
class Finding:
    """What became of one type.

    Attributes:
        model_type: As in `config.json`.
        verdict: One of `exact`, `refused`, `not a decoder`, `skipped`, `wrong`, `unexplained`.
        detail: The reason, or the sets that were cut.
        seconds: How long it took.
    """

    model_type: str
    verdict: str
    detail: str
    seconds: float = 0.0

    def line(self) -> str:
        return f"{self.model_type:26} {self.verdict:13} {self.seconds:4.1f} s  {self.detail}"


class Wrong(Exception):
    """A cut checkpoint is not the masked model."""


class Uncut(Exception):
    """The original does not do in this transformers what a cut is to be compared by."""


def examine(model_type: str, folder: Path) -> Finding:
    """Try one type, with files in an empty folder."""
    start = time.monotonic()
    row = find(model_type)
    try:
        verdict, detail = _examine(model_type, row, folder)
    except Wrong as error:
        verdict, detail = "wrong", str(error)
    except Uncut as error:
        verdict = "wrong" if VERSION >= NEWEST else "skipped"
        detail = f"logits exact; {error}"
    return Finding(model_type, verdict, detail, time.monotonic() - start)


def _examine(model_type: str, row: Architecture | None, folder: Path) -> tuple[str, str]:
    if model_type in OLDER and VERSION < NEWEST:
        return "skipped", OLDER[model_type]
    if row is None:
        return "unexplained", "no row in the table"
    if row.status != "verified":
        try:
            require_prunable(model_type)
        except ModelError as error:
            return row.status, row.why if row.why in str(error) else "refused without its reason"
        return "wrong", "refused by its row, and not by surgery"
    if model_type not in CONFIG_MAPPING:
        return "skipped", "this transformers does not know it"
    checkpoint = open_checkpoint(save_tiny(folder / "whole", model_type, tokenizer=False))
    with torch.random.fork_rng():
        model = (
            model_class(model_type).from_pretrained(checkpoint.folder, dtype=torch.float32).eval()
        )
    cut, refused = _try_sets(model, checkpoint, folder)
    if len(cut) < _LEAST:
        raise Wrong(f"refuses too much: {'; '.join(refused)}")
    detail = f"{len(cut)} sets" + (f"; refuses {'; '.join(refused)}" if refused else "")
    searched = _can_be_searched(running(model))
    if model_type in TYPES and searched is row.why.endswith("not searched"):
        raise Wrong(f"the table's note says otherwise, but it can be searched: {searched}")
    if searched and model_type in TYPES:
        detail += f"; {whole_job(model, checkpoint, folder / 'tokenized')}"
    return "exact", detail + ("" if searched else "; cannot be searched")


def whole_job(model: Any, checkpoint: Checkpoint, folder: Path) -> str:
    """Load, score, search a step, and stream; the losses are those of plain masked forwards.

    Raises:
        Wrong: If a loss is another.
    """
    save_tiny(folder, checkpoint.config["model_type"])
    loaded = dp.load(folder, dtype="float32", device="cpu")
    sets = [s for s in [(), (2,), (1, 3)] if not s or loaded.refusal(s) is None]
    ids = probe_ids()
    windows = [Window(row, np.arange(len(row)) > 0, "census", 0) for row in ids.numpy()]
    nothing: Any = None
    spec = CalibrationSpec(source="text", target="census")
    calibration = Calibration((Part(spec, 1.0, tuple(windows), nothing),))
    evaluator = dp.Evaluator(loaded, calibration, racing=None)
    for removed, score in zip(sets, evaluator.score(sets), strict=True):
        logp = logits_skipping(model, checkpoint, removed)[:, :-1].double().log_softmax(-1)
        expected = -logp.gather(-1, ids[:, 1:, None])[..., 0].mean(1).numpy()
        if not np.allclose(score.window_losses, expected, rtol=LIMIT, atol=LIMIT):
            raise Wrong(f"{removed}: scored {score.window_losses}, and is {expected}")
    dp.search("greedy", dp.Evaluator(loaded, calibration), k=1)
    try:
        streamed = dp.load(folder, dtype="float32", device="cpu", stream=True)
    except dp.DepthpruneError as error:
        raise Wrong(f"cannot be streamed: {error}") from error
    held = [score.window_losses for score in evaluator.score(sets)]
    read = [s.window_losses for s in dp.Evaluator(streamed, calibration, racing=None).score(sets)]
    if not np.allclose(read, held, rtol=LIMIT, atol=LIMIT):
        raise Wrong(f"streamed losses are {read}, and were {held}")
    return "searched and streamed"


def _try_sets(model: Any, checkpoint: Checkpoint, folder: Path) -> tuple[list[str], list[str]]:
    """The sets that were cut exactly, and those that surgery refused, with its reasons."""
    cut, refused = [], []
    for name, removed in removed_sets(checkpoint).items():
        if name in _MORE and len(cut) >= _LEAST:
            continue
        try:
            compare(model, checkpoint, removed, folder / name.replace(" ", "-"))
            cut.append(name)
        except ModelError as error:
            refused.append(f"{name} ({error})")
    return cut, refused


def _can_be_searched(model: Any) -> bool:
    try:
        find_anatomy(model)
    except ModelError:
        return False
    return True


def removed_sets(checkpoint: Checkpoint) -> dict[str, tuple[int, ...]]:
    """The sets to try: the usual ones, and every layer type as a whole."""
    blocks = checkpoint.blocks
    sets = {
        name: tuple(sorted(block % blocks for block in removed)) for name, removed in _SETS.items()
    }
    for name, value in text_section(checkpoint.config).items():
        for kind in sorted(set(map(str, value))) if _one_a_block(name, value, blocks) else ():
            removed = tuple(i for i in range(blocks) if str(value[i]) == kind)
            if len(removed) < blocks and removed not in sets.values():
                sets[f"all {kind} of {name}"] = removed
    more = {
        name: tuple(sorted(block % blocks for block in removed)) for name, removed in _MORE.items()
    }
    return sets | more


def _one_a_block(name: str, value: Any, blocks: int) -> bool:
    return isinstance(value, list) and len(value) == blocks and "layer" in name


def compare(model: Any, checkpoint: Checkpoint, removed: tuple[int, ...], out: Path) -> None:
    """Cut one set and compare.

    Raises:
        ModelError: If surgery refuses the set.
        Wrong: If the result is not the masked model.
    """
    out.mkdir()
    surgery = write_pruned(checkpoint, removed, out)
    if surgery.warnings:
        raise Wrong(f"{removed}: unexpected warning: {surgery.warnings[0]}")
    cut, info = type(model).from_pretrained(out, dtype=torch.float32, output_loading_info=True)
    if stray := {kind: sorted(map(str, keys))[:2] for kind, keys in info.items() if keys}:
        raise Wrong(f"{removed}: {stray}")
    expected = logits_skipping(model, checkpoint, removed)
    scale = float(expected.abs().max())
    difference = float((logits(cut.eval()) - expected).abs().max()) / scale
    if not difference <= LIMIT:
        raise Wrong(f"{removed}: logits differ by {difference:.0e} of their scale")
    if not float((logits(model) - expected).abs().max()) > 1e-3 * scale:
        raise Wrong(f"{removed}: the blocks do not matter, so nothing is shown")
    uncached, cached = (generated(cut, use_cache=flag) for flag in (False, True))
    if uncached != cached:
        if generated(model, use_cache=False) != generated(model, use_cache=True):
            raise Uncut("even the uncut model generates otherwise with a cache than without")
        raise Wrong(f"{removed}: generation with a cache differs ({uncached} and {cached})")
    if text_section(checkpoint.config) is not checkpoint.config:
        same_bytes_outside(checkpoint, open_checkpoint(out))


def same_bytes_outside(whole: Checkpoint, cut: Checkpoint) -> None:
    """Every tensor outside the blocks must be the original's, to the byte.

    Raises:
        Wrong: If one is not.
    """
    row = row_of(whole.config)
    packed = tuple(each.name for each in row.packed) if row is not None else ()
    for name, tensor in whole.tensors.items():
        if name.startswith(whole.block_prefix) or name.endswith(packed):
            continue
        if name not in cut.tensors or bytes_of(whole, tensor) != bytes_of(cut, cut.tensors[name]):
            raise Wrong(f"{name}: not the original's bytes")


def bytes_of(checkpoint: Checkpoint, tensor: Any) -> bytes:
    (shard,) = (each for each in checkpoint.shards if tensor in each.tensors)
    with shard.path.open("rb") as file:
        file.seek(tensor.begin)
        return file.read(tensor.nbytes)


def probe_ids(length: int = _LENGTH, rows: int = 2) -> torch.Tensor:
    return torch.randint(3, 120, (rows, length), generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    config = model.config
    given = {}
    if config.model_type in CROSS_ATTENTION:
        width = config.get_text_config().hidden_size
        picture = torch.randn(2, 4, width, generator=torch.Generator().manual_seed(1))
        given = {CROSS_ATTENTION[config.model_type]: picture}
    return running(model)(input_ids=probe_ids(), use_cache=False, **given).logits.float()


def running(model: Any) -> Any:
    """The model, or its language model where this transformers cannot run the whole.

    Llama 4's whole model of 5.24 asks the language model's output for the picture's.
    """
    if VERSION == (5, 24) and type(model).__name__ == "Llama4ForConditionalGeneration":
        return model.language_model
    return model


@torch.no_grad()
def generated(model: Any, *, use_cache: bool) -> list[int]:
    """Greedy tokens after a short prompt."""
    prompt = probe_ids(_PROMPT, rows=1)
    out = running(model).generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        do_sample=False,
        num_beams=1,
        min_new_tokens=_NEW,
        max_new_tokens=_NEW,
        use_cache=use_cache,
        pad_token_id=0,
    )
    return out[0, _PROMPT:].tolist()


def logits_skipping(model: Any, checkpoint: Checkpoint, removed: tuple[int, ...]) -> torch.Tensor:
    """The logits with the removed blocks handing on what they were given."""
    blocks = _block_list(model, checkpoint)
    calls: dict[int, Call] = {}
    hooks = [
        block.register_forward_hook(
            lambda _m, args, kwargs, out, i=i: calls.__setitem__(i, (args, kwargs, out)),
            with_kwargs=True,
        )
        for i, block in enumerate(blocks)
    ]
    logits(model)
    for hook in hooks:
        hook.remove()
    handed = _handed_on(list(calls.values()))
    # A block of cross-attention is not called where there is no picture.
    called = [i for i in removed if i in calls]
    for i in called:
        blocks[i].forward = _identity(calls[i][2], handed)
    try:
        return logits(model)
    finally:
        for i in called:
            del blocks[i].forward


Call = tuple[Any, dict[str, Any], Any]
"""A block's arguments, keywords and output."""


def _handed_on(calls: list[Call]) -> dict[int, int | str]:
    """Which outputs of a block are inputs of the next, beyond the hidden states, and where."""
    handed: dict[int, int | str] = {}
    for (_, _, out), (args, kwargs, _) in pairwise(calls):
        if isinstance(out, (tuple, list)):
            for i, value in enumerate(out[1:], start=1):
                for slot, given in [*enumerate(args), *kwargs.items()]:
                    if isinstance(value, torch.Tensor) and given is value:
                        handed[i] = slot
    return handed


def _block_list(model: Any, checkpoint: Checkpoint) -> Any:
    """The list of blocks, by the name that its tensors have, or else by its place in the model.

    Transformers stores some models under other names than its modules have.
    """
    name = checkpoint.block_prefix.rstrip(".")
    lists = {
        path: module
        for path, module in model.named_modules()
        if isinstance(module, torch.nn.ModuleList) and len(module) == checkpoint.blocks
    }
    if name in lists:
        return lists[name]
    alike = [path for path in lists if path.split(".")[-1] == name.split(".")[-1]]
    # Of some, reading back what was written renames more than it was written with.
    alike = alike or [path for path in lists if not OTHER_TOWERS.search(path)]
    language = [path for path in alike if "language" in path or "text" in path] or alike
    if not language:
        raise Wrong(f"no list of modules is called like {name}")
    return lists[min(language, key=len)]


def _identity(returned: Any, handed: dict[int, int | str]) -> Any:
    def forward(*args: Any, **kwargs: Any) -> Any:
        given = dict(enumerate(args)) | kwargs
        hidden = args[0] if args else kwargs["hidden_states"]
        if not isinstance(returned, (tuple, list)):
            return hidden
        rest = range(1, len(returned))
        return (hidden, *(given.get(handed[i]) if i in handed else None for i in rest))

    return forward


def run(types: tuple[str, ...]) -> Iterator[Finding]:
    """Examine types one after the other."""
    for model_type in types:
        with tempfile.TemporaryDirectory() as folder:
            try:
                yield examine(model_type, Path(folder))
            except Exception as error:
                first = (str(error).splitlines() or [""])[0]
                yield Finding(model_type, "unexplained", f"{type(error).__name__}: {first}")


def summary(findings: list[Finding]) -> str:
    """The last line of the census."""
    number = Counter(finding.verdict for finding in findings)
    skipped = f", {number['skipped']} skipped" if number["skipped"] else ""
    return (
        f"{number['exact']} exact, {number['refused']} refused, {number['not a decoder']} not "
        f"decoders, {number['wrong']} wrong, {number['unexplained']} unexplained{skipped}"
    )


PAGE = Path(__file__).parent.parent / "docs" / "architectures.md"

_HEAD = """# Architectures

<!-- Written by `make census`; edit the rows in src/depthprune/checkpoints/architectures. -->

Every model type that transformers {version} maps to a causal language model: {total}. The census
(`make census`) builds each at a tiny size with random weights, removes single blocks, the first,
the last, neighbours, scattered ones, ones that break a period, and every block of one type, and
requires of the reloaded checkpoint that no key is missing or unexpected, that its float32 logits
are those of the original with the blocks skipped in place (to {limit:.0e} of their scale), and that
it generates with a cache what it generates without. Each is then loaded, scored, searched and
streamed: losses of removed sets are those of plain masked forwards (to {limit:.0e}), held in
memory or read block by block. What can be cut and not searched says so.

- **verified** ({verified}): exact for every set that is not refused by name.
- **refused** ({refused}): depth enters in a way that cannot be rewritten.
- **not a decoder** ({others}): there is no language model of blocks to cut.

`depthprune architectures` prints the same tables. "By field" means that the rules for fields of the
config are enough: lists with one entry a block are cut, sets of block numbers renumbered, counts of
leading blocks counted anew. A type without a row is cut by these rules too, but only to be compared
with the original before anything is written: `apply` asks for `--verify`, `prune` always compares.

| type | status | rule | why |
|---|---|---|---|
"""

_MULTIMODAL_HEAD = """
## Pictures, sound and text

Types that transformers {version} maps to a model of several modalities alone: {total}, of which
{verified} are verified, {refused} refused and {others} not decoders. The language model is cut and
compared on text as above, and every other tensor is the original's, byte for byte.

| type | status | rule | why |
|---|---|---|---|
"""

_OTHER_HEAD = """
## Language models inside those, and types of other versions

Cut by the same rules, as part of a type above or with a version of transformers that maps them.

| type | status | rule | why |
|---|---|---|---|
"""

_GGUF_HEAD = """
## GGUF

What llama.cpp derives from a block's number and a file does not say. An architecture that is not
here is cut only with `--verify`. "By field" means that the file says all that differs: arrays with
one entry a block are cut, counts of leading blocks counted anew.

| architecture | status | rule | why |
|---|---|---|---|
"""


def page() -> str:
    """What `docs/architectures.md` holds, by the tables alone."""
    table = architectures()
    parts = []
    for head, names in ((_HEAD, TYPES), (_MULTIMODAL_HEAD, MULTIMODAL)):
        rows = [row for row in table if row.model_type in names]
        number = Counter(row.status for row in rows)
        parts.append(
            head.format(
                version=transformers.__version__,
                total=len(names),
                limit=LIMIT,
                verified=number["verified"],
                refused=number["refused"],
                others=number["not a decoder"],
            )
            + _lines((row.model_type, row.status, row.rule, row.why) for row in rows)
        )
    others = [row for row in table if row.model_type not in (*TYPES, *MULTIMODAL)]
    parts.append(_OTHER_HEAD + _lines((r.model_type, r.status, r.rule, r.why) for r in others))
    gguf = ((r.name, r.status, r.rule, r.refused) for r in listed_architectures())
    parts.append(_GGUF_HEAD + _lines(gguf))
    return "".join(parts)


def _lines(rows: Iterable[tuple[str, str, str, str]]) -> str:
    return "".join(f"| `{name}` | {' | '.join(rest)} |\n" for name, *rest in rows)


def main() -> int:
    from transformers.utils import logging

    parser = argparse.ArgumentParser(description="Cut and compare every architecture.")
    parser.add_argument("types", nargs="*")
    asked = tuple(parser.parse_args().types)
    warnings.simplefilter("ignore")
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    torch.set_num_threads(1)
    print(f"transformers {transformers.__version__}, torch {torch.__version__}", flush=True)
    failed, last = False, []
    for title, types in (("multimodal", MULTIMODAL), ("causal", TYPES)):
        chosen = tuple(name for name in types if not asked or name in asked)
        findings = []
        for finding in run(chosen):
            findings.append(finding)
            print(finding.line(), flush=True)
        failed |= any(finding.verdict in ("wrong", "unexplained") for finding in findings)
        last.append(f"{title}: {summary(findings)}" if title == "multimodal" else summary(findings))
    if not asked and not failed:
        PAGE.write_text(page(), encoding="utf-8")
    print(f"of transformers {transformers.__version__}", *last, sep="\n")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
