"""The census: every type that transformers maps to a causal language model, cut and compared.

A second part goes over the types that read pictures or sound besides and are mapped elsewhere:
their language model is cut, and every other tensor must be the original's, byte for byte.

Each type is built tiny, six blocks or more; several sets of blocks are removed by surgery on its
saved files; the result is reloaded and must have no missing, unexpected or mismatched key, compute
the logits of the original with those blocks skipped in place, and generate with a cache what it
generates without. A type that cannot be cut is refused by its row, with a reason, and the refusal
is tried. Each type then goes through
the whole job: it is loaded, sets are scored and must have the losses of plain masked forwards, a
greedy step is searched, its blocks are streamed, with the same losses, and it is pruned and
recovered as `dp.prune` does it, parity included. A causal type must take every step but the last,
or its row says so. Nothing is left out: a type without a row counts as unexplained. The census runs
on any version of transformers and names it; what an older one lacks or does wrongly uncut is
skipped, with a word.

    python tests/census.py [TYPE...]    prints a line a type, then the counts

A whole census, without a type named and without a failure, also writes docs/architectures.md.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from transformers.models.auto import modeling_auto
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

import depthprune as dp
from census_page import DONE, NEEDED, PAGE, STEPS, page
from depthprune.calibration import Calibration, CalibrationSpec, Part, Window
from depthprune.checkpoints.architectures.schema import Architecture
from depthprune.checkpoints.architectures.table import (
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
from depthprune.checkpoints.refusals import checkpoint_refusal
from depthprune.checkpoints.surgery import write_pruned
from depthprune.errors import ModelError
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
        steps: Of a type that is exact, each step of the job: `yes`, or why not.
    """

    model_type: str
    verdict: str
    detail: str
    seconds: float = 0.0
    steps: dict[str, str] = field(default_factory=dict)

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
    steps: dict[str, str] = {}
    try:
        verdict, detail = _examine(model_type, row, folder, steps)
    except Wrong as error:
        verdict, detail = "wrong", str(error)
    except Uncut as error:
        verdict = "wrong" if VERSION >= NEWEST else "skipped"
        detail = f"logits exact; {error}"
    return Finding(model_type, verdict, detail, time.monotonic() - start, steps)


def _examine(
    model_type: str, row: Architecture | None, folder: Path, steps: dict[str, str]
) -> tuple[str, str]:
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
    steps["cut"] = DONE
    steps |= whole_job(model, checkpoint, folder)
    lacking = {step: steps[step] for step in NEEDED if steps[step] != DONE}
    if model_type in TYPES and bool(lacking) is not row.why.endswith("not searched"):
        raise Wrong(f"the table's note says otherwise; steps not taken: {lacking or 'none'}")
    done = ", ".join(step for step in STEPS if steps[step] == DONE)
    left = "; ".join(f"not {step}: {why}" for step, why in steps.items() if why != DONE)
    return "exact", f"{detail}; {done}" + (f"; {left}" if left else "")


def whole_job(model: Any, checkpoint: Checkpoint, folder: Path) -> dict[str, str]:
    """Every step beyond surgery: `yes`, or the words in which it was refused.

    Raises:
        Wrong: If a step is taken and its result is another than that of plain forwards.
    """
    place = save_tiny(folder / "tokenized", checkpoint.config["model_type"])
    calibration, ids = _calibration()
    found: dict[str, str] = {}

    @cache
    def loaded() -> Any:
        return dp.load(place, **_PLAINLY)

    def scored() -> None:
        _score(loaded(), model, checkpoint, calibration, ids)

    def searched() -> None:
        _search(loaded(), calibration)

    def streamed() -> None:
        _stream(loaded(), dp.load(place, **_PLAINLY, stream=True), calibration)

    def pruned(recover: str | None) -> str | None:
        return _prune(place, folder / f"pruned-{recover}", recover)

    steps: tuple[tuple[str, Callable[[], str | None]], ...] = (
        ("scored", scored),
        ("searched", searched),
        ("streamed", streamed),
        ("parity", lambda: pruned(None)),
        ("recovered", lambda: pruned("linear")),
    )
    for step, take in steps:
        try:
            found[step] = reason(take() or DONE, place)
        except dp.DepthpruneError as error:
            found[step] = reason(str(error), place)
    return found


def reason(words: str, place: Path) -> str:
    """Words as the page groups them: without the folder, and of no block by its number."""
    return _NUMBERED.sub("a block", words.replace(f"{place}: ", ""))


_NUMBERED = re.compile(r"\bblock \d+")


_PLAINLY: dict[str, Any] = {"dtype": "float32", "device": "cpu"}


def _calibration() -> tuple[Calibration, torch.Tensor]:
    ids = probe_ids()
    windows = [Window(row, np.arange(len(row)) > 0, "census", 0) for row in ids.numpy()]
    nothing: Any = None
    spec = CalibrationSpec(source="text", target="census")
    return Calibration((Part(spec, 1.0, tuple(windows), nothing),)), ids


def _score(
    loaded: Any, model: Any, checkpoint: Checkpoint, calibration: Calibration, ids: torch.Tensor
) -> None:
    sets = _allowed(loaded)
    scores = dp.Evaluator(loaded, calibration, racing=None).score(sets)
    for removed, score in zip(sets, scores, strict=True):
        logp = logits_skipping(model, checkpoint, removed)[:, :-1].double().log_softmax(-1)
        expected = -logp.gather(-1, ids[:, 1:, None])[..., 0].mean(1).numpy()
        if not np.allclose(score.window_losses, expected, rtol=LIMIT, atol=LIMIT):
            raise Wrong(f"{removed}: scored {score.window_losses}, and is {expected}")


def _allowed(loaded: Any) -> list[tuple[int, ...]]:
    return [s for s in [(), (2,), (1, 3)] if not s or loaded.refusal(s) is None]


def _search(loaded: Any, calibration: Calibration) -> None:
    """A greedy step by the search, against the least of all single blocks."""
    exact = dp.Evaluator(loaded, calibration, racing=None)
    found = dp.search("greedy", exact, k=1)
    singles = [(b,) for b in range(loaded.blocks) if loaded.refusal((b,)) is None]
    losses = {s: score.loss for s, score in zip(singles, exact.score(singles), strict=True)}
    if found.removed != min(losses, key=lambda s: losses[s]):
        raise Wrong(f"greedy removes {found.removed}, and the losses are {losses}")


def _stream(loaded: Any, streamed: Any, calibration: Calibration) -> None:
    sets = _allowed(loaded)
    held, read = (
        [s.window_losses for s in dp.Evaluator(each, calibration, racing=None).score(sets)]
        for each in (loaded, streamed)
    )
    if not np.allclose(read, held, rtol=LIMIT, atol=LIMIT):
        raise Wrong(f"streamed losses are {read}, and were {held}")


def _prune(place: Path, out: Path, recover: str | None) -> str | None:
    """The whole job by its one call, for one block in the middle; why nothing was recovered."""
    checkpoint = open_checkpoint(place)
    refused = checkpoint_refusal(checkpoint)
    blocks = range(checkpoint.blocks)
    free = next((b for b in (2, 3, 1, *blocks) if refused((b,)) is None), None)
    if free is None:
        return "no block can go by itself"
    manifest = dp.prune(
        place,
        1,
        out=out,
        calibration="stdlib-prose,windows=8,length=24",
        search="one-shot",
        protect=[block for block in blocks if block != free],
        recover=recover,
        bench=False,
        memo="off",
        prompt="The river",
        **_PLAINLY,
    )
    if manifest.removed != [free] or manifest.parity is None:
        raise Wrong(f"pruned {manifest.removed}, with parity {manifest.parity}")
    if manifest.recovery is None:
        return None
    (run,) = manifest.recovery.runs
    return run.why_not


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
    found: dict[str, dict[str, str]] = {}
    for title, types in (("multimodal", MULTIMODAL), ("causal", TYPES)):
        chosen = tuple(name for name in types if not asked or name in asked)
        findings = []
        for finding in run(chosen):
            findings.append(finding)
            if finding.verdict == "exact":
                found[finding.model_type] = finding.steps
            print(finding.line(), flush=True)
        failed |= any(finding.verdict in ("wrong", "unexplained") for finding in findings)
        last.append(f"{title}: {summary(findings)}" if title == "multimodal" else summary(findings))
    if not asked and not failed:
        PAGE.write_text(page(found, TYPES, MULTIMODAL, LIMIT), encoding="utf-8")
    print(f"of transformers {transformers.__version__}", *last, sep="\n")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
