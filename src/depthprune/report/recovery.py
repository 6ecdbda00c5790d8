"""What a recovery did, in the words that terminal, page and card share.

Every text is judged whole, without the blocks and recovered on the same windows, so what recovery
changed is told with the paired error.
"""

from __future__ import annotations

from dataclasses import dataclass

from depthprune.manifest import HeldOut, Manifest
from depthprune.report import numbers, summary


@dataclass(frozen=True)
class RecoveryLine:
    """One text before removal, after it and after recovery, in words."""

    name: str
    dense: str
    pruned: str
    recovered: str
    change: str


def recovery_lines(manifest: Manifest) -> list[RecoveryLine]:
    """What recovery did on each held-out text, and on the further ones; empty without it."""
    if manifest.recovery is None:
        return []
    held_out = manifest.held_out or []
    texts = [*held_out, *manifest.recovery.further]
    labels = summary.source_labels([record.calibration for record in texts])
    named = {record.calibration: label for record, label in zip(texts, labels, strict=True)}
    own = [f"{label} (held out)" for label in labels[: len(held_out)]]
    other = [f"{label} (not fitted)" for label in labels[len(held_out) :]]
    choices = manifest.recovery.choices
    items = [named.get(record.calibration, record.calibration) for record in choices]
    return [
        _recovery_line(record, label, record.objective or manifest.objective)
        for record, label in zip([*texts, *choices], [*own, *other, *items], strict=True)
        if record.recovered is not None
    ]


def _recovery_line(record: HeldOut, label: str, objective: str | None) -> RecoveryLine:
    estimates = [record.dense, record.pruned, record.recovered or record.pruned]
    if objective == "accuracy":
        return _accuracy_line(record, label)
    values = [value for e in estimates if (value := numbers.perplexity(e)) is not None]
    change, stderr = record.recovered_change or 0.0, record.recovered_change_stderr or 0.0
    if len(values) < len(estimates):
        cells = [numbers.with_error(e.loss, e.stderr) for e in estimates]
        changed = numbers.with_error(change, stderr, sign=True)
    else:
        cells = [numbers.with_error(*value) for value in values]
        changed = f"× {numbers.with_error(*numbers.perplexity_ratio(change, stderr))}"
    name = f"{summary.held_out_measure(record, objective)}, {label}"
    dense, pruned, recovered = cells
    return RecoveryLine(name, dense, pruned, recovered, changed)


def _accuracy_line(record: HeldOut, label: str) -> RecoveryLine:
    estimates = [record.dense, record.pruned, record.recovered or record.pruned]
    dense, pruned, recovered = (
        numbers.with_error(100 * (1 - e.loss), 100 * e.stderr) for e in estimates
    )
    change, stderr = record.recovered_change or 0.0, record.recovered_change_stderr or 0.0
    changed = numbers.with_error(-100 * change, 100 * stderr, sign=True)
    return RecoveryLine(f"accuracy in %, {label}", dense, pruned, recovered, changed)


def unmeasured_words(manifest: Manifest) -> str:
    """What recovery was not judged on, in a sentence; empty where nothing is missing."""
    if manifest.recovery is None:
        return ""
    missing = [
        *([] if manifest.recovery.further else ["text that was not fitted"]),
        *([] if manifest.recovery.choices else ["items with options"]),
    ]
    if not missing:
        return ""
    return f"Recovery was not judged on {' nor on '.join(missing)}; --also names some."


def folded(manifest: Manifest) -> str:
    """What was folded into the weights, `into` to follow; empty where nothing was."""
    found = manifest.recovery
    if found is None:
        return ""
    runs = any(run.strength for run in found.runs)
    if not runs and not any(layer.strength for layer in found.refits):
        return ""
    if found.method == "magnitude":
        return "scales that mend part of what removal broke were multiplied"
    return "linear maps that recover part of what removal broke were folded"


def recovery_words(manifest: Manifest) -> str:
    """Which blocks took the part of which, in a sentence; empty without recovery."""
    if manifest.recovery is None:
        return ""
    done = [
        f"{numbers.block_list(run.blocks)} into {run.into} (strength "
        f"{numbers.fixed(run.strength, 2)}, {run.tokens:,} tokens)"
        for run in manifest.recovery.runs
        if run.strength and run.factor is None
    ]
    scaled = [
        f"{numbers.block_list(run.blocks)} by {numbers.fixed(run.factor, 3)}"
        for run in manifest.recovery.runs
        if run.factor is not None
    ]
    left = [
        f"{numbers.block_list(run.blocks)} ({run.why_not})"
        for run in manifest.recovery.runs
        if not run.strength
    ]
    again = sorted({layer.block for layer in manifest.recovery.refits if layer.strength})
    behind = [b for b in again if b not in {run.into for run in manifest.recovery.runs}]
    words = [f"Folded into the weights of the block before: {'; '.join(done)}." if done else ""]
    words.append(f"Refitted behind the gaps: {numbers.block_list(behind)}." if behind else "")
    words.append(f"All below the runs was scaled: {'; '.join(scaled)}." if scaled else "")
    words.append(f"Left alone: {'; '.join(left)}." if left else "")
    return " ".join(filter(None, words))
