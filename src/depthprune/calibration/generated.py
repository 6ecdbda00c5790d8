"""Text that the model itself writes, as windows: the source `self`.

Every text begins with BOS (else EOS), a prompt, or a prefix cut from real text, and goes on to the
window's full length: an end that the model writes is a token like another. Nothing but temperature
and nucleus bends the sampling, whatever the checkpoint's own generation settings say. A few more
texts are sampled than are needed; those of the highest perplexity under the model itself are left
out, and the last ones are held out. Sampling is seeded by the draw's seed and batched in a fixed
size, so the same model on the same machine writes the same text; what was written is kept in the
user's cache folder under a key of all that it depends on.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from depthprune.calibration.bos import bos_tokens_of
from depthprune.calibration.own_text import OwnText
from depthprune.calibration.reading.files import whole_text
from depthprune.calibration.spec import CalibrationSpec
from depthprune.calibration.windows import Split, Window, plain_window
from depthprune.errors import CalibrationError, DepthpruneError, OutputError, UsageError
from depthprune.models.loading import Model
from depthprune.models.plain_generation import plain_generation
from depthprune.models.pretrained import quiet_transformers
from depthprune.models.probe_tokens import probe_tokens
from depthprune.outputs import cache_folder, whole_file
from depthprune.progress import SILENT, Progress
from depthprune.untrusted import parse_json, read_text

_BATCH = 8
_FEWEST_HELD_OUT = 2
_FORM = 1
_LARGEST_KEPT = 1 << 30
"""Bytes of kept text: over a hundred million tokens."""


@dataclass(frozen=True)
class Samples:
    """Texts that a model wrote.

    Attributes:
        texts: Token ids, the beginning included, all of one length.
        begun: How many of each text's tokens it was given.
        losses: Mean NLL a written token, of each text.
    """

    texts: tuple[tuple[int, ...], ...]
    begun: int
    losses: tuple[float, ...]


def generated_pool(model: Any) -> GeneratedPool:
    """The pool of a loaded model, or of something whose `loaded()` gives one.

    Raises:
        UsageError: If there is only a tokenizer.
    """
    load, progress = getattr(model, "loaded", None), getattr(model, "progress", SILENT)
    rehearsed = bool(getattr(model, "rehearsed", False))
    model = load() if callable(load) else model
    if not isinstance(model, Model):
        raise UsageError("self: the text is the model's own; pass a loaded model, dp.load(…)")
    return GeneratedPool(model, progress, rehearsed)


@dataclass(frozen=True)
class Rehearsed:
    """A loaded model that is to write nothing: drawn tokens stand for text of its own.

    Attributes:
        model: The model.
        rehearsed: That it is so.
    """

    model: Model
    rehearsed: bool = True

    @property
    def tokenizer(self) -> Any:
        """The model's."""
        return self.model.tokenizer

    @property
    def module(self) -> Any:
        """The model's."""
        return self.model.module

    def loaded(self) -> Model:
        """The model."""
        return self.model


@dataclass(frozen=True)
class GeneratedPool:
    """A model that writes its own calibration text.

    Attributes:
        model: The loaded model.
        progress: Where the sampling shows itself.
        rehearsed: Whether text that is not in the cache is stood for by drawn tokens, of which
            costs are the same.
    """

    model: Model
    progress: Progress = SILENT
    rehearsed: bool = False

    def draw(self, spec: CalibrationSpec, split: Split) -> tuple[Window, ...]:
        """The windows of a spec, sampled or read from the cache.

        Args:
            spec: Of the source `self`.
            split: `held-out` gives texts that no draw of this seed contains; else those it does.

        Raises:
            CalibrationError: If the beginning leaves no room, or the cache's file is damaged.
        """
        windows = _wanted(spec)
        held_out = max(_FEWEST_HELD_OUT, math.ceil(windows / 9))
        own = OwnText.model_validate(dict(spec.options))
        needed = math.ceil((windows + held_out) / (1 - own.filter))
        samples = self._samples(spec, own, needed)
        kept = sorted(np.argsort(samples.losses, kind="stable")[: windows + held_out].tolist())
        chosen = kept[windows:] if split == "held-out" else kept[:windows]
        name = f"self/{spec.seed}"
        return tuple(
            plain_window(samples.texts[i], f"{name}/{i}", 0, spec.mask, samples.begun)
            for i in chosen
        )

    def _samples(self, spec: CalibrationSpec, own: OwnText, count: int) -> Samples:
        beginnings = self._beginnings(spec, own, count)
        if len(beginnings[0]) >= spec.length:
            raise CalibrationError(
                f"self: its beginning has {len(beginnings[0])} tokens, which leaves none to write "
                f"in length={spec.length}; raise length="
            )
        file = _cache_file(self.model, spec, own, beginnings)
        if file is not None and file.exists():
            return _read(file, count, spec.length)
        if self.rehearsed:
            return self._stand_in(spec, beginnings)
        samples = self._write(spec, own, beginnings)
        if file is not None:
            _store(file, samples)
        return samples

    def _stand_in(self, spec: CalibrationSpec, beginnings: Sequence[list[int]]) -> Samples:
        begun = len(beginnings[0])
        shape = (len(beginnings), spec.length - begun)
        drawn = probe_tokens(self.model.module, shape, seed=spec.seed, first=0).tolist()
        texts = ((*lead, *row) for lead, row in zip(beginnings, drawn, strict=True))
        return Samples(tuple(texts), begun, (0.0,) * len(beginnings))

    def _beginnings(self, spec: CalibrationSpec, own: OwnText, count: int) -> list[list[int]]:
        """What each text goes on from."""
        tokenizer = self.model.tokenizer
        lead = list(bos_tokens_of(spec.bos, tokenizer, "self"))
        if own.prompt:
            return [[*lead, *_encode(tokenizer, own.prompt)]] * count
        if own.prefix:
            text = _encode(tokenizer, whole_text(spec.target))
            if len(text) < own.prefix:
                raise CalibrationError(
                    f"self:{spec.target}: prefix={own.prefix} and the text has {len(text)} "
                    "tokens; give more text"
                )
            rng = np.random.default_rng([spec.seed, 3])
            starts = rng.integers(len(text) - own.prefix + 1, size=count).tolist()
            return [[*lead, *text[start : start + own.prefix]] for start in starts]
        if not lead:
            first = tokenizer.bos_token_id
            lead = [tokenizer.eos_token_id if first is None else first]
        if lead[0] is None:
            raise CalibrationError(
                "self: the model's tokenizer has neither a BOS nor an EOS token to begin with; "
                "give prompt="
            )
        return [lead] * count

    def _write(
        self, spec: CalibrationSpec, own: OwnText, beginnings: Sequence[list[int]]
    ) -> Samples:
        import torch

        module: Any = self.model.module
        device = torch.device(self.model.device)
        new = spec.length - len(beginnings[0])
        texts: list[tuple[int, ...]] = []
        total = len(beginnings) * new
        with (
            self.progress.step("the model writes calibration text", total, "tokens") as step,
            torch.random.fork_rng([device] if device.type == "cuda" else []),
            quiet_transformers(),
            plain_generation(module),
            torch.inference_mode(),
        ):
            torch.manual_seed(spec.seed)
            for group in _groups(beginnings):
                ids = torch.tensor(group, device=device)
                written = module.generate(
                    ids,
                    attention_mask=torch.ones_like(ids),
                    do_sample=True,
                    temperature=own.temperature,
                    top_p=own.top_p,
                    top_k=0,
                    max_new_tokens=new,
                )
                texts += [tuple(row) for row in written.tolist()]
                step.advance(len(group) * new)
            losses = tuple(_loss(module, text, len(beginnings[0]), device) for text in texts)
        return Samples(tuple(texts), len(beginnings[0]), losses)


def _wanted(spec: CalibrationSpec) -> int:
    """How many windows a spec of `self` asks for; it cannot ask for all."""
    if isinstance(spec.windows, int):
        return spec.windows
    return (spec.tokens or 0) // spec.length


def _groups(beginnings: Sequence[list[int]]) -> Iterator[Sequence[list[int]]]:
    for first in range(0, len(beginnings), _BATCH):
        yield beginnings[first : first + _BATCH]


def _loss(module: Any, text: Sequence[int], begun: int, device: Any) -> float:
    """Mean NLL of the tokens that were written, one text at a time to bound the logits."""
    import torch

    ids = torch.tensor([text], device=device)
    logits = module(input_ids=ids, use_cache=False).logits[0, begun - 1 : -1]
    return float(torch.nn.functional.cross_entropy(logits.float(), ids[0, begun:]))


def _encode(tokenizer: Any, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    return ids


def _cache_file(
    model: Model, spec: CalibrationSpec, own: OwnText, beginnings: Sequence[list[int]]
) -> Path | None:
    """Where these samples are kept; None for weights that have no fingerprint, or not for long."""
    import torch
    import transformers

    from depthprune.models.arithmetic import arithmetic_of

    weights = model.fingerprint
    if weights is None or model.mended:
        return None
    facts = {
        "form": _FORM,
        "weights": weights,
        "dtype": model.dtype,
        "device": torch.device(model.device).type,
        "arithmetic": arithmetic_of(model),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "batch": _BATCH,
        "seed": spec.seed,
        "length": spec.length,
        "temperature": own.temperature,
        "top_p": own.top_p,
        "beginnings": [list(beginning) for beginning in beginnings],
    }
    key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    return cache_folder() / "self" / f"{key}.json"


def _store(file: Path, samples: Samples) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"{file.parent}: cannot be made ({error.strerror}); set XDG_CACHE_HOME to a folder "
            "that can be written"
        ) from error
    found = {"texts": samples.texts, "begun": samples.begun, "losses": samples.losses}
    with whole_file(file) as partial:
        partial.write_text(json.dumps(found), encoding="utf-8")


def _read(file: Path, count: int, length: int) -> Samples:
    try:
        text = read_text(file, error=CalibrationError, most=_LARGEST_KEPT)
        found = parse_json(text, str(file), error=CalibrationError)
        texts = tuple(tuple(map(int, text)) for text in found["texts"])
        losses = tuple(map(float, found["losses"]))
        if len(texts) != count or len(losses) != count or {len(t) for t in texts} != {length}:
            raise ValueError("its texts are not as many or as long as their key says")
        return Samples(texts, int(found["begun"]), losses)
    except (OSError, ValueError, KeyError, TypeError, OverflowError, DepthpruneError) as error:
        raise CalibrationError(
            f"{file}: the model's own text kept there is damaged ({error}); delete the file"
        ) from error
