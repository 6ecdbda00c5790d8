"""The words that terminal, page and card share: the headline, the comparisons, parity in a line.

A held-out loss is shown as perplexity wherever the objective has one, because that is the figure
people compare, and as the loss under the objective's own name elsewhere. The before and after of
one text share their windows, so the change is judged by the paired error, not by the two errors.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath

from depthprune.manifest import (
    Estimate,
    HeldOut,
    Manifest,
    ParityRecord,
    Size,
    Speed,
    Spread,
    TargetRecord,
)
from depthprune.report import numbers

_FILE_SOURCES = ("text:", "jsonl:", "csv:", "tsv:", "parquet:", "choices:")
_FIRST_KEY = re.compile(r"(?<!\\),[a-z_]+=")


@dataclass(frozen=True)
class Comparison:
    """One line of a before-and-after table, already in words.

    Attributes:
        name: What was measured.
        before: Of the original model.
        after: Of the pruned model.
        change: After against before; may be empty.
        detail: What the figure was measured on; may be empty.
    """

    name: str
    before: str
    after: str
    change: str
    detail: str = ""


def source_labels(specs: Sequence[str]) -> list[str]:
    """Short names for specs: the source without its keys, a file without its folder.

    Where two would be called the same, all of them keep their whole spec.
    """
    labels = []
    for spec in specs:
        source = _FIRST_KEY.split(spec, maxsplit=1)[0].replace("\\,", ",")
        for prefix in _FILE_SOURCES:
            if source.startswith(prefix):
                source = PurePath(source[len(prefix) :]).name or source
        labels.append(source)
    return labels if len(set(labels)) == len(labels) else list(specs)


def held_out_measure(record: HeldOut, objective: str | None) -> str:
    """What a held-out estimate is called: `perplexity`, or the objective's loss."""
    if record.dense.perplexity is not None and record.pruned.perplexity is not None:
        return "perplexity"
    return f"{objective} loss" if objective else "loss"


def held_out_comparisons(manifest: Manifest) -> list[Comparison]:
    """Before and after on each held-out text, with standard errors."""
    records = manifest.held_out or []
    labels = source_labels([record.calibration for record in records])
    return [
        _held_out(record, label, record.objective or manifest.objective)
        for record, label in zip(records, labels, strict=True)
    ]


def decided_words(manifest: Manifest) -> str:
    """What held-out losses decided all the same, to follow a comma's sentence; else empty."""
    if manifest.target is not None:
        return _decided_by_default(manifest.target)
    sized = manifest.search is not None and manifest.search.max_increase is not None
    if sized or (manifest.draft is not None and len(manifest.draft.points) > 1):
        return "; but it decided how many blocks went, so it flatters that choice a little"
    return ""


def _decided_by_default(target: TargetRecord) -> str:
    found = []
    if target.keep_general is not None and any(each.refused for each in target.sets):
        found.append("sets that lose too much on the default text were refused")
    if target.ties > 1:
        found.append("of sets that tied on the target, the loss on the default text chose one")
    return f"; but {' and '.join(found)}" if found else ""


def written(record: HeldOut) -> tuple[Estimate, float, float]:
    """The loss of the model that was written, and its increase: recovered, where it was."""
    if record.recovered is None:
        return record.pruned, record.increase, record.increase_stderr
    increase, stderr = record.recovered_increase, record.recovered_increase_stderr
    return record.recovered, increase or 0.0, stderr or 0.0


def _held_out(record: HeldOut, label: str, objective: str | None) -> Comparison:
    measure = held_out_measure(record, objective)
    kept, increase, stderr = written(record)
    before, after = numbers.perplexity(record.dense), numbers.perplexity(kept)
    if before is None or after is None:
        return Comparison(
            name=f"{measure}, {label}",
            before=numbers.with_error(record.dense.loss, record.dense.stderr),
            after=numbers.with_error(kept.loss, kept.stderr),
            change=numbers.with_error(increase, stderr, sign=True),
        )
    ratio = numbers.perplexity_ratio(increase, stderr)
    return Comparison(
        name=f"perplexity, {label}",
        before=numbers.with_error(*before),
        after=numbers.with_error(*after),
        change=f"× {numbers.with_error(*ratio)}",
    )


def answer_comparisons(manifest: Manifest) -> list[Comparison]:
    """The share of problems that each model answered right in words, in percent."""
    records = manifest.answers or []
    labels = source_labels([record.calibration for record in records])
    return [
        Comparison(
            name=f"answers right in %, {label}",
            before=_percent(record.dense.right, record.dense.stderr),
            after=_percent(record.kept.right, record.kept.stderr),
            change=_percent(record.change, record.change_stderr, sign=True),
        )
        for record, label in zip(records, labels, strict=True)
    ]


def _percent(share: float, stderr: float | None, *, sign: bool = False) -> str:
    return numbers.with_error(100 * share, 100 * (stderr or 0.0), sign=sign)


def size_comparisons(size: Size) -> list[Comparison]:
    """Parameters and bytes, before and after."""
    gguf = size.bytes_source == size.bytes_before
    return [
        Comparison(
            "parameters",
            numbers.format_count(size.parameters_before),
            numbers.format_count(size.parameters_after),
            numbers.change(size.parameters_before, size.parameters_after),
        ),
        Comparison(
            "bytes as safetensors" if _unpacked(size) else "bytes on disk",
            numbers.format_bytes(size.bytes_before),
            numbers.format_bytes(size.bytes_after),
            numbers.change(size.bytes_before, size.bytes_after),
            detail="GGUF files" if gguf else "safetensors files",
        ),
    ]


def _unpacked(size: Size) -> bool:
    """Whether what it was before never lay on disk: the model came from a file of other bytes."""
    return size.bytes_source not in (None, size.bytes_before)


def unpacked_words(manifest: Manifest) -> str:
    """What the original's file holds, where the bytes before are not its own; else empty."""
    size = manifest.size
    if size is None or size.bytes_source is None or not _unpacked(size):
        return ""
    return (
        f"The file that the model came from holds {numbers.format_bytes(size.bytes_source)}; bytes "
        f"before are those of the same model written in {manifest.dtype}."
    )


def first_words(manifest: Manifest) -> str:
    """What a model that had been cut before was cut from, and all that is gone; else empty."""
    first = manifest.model.cut_from
    if first is None:
        return ""
    return (
        f"{manifest.model.name} had itself been cut from {first.name}; of the {first.blocks} "
        f"blocks of that one, {numbers.block_list(first.removed)} are gone in all."
    )


def speed_comparisons(speed: Speed, *, ranges: bool = True) -> list[Comparison]:
    """Prefill and decode tokens a second, before and after.

    Args:
        speed: The measurement.
        ranges: Write the lowest and highest repeat after each median.
    """

    def words(value: Spread) -> str:
        return numbers.spread(value) if ranges else numbers.rate(value.median)

    pairs = [
        ("prefill", speed.prefill_before, speed.prefill_after, f"{speed.prompt_tokens:,} tokens"),
        ("decode", speed.decode_before, speed.decode_after, f"{speed.new_tokens:,} new tokens"),
    ]
    return [
        Comparison(
            f"{name}, tokens/s",
            words(before),
            words(after),
            numbers.factor(before.median, after.median),
            detail=detail,
        )
        for name, before, after, detail in pairs
    ]


def removed_words(manifest: Manifest) -> str:
    """`6 of 30 blocks removed`."""
    return f"{len(manifest.removed)} of {manifest.model.blocks} blocks removed"


def headline(manifest: Manifest) -> str:
    """The whole answer in one sentence, as much of it as was measured."""
    return ": ".join(filter(None, (removed_words(manifest), outcome_words(manifest)))) + "."


def outcome_words(manifest: Manifest) -> str:
    """What was lost and what was won, without a full stop; empty where nothing was measured."""
    gains = []
    if manifest.speed is not None:
        for name, before, after in (
            ("prefill", manifest.speed.prefill_before, manifest.speed.prefill_after),
            ("decode", manifest.speed.decode_before, manifest.speed.decode_after),
        ):
            gains.append(_faster(name, before.median, after.median))
    if manifest.size is not None:
        lost = numbers.change(manifest.size.parameters_before, manifest.size.parameters_after)
        gains.append(f"{lost.lstrip(numbers.MINUS)} fewer parameters")
    return "; ".join(filter(None, (_held_out_words(manifest), ", ".join(filter(None, gains)))))


def _held_out_words(manifest: Manifest) -> str:
    records = manifest.held_out or []
    labels = source_labels([record.calibration for record in records])
    words, last = [], ""
    for record, label in zip(records, labels, strict=True):
        measure = held_out_measure(record, record.objective or manifest.objective)
        kept = written(record)[0]
        before, after = numbers.perplexity(record.dense), numbers.perplexity(kept)
        if before is None or after is None:
            before = (record.dense.loss, record.dense.stderr)
            after = (kept.loss, kept.stderr)
        subject = f"{measure} on held-out {label}" if measure != last else f"on {label}"
        change = f"{numbers.rounded(*before)} → {numbers.with_error(*after)}"
        words.append(f"{subject} {change}")
        last = measure
    return ", ".join(words)


def _faster(name: str, before: float, after: float) -> str:
    if not before:
        return ""
    if numbers.times(before, after) == numbers.times(before, before):
        return f"{name} no faster"
    if after > before:
        return f"{numbers.times(before, after)} faster {name}"
    return f"{name} at {numbers.times(before, after)} the speed"


def parity_words(parity: ParityRecord | None) -> str:
    """How the written checkpoint compared with the masked model, in one sentence."""
    if parity is None:
        return "Not checked: the checkpoint was written without running it."
    if parity.bitwise:
        logits = f"logits bitwise equal in {parity.dtype}"
    else:
        relative = parity.logits_difference / parity.logits_scale if parity.logits_scale else 0.0
        logits = f"logits equal to {relative:.1e} of their scale in {parity.dtype}"
        if parity.float32_difference is not None:
            logits += f" and to {parity.float32_difference:.1e} in float32"
        if parity.float64_difference is not None:
            logits += f" and to {parity.float64_difference:.1e} in float64"
    return (
        f"Reloaded by transformers and compared with the masked model: {logits} over "
        f"{parity.tokens:,} tokens, and {parity.generated_tokens:,} generated tokens the same "
        "with a cache and without."
    )


def parity_status(parity: ParityRecord | None) -> str:
    """Parity in a few words."""
    if parity is None:
        return "parity not checked"
    return "parity: bitwise equal" if parity.bitwise else "parity: equal within tolerance"
