"""A target's documents, split into what is calibrated on, what chooses and what judges.

A set that is searched, chosen and judged on the same data is flattered three times over, so each
part has documents of its own, drawn by a seed. Repeated documents are left out, as they could stand
on both sides; questions on one passage stay in one part (`shares.py`). A text of few documents, or
one of many that is much of all the text, is cut into passages at its paragraphs, and those are
split; passages of one text are nearer to each other than two texts are, which the judged loss then
has in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from depthprune.calibration import (
    Calibration,
    CalibrationSpec,
    Document,
    HasTokenizer,
    LoadedSource,
    Part,
    context_of,
    documents_of_spec,
    is_generated,
    load_source,
    measure_overlap,
    parse_calibration,
)
from depthprune.calibration.examples import notes_of_pools
from depthprune.calibration.loading import notes_of
from depthprune.calibration.model_limits import rows_of
from depthprune.calibration.rules import check_spec
from depthprune.errors import UsageError
from depthprune.pruning.target.options import CALIBRATION_TOKENS, Split
from depthprune.pruning.target.passages import cut_at_paragraphs
from depthprune.pruning.target.shares import shared_out
from depthprune.pruning.target.windows import LEAST_WINDOWS, TooFew, looked_at, sample, too_long

Kind = Literal["choices", "answers", "chats", "text"]

_MOST_DRAWS = (128, 4, 4)
"""Each part has the tokens of so many draws at most."""

_DRAWN = 0.75
"""Share of the part that one draw takes at most, so that two draws are not the same."""

_FEW_DOCUMENTS = 3 * LEAST_WINDOWS


@dataclass(frozen=True)
class Goal:
    """One `--for`, split.

    Attributes:
        spec: How its documents become windows.
        kind: What its documents are.
        share: Its weight among the goals, which sum to 1.
        sources: Its three parts' documents, in the order of `PARTS`.
        documents: How many each has.
        passages: Whether its documents were cut into passages, which are then counted.
        choose: All windows of the part that decides, or a sample of them.
        judge: The same of the part that is reported.
        tokens: Of a draw, over all goals.
        notes: What should be known of how it was read.
    """

    spec: CalibrationSpec
    kind: Kind
    share: float
    sources: tuple[LoadedSource, LoadedSource, LoadedSource]
    documents: tuple[int, int, int]
    passages: bool
    choose: Part
    judge: Part
    tokens: int = CALIBRATION_TOKENS
    notes: tuple[str, ...] = ()

    def draw(self, seed: int, part: float = 1.0, *, whole: bool = False) -> Part:
        """A draw of what may be calibrated on.

        Args:
            seed: Of the draw.
            part: What of a mixture the target is; the draw is as much smaller.
            whole: Count every token, and not an answer's alone.
        """
        tokens = max(*self._sizes, int(part * self._drawn))
        changed: dict[str, object] = {"seed": seed, "windows": None, "tokens": tokens}
        if whole and self.kind != "choices":
            changed["mask"] = "all"
        spec = self.spec.model_copy(update=changed)
        return self.sources[0].part(spec, part * self.share, "draw")

    @property
    def _drawn(self) -> float:
        return min(self.share * self.tokens, _DRAWN * sum(self._sizes))

    @cached_property
    def _sizes(self) -> list[int]:
        """Tokens of every window that may be calibrated on."""
        whole = self.spec.model_copy(update={"windows": "all", "order": "first"})
        return [len(w.tokens) for w in self.sources[0].part(whole, 1.0, "draw").windows]


@dataclass(frozen=True)
class Target:
    """What a set is to keep."""

    goals: tuple[Goal, ...]
    split: Split
    seed: int

    @property
    def choose(self) -> Calibration:
        """What decides, of all goals."""
        return Calibration(tuple(goal.choose for goal in self.goals))

    @property
    def judge(self) -> Calibration:
        """What is reported, of all goals."""
        return Calibration(tuple(goal.judge for goal in self.goals))


def target_specs(specs: Sequence[str]) -> list[CalibrationSpec]:
    """Read `--for`, as far as that needs no files.

    Raises:
        UsageError: If a spec is wrong, or says what the split decides.
    """
    parsed = parse_calibration(specs)
    for spec in parsed:
        if is_generated(spec.source):
            raise UsageError(
                f"--for {spec.short()}: a task is what people wrote or ask; name a source of that, "
                "and calibrate on the model's own text by -c self"
            )
        fixed = {
            "tokens": None,
            "windows": 16,
            "documents": None,
            "order": "random",
            "reduction": None,
            "seed": 0,
        }
        for key, value in fixed.items():
            if getattr(spec, key) != value:
                raise UsageError(
                    f"--for {spec.short()}: {key}= means nothing here, since its parts are taken "
                    "whole and drawn by --seed; drop it"
                )
    return parsed


def split_target(
    specs: Sequence[CalibrationSpec],
    model: HasTokenizer,
    split: Split,
    seed: int,
    tokens: int = CALIBRATION_TOKENS,
) -> Target:
    """Read what `--for` names and split it.

    Args:
        specs: As `target_specs` gives them.
        model: Whose tokenizer is used.
        split: The shares of the parts.
        seed: Of the split.
        tokens: Of a draw.

    Raises:
        CalibrationError: If one cannot be read or has too little for three parts, or its windows
            overlap with files that it is checked against.
    """
    total = sum(spec.weight for spec in specs)
    goals = tuple(_goal(spec, spec.weight / total, model, split, seed, tokens) for spec in specs)
    target = Target(goals, split, seed)
    for calibration in (target.choose, target.judge):
        calibration.check_context(context_of(model))
        calibration.check_ids(rows_of(model))
    return target


def _goal(
    spec: CalibrationSpec,
    share: float,
    model: HasTokenizer,
    split: Split,
    seed: int,
    tokens: int,
) -> Goal:
    documents, repeats = documents_of_spec(spec.model_copy(update={"dedupe": True}))
    kind = _kind(documents[0])
    spec = _as_asked(spec, kind)
    running = kind == "text" and spec.format == "raw"
    read, notes = len(documents), notes_of(documents)
    if running:
        largest = 0.0 if read < _FEW_DOCUMENTS else split.smallest / 2
        documents = cut_at_paragraphs(documents, spec, largest)
    cut = len(documents) != read
    lengths = [len(d.running) if running else 1 for d in documents]
    parts = shared_out(documents, lengths, split, np.random.default_rng([seed, 3]))
    what = "passages" if cut else ("documents" if running else "examples")
    few = TooFew(spec, what, len(documents), repeats, split)
    if not all(parts):
        raise few.error([len(part) for part in parts])
    sources = [load_source(spec, model, [documents[i] for i in part]) for part in parts]
    whole = spec.model_copy(update={"windows": "all", "order": "first", "seed": seed})
    found = [
        sample(whole, source, seed + place, draws * tokens)
        for source, place, draws in zip(sources, (2, 0, 1), _MOST_DRAWS, strict=True)
    ]
    if min(map(len, found)) < LEAST_WINDOWS:
        raise few.error([len(windows) for windows in found], too_long(sources))
    choose, judge = (
        Part(
            whole.model_copy(update={"windows": len(windows), "order": "random"}),
            share,
            windows,
            source,
        )
        for source, windows in zip(sources[1:], found[1:], strict=True)
    )
    if spec.against:
        for windows in found:
            measure_overlap(spec, windows, model.tokenizer)
    counts = tuple(len(part) for part in parts)
    notes += notes_of_pools([source.pool for source in sources])
    looked = looked_at(sources[0])
    if looked is not None:
        sources[0] = load_source(spec, model, [documents[parts[0][i]] for i in looked])
    return Goal(spec, kind, share, tuple(sources), counts, cut, choose, judge, tokens, notes)  # type: ignore[arg-type]


def _kind(document: Document) -> Kind:
    if document.options:
        return "choices"
    if document.chat:
        return "chats"
    return "text" if document.prompt is None else "answers"


def _as_asked(spec: CalibrationSpec, kind: Kind) -> CalibrationSpec:
    """The spec as a task is asked: a prompt with its answer, whose tokens alone count."""
    changed: dict[str, object] = {}
    named = spec.model_fields_set
    if kind == "answers" and spec.format == "raw":
        if "format" in named:
            raise UsageError(
                f"--for {spec.short()}: format=raw makes running text of prompts, which are "
                "measured by their answers; drop it, or pass zero-shot, few-shot, chat or plain"
            )
        changed["format"] = "zero-shot"
        # Keys of running text would do nothing.
        check_spec(spec.model_copy(update=changed))
    if kind in ("answers", "chats") and "mask" not in named:
        changed["mask"] = "answer"
    return spec.model_copy(update=changed)
