"""Tables for the terminal, as rich renderables.

They are made for 80 columns and for a pipe: nothing is told by colour alone, and bars are drawn in
characters. Names and model output may hold anything, so they are never read as rich's markup and
their control characters do not reach the terminal.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich import box
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from depthprune.manifest import BlockScore, Estimate, Manifest, Sample
from depthprune.report import numbers, recovery, summary, target

if TYPE_CHECKING:
    from depthprune.pruning.bench import BenchedModel
    from depthprune.pruning.drafting.bench_draft import BenchedDraft
    from depthprune.pruning.draws import BlockDraws

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_BAR = 20
_EIGHTHS = " ▏▎▍▌▋▊▉"


def _plain(text: str, style: str = "") -> Text:
    return Text(_CONTROL.sub("", text), style=style)


def _table(title: str, *columns: str) -> Table:
    """A table whose first column is names and whose others are numbers."""
    table = Table(
        title=_plain(title, "bold"), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False
    )
    for index, column in enumerate(columns):
        table.add_column(
            _plain(column),
            justify="right" if index else "left",
            no_wrap=bool(index),
            overflow="fold",
        )
    return table


def prune_summary(manifest: Manifest, report_path: Path | None = None) -> RenderableType:
    """What `prune` says last: the comparison, a continuation from both models, parity, the report.

    Args:
        manifest: Of the checkpoint; what it lacks is left out.
        report_path: Where the page lies.
    """
    blocks, kept = manifest.model.blocks, len(manifest.kept)
    table = _table(
        f"{manifest.model.name}, {summary.removed_words(manifest)}", "", "before", "after", "change"
    )
    for row in (
        summary.Comparison("blocks", str(blocks), str(kept), numbers.change(blocks, kept)),
        *(summary.size_comparisons(manifest.size) if manifest.size else []),
        *summary.held_out_comparisons(manifest),
        *summary.answer_comparisons(manifest),
        *(summary.speed_comparisons(manifest.speed, ranges=False) if manifest.speed else []),
    ):
        table.add_row(
            _plain(row.name), _plain(row.before), _plain(row.after, "bold"), _plain(row.change)
        )
    parts: list[RenderableType] = [table]
    if manifest.target is not None:
        parts.append(Padding(_plain(target.first_sentence(manifest.target)), (0, 0, 1, 0)))
    if manifest.recovery is not None:
        parts.append(_recovery(manifest))
    if manifest.sample is not None:
        parts.append(_continuations(manifest.sample))
    facts = [("removed", numbers.block_list(manifest.removed))]
    facts.append(("parity", summary.parity_words(manifest.parity)))
    if manifest.draws:
        facts.append(("draws", numbers.draws_words(manifest.draws, manifest.pruned)))
    parts.append(_pairs(facts))
    if report_path is not None:
        # On a line of its own, never folded, so that it can be copied.
        line = Text.assemble(("report  ", "bold"), _plain(str(report_path)))
        line.no_wrap, line.overflow = True, "ignore"
        parts.append(line)
    return Group(*parts)


def _recovery(manifest: Manifest) -> RenderableType:
    table = _table("recovery", "", "whole", "removed", "recovered", "by recovery")
    for line in recovery.recovery_lines(manifest):
        table.add_row(
            _plain(line.name),
            _plain(line.dense),
            _plain(line.pruned),
            _plain(line.recovered, "bold"),
            _plain(line.change),
        )
    return table


def _continuations(sample: Sample) -> RenderableType:
    pairs = [("prompt", sample.prompt), ("before", sample.before), ("after", sample.after)]
    return Padding(_pairs([(name, " ".join(text.split())) for name, text in pairs]), (0, 0, 1, 0))


def _pairs(pairs: Sequence[tuple[str, str]]) -> Table:
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in pairs:
        grid.add_row(_plain(name), _plain(value))
    return grid


def draws_table(blocks: Sequence[BlockDraws], draws: int, k: int) -> RenderableType:
    """How each block's increase varies between draws, and how often it is among the k lowest.

    Args:
        blocks: One a block, in the order to print.
        draws: How many draws there were.
        k: How many of the lowest count.
    """
    title = f"{draws} draws of the calibration, ± the standard deviation between them"
    table = _table(title, "block", "increase", f"among the {k} lowest")
    for each in blocks:
        table.add_row(
            _plain(str(each.block)),
            _plain(numbers.with_error(each.mean, each.spread, sign=True)),
            _plain(f"{each.lowest} of {draws}"),
        )
    return table


def score_table(scores: Sequence[BlockScore], dense: Estimate) -> RenderableType:
    """What removing each block alone adds to the loss, with a bar in characters.

    A bar that ends in `»` is cut off, where one block is worth many times what the others are.

    Args:
        scores: One a block, in the order to print.
        dense: The whole model on the same windows.
    """
    title = (
        f"loss of the whole model {numbers.with_error(dense.loss, dense.stderr)}, "
        f"{dense.windows:,} windows, {dense.tokens:,} tokens"
    )
    table = _table(title, "block", "loss", "increase")
    table.add_column(Text("removed alone"), no_wrap=True, min_width=_BAR + 1)
    increases = [score.increase for score in scores if math.isfinite(score.increase)]
    cap = numbers.axis_cap(increases) or max(increases, default=0.0)
    for score in scores:
        table.add_row(
            _plain(str(score.block)),
            _plain(numbers.with_error(score.loss, score.stderr)),
            _plain(numbers.with_error(score.increase, score.increase_stderr, sign=True)),
            _plain(_bar(score.increase, cap)),
        )
    return table


def _bar(value: float, cap: float) -> str:
    if not math.isfinite(value) or value <= 0 or cap <= 0:
        return ""
    if value > cap * 1.0001:
        return "█" * _BAR + "»"
    whole, eighths = divmod(round(8 * _BAR * value / cap), 8)
    return "█" * whole + (_EIGHTHS[eighths] if eighths else "")


def evaluate_table(rows: Sequence[tuple[str, str, Estimate]]) -> RenderableType:
    """Losses of a model on named data, each calibration apart.

    Args:
        rows: Calibration (its spec), objective, estimate.
    """
    table = _table("", "calibration", "objective", "loss", "perplexity", "windows", "tokens")
    table.title = None
    table.columns[0].ratio = 1
    labels = summary.source_labels([spec for spec, _, _ in rows])
    if len({spec for spec, _, _ in rows}) < len(rows):
        labels = [summary.source_labels([spec])[0] for spec, _, _ in rows]
    for label, (_, objective, estimate) in zip(labels, rows, strict=True):
        value = numbers.perplexity(estimate)
        table.add_row(
            _plain(label),
            _plain(objective),
            _plain(numbers.with_error(estimate.loss, estimate.stderr)),
            _plain(numbers.with_error(*value) if value else numbers.DASH),
            _plain(f"{estimate.windows:,}"),
            _plain(f"{estimate.tokens:,}"),
        )
    return table


def bench_table(rows: Sequence[BenchedModel]) -> RenderableType:
    """Speed, memory and size of one model, or of two side by side with the second's ratio.

    Args:
        rows: One or two models; with two, the ratio is the second over the first.
    """
    table = _table("", "", *(_CONTROL.sub("", row.name) for row in rows))
    table.title = None
    for column in table.columns[1:]:
        column.no_wrap = False
    if len(rows) == 2:
        table.add_column(Text("ratio"), justify="right", no_wrap=True)
    size: list[tuple[str, list[int | None], Callable[[int], str]]] = [
        ("parameters", [row.parameters for row in rows], numbers.format_count),
        ("bytes on disk", [row.bytes for row in rows], numbers.format_bytes),
        ("weights in memory", [row.memory for row in rows], numbers.format_bytes),
    ]
    for name, values, words in size:
        known = [value for value in values if value is not None]
        if known:
            cells = [numbers.DASH if value is None else words(value) for value in values]
            _bench_line(table, name, cells, known)
    for name, spreads in (
        ("prefill, tokens/s", [row.prefill for row in rows]),
        ("decode, tokens/s", [row.decode for row in rows]),
    ):
        medians = [spread.median for spread in spreads]
        _bench_line(table, name, [numbers.spread(spread) for spread in spreads], medians)
    return table


def _bench_line(table: Table, name: str, cells: Sequence[str], values: Sequence[float]) -> None:
    ratio = [numbers.factor(*values)] if len(values) == 2 else []
    table.add_row(*(_plain(cell) for cell in (name, *cells, *ratio)))


def draft_table(found: BenchedDraft) -> RenderableType:
    """A model's speed with and without a draft, greedy and sampled."""
    names = [
        "greedy" if not run.temperature else f"sampled, temperature {run.temperature:g}"
        for run in found.runs
    ]
    table = _table("", "", *names)
    table.title = None
    lines = {
        "tokens/s alone": [f"{run.alone:.1f}" for run in found.runs],
        "tokens/s with the draft": [f"{run.assisted:.1f}" for run in found.runs],
        "speed-up": [f"× {run.speedup:.2f}" for run in found.runs],
        "speed-up predicted": [f"× {run.predicted:.2f}" for run in found.runs],
        "drafted tokens taken": [f"{run.acceptance:.0%}" for run in found.runs],
        "continuations the same": [
            numbers.DASH if run.equal is None else f"{run.equal} of {run.prompts}"
            for run in found.runs
        ],
    }
    for label, cells in lines.items():
        table.add_row(_plain(label), *map(_plain, cells))
    words = (
        f"drafts of {found.length} tokens by {found.draft} for {found.model}, in "
        f"{found.dtype or found.runtime}; a "
        f"drafted token costs {found.cost:.2f} of one of the model's"
    )
    parted = [run.parted_by for run in found.runs if run.parted_by is not None]
    if parted:
        words += (
            f". Where greedy texts part, {found.model} finds the two tokens at most "
            f"{max(parted):.2g} nats apart"
        )
    return Group(table, Padding(_plain(words), (0, 0, 1, 0)))
