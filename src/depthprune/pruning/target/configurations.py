"""What is tried: every row of the portfolio, drawn as often as it says, with its objective.

Two that come to the same windows under the same objective are one: of a text the task itself and
its tokens are the same thing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

from depthprune.calibration import (
    Calibration,
    CalibrationSpec,
    Part,
    Window,
    calibrate,
    is_generated,
    shared_documents,
    window_words,
)
from depthprune.errors import CalibrationError, UsageError
from depthprune.objectives import Component, Mixture, parse_objective
from depthprune.progress import note, warn
from depthprune.pruning.session import TextReader
from depthprune.pruning.target.portfolio import OWN, PORTFOLIO, Row, specs_of
from depthprune.pruning.target.split import Goal, Target


@dataclass(frozen=True)
class Configuration:
    """One draw of one row.

    Attributes:
        row: What it is a draw of.
        draw: From 0.
        calibration: What is calibrated on.
        objective: By what.
    """

    row: Row
    draw: int
    calibration: Calibration
    objective: Mixture

    @property
    def name(self) -> str:
        """The row's name and the draw, from 1."""
        return f"{self.row.name}, draw {self.draw + 1}"


def target_objective(target: Target, asked: str | None) -> Mixture:
    """What is measured on a target: of choices their cross-entropy, of all else the loss of text.

    Args:
        target: Its goals count by their weights.
        asked: What `--for-objective` names.

    Raises:
        UsageError: If what was asked for cannot judge the target.
    """
    if asked is not None:
        objective = parse_objective(asked)
        try:
            objective.judged(target.choose.windows)
        except UsageError as error:
            # It speaks of `--objective`, which is of the calibrations and was not given.
            raise UsageError(f"--for-{str(error).removeprefix('--')}") from error
        return objective
    return _by_kind(target.choose)


def _by_kind(calibration: Calibration) -> Mixture:
    of_items = sum(p.share for p in calibration.parts if p.windows[0].item is not None)
    parts = [("option-ce", of_items), ("nll", 1 - of_items)]
    return parse_objective("+".join(f"{name}:{share!r}" for name, share in parts if share > 1e-9))


def own_objective(calibration: Calibration, objective: Mixture, asked: bool) -> Mixture:
    """What a target is measured by, for a calibration that has other text beside it.

    Args:
        calibration: The target's, with or without other text.
        objective: What is measured on the target.
        asked: Whether that was named, and not chosen by the target's kinds.
    """
    if not asked:
        return _by_kind(calibration)
    of_items = sum(p.share for p in calibration.parts if p.windows[0].item is not None)
    if of_items > 1 - 1e-9 or not all(c.objective.items_only for c in objective.components):
        return objective
    text = parse_objective("nll").components[0].objective
    scaled = tuple(replace(c, weight=c.weight * of_items) for c in objective.components)
    return Mixture((*scaled, Component(text, 1 - of_items)))


class Reader:
    """Reads each spec once, whatever number of rows and draws it stands in.

    Args:
        reader: The model's tokenizer, and a way to load the model for text that it writes.
        scale: How much of what a spec asks for is drawn.
    """

    def __init__(self, reader: TextReader, scale: float = 1.0) -> None:
        self._reader = reader
        self._scale = scale
        self._known: dict[str, Calibration] = {}

    def read(self, specs: Sequence[CalibrationSpec], share: float = 1.0) -> Calibration:
        """The first draw of some specs, mixed by their weights.

        Args:
            specs: What is read.
            share: How much of it: a mixture is as large as what is mixed would be alone.
        """
        drawn = [_less(spec, share * self._scale) for spec in specs]
        key = "\n".join(spec.model_dump_json() for spec in drawn)
        if key not in self._known:
            self._known[key] = calibrate(drawn, self._reader)
            for part in self._known[key].parts:
                for said in part.notes:
                    warn(f"-c {part.spec.short()}: {said}")
        return self._known[key]


def configurations(
    rows: Iterable[Row],
    target: Target,
    objective: Mixture,
    reader: Reader,
    *,
    asked: bool,
    generates: bool = True,
) -> list[Configuration]:
    """Draw every row, those whose text the model writes at the end.

    Args:
        rows: The portfolio.
        target: What matters.
        objective: What is measured on it.
        reader: Reads what is not the target's.
        asked: Whether the objective was named.
        generates: Whether the model may write text; else rows that ask for it are left out.

    Raises:
        CalibrationError: If text cannot be read, or has what judges the target in it.
        UsageError: If a row's objective cannot judge it.
    """
    found: dict[tuple[str, str], Configuration] = {}
    # What is only read is compared before the model, which takes minutes, writes.
    for writes, some in groupby(sorted(rows, key=_writes), key=_writes):
        before = len(found)
        for row in some:
            if writes and not generates:
                words = "is left out: a streamed model would read its weights for every token"
                note(f"{row.name} {words}")
                continue
            for draw in range(row.draws):
                each = _drawn(row, draw, target, objective, reader, asked)
                key = (each.calibration.fingerprint, each.objective.name)
                found.setdefault(key, each)
        refuse_overlap(list(found.values())[before:], target)
    return list(found.values())


def _less(spec: CalibrationSpec, share: float) -> CalibrationSpec:
    if share == 1:
        return spec
    if isinstance(spec.windows, int):
        return spec.model_copy(update={"windows": max(2, round(share * spec.windows))})
    if spec.tokens is None:
        return spec
    return spec.model_copy(update={"tokens": max(spec.length, round(share * spec.tokens))})


def _writes(row: Row) -> bool:
    return any(is_generated(spec.source) for specs in specs_of(row) for spec in specs or ())


def _drawn(
    row: Row, draw: int, target: Target, objective: Mixture, reader: Reader, asked: bool
) -> Configuration:
    entries = specs_of(row)
    parts: list[Part] = []
    for specs in entries:
        if specs is None:
            whole = row.mask == "all"
            parts += [goal.draw(draw, 1 / len(entries), whole=whole) for goal in target.goals]
        else:
            other = reader.read(specs, 1 / len(entries)).redraw(draw)
            parts += [replace(part, share=part.share / len(entries)) for part in other.parts]
    calibration = Calibration(tuple(parts))
    used = (
        own_objective(calibration, objective, asked)
        if row.objective == OWN
        else parse_objective(row.objective)
    )
    used.judged(calibration.windows)
    return Configuration(row, draw, calibration, used)


def refuse_overlap(found: Iterable[Configuration], target: Target) -> None:
    """Refuse a calibration that has what decides or judges in it, as the same file would.

    As much as a spec's `overlap=` allows is let through. Of the built-in table, whose text is the
    same for everyone and may quote what a target quotes, it is only said.

    Raises:
        CalibrationError: Naming the first, with how much.
    """
    seen: set[tuple[str, bool]] = set()
    warned: set[str] = set()
    for configuration in found:
        ours = configuration.row in PORTFOLIO
        for part in configuration.calibration.parts:
            # Each draw has text of its own.
            key, line = (part.fingerprint, ours), part.spec.short()
            own = any(part.material is goal.sources[0] for goal in target.goals)
            if own or key in seen or (ours and line in warned) or is_generated(part.spec.source):
                continue
            seen.add(key)
            for goal in target.goals:
                words = _overlap_words(part, goal)
                if words is not None and not ours:
                    raise CalibrationError(
                        f"{words}; calibrate on other text: what --for names is tried already"
                    )
                if words is not None:
                    warn(words)
                    warned.add(line)


def _overlap_words(part: Part, goal: Goal) -> str | None:
    tokenizer, ngram = part.material.tokenizer, part.spec.ngram
    decides = (*goal.choose.windows, *goal.judge.windows)
    # Short windows hold fewer words than are compared, so each side is looked for in the other.
    shared = shared_documents(part.windows, _words(decides, tokenizer), tokenizer, ngram)
    found = shared_documents(decides, _words(part.windows, tokenizer), tokenizer, ngram)
    most = max(len(shared), len(found))
    if most <= part.spec.overlap * len(part.windows):
        return None
    windows = f"{most} window{'' if most == 1 else 's'}"
    return (
        f"-c {part.spec.short()}: it shares {ngram} words in a row, or a whole short item, with "
        f"{windows} of what is to choose and to judge of --for {goal.spec.short()}, the first "
        f"{(*shared, *found)[0]}"
    )


def _words(windows: Iterable[Window], tokenizer: Any) -> Iterator[list[str]]:
    return (window_words(window, tokenizer) for window in windows)
