"""`depthprune memo`: shows and prunes what runs keep: losses, and unpacked GGUF files."""

from __future__ import annotations

import os
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer
from rich.table import Table
from rich.text import Text

from depthprune.cli.console import note, show, show_json
from depthprune.cli.option_groups import ResultOptions, expand_groups
from depthprune.errors import UsageError
from depthprune.report.numbers import format_bytes

if TYPE_CHECKING:
    from depthprune.evaluator.memo.store import ContextStatistics, MemoStatistics

_SHORT = 12
_WHOLE = ("weights", "dtype", "losses", "last used")
"""Columns that are never folded: they are copied, or read as one number."""


@expand_groups
def memo(
    *,
    memo: Annotated[
        Optional[Path],  # noqa: UP045 - typer reads this at run time, on Python 3.10 too
        typer.Option(metavar="PATH", help="The store; by default the one in your cache folder."),
    ] = None,
    prune: Annotated[
        bool, typer.Option("--prune", help="Delete the losses that the flags below name.")
    ] = False,
    older_than: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(metavar="DAYS", min=0, help="Prune what was not used for so many days."),
    ] = None,
    weights: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(metavar="PREFIX", help="Prune what was measured on the weights listed so."),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Prune everything.")] = False,
    result: ResultOptions,
) -> None:
    """Show what runs keep (the losses they share, and unpacked GGUF files), or prune it."""
    _check(prune, older_than, weights, everything)

    from depthprune.evaluator.memo.store import MemoStatistics, default_path

    if memo is not None and str(memo) == "off":
        raise UsageError("--memo off: keeps nothing, so there is nothing to show; name a file")
    place = default_path() if memo is None else memo.expanduser()
    unpacked = _unpacked(prune, older_than, weights, everything) if memo is None else None
    found, pruned = MemoStatistics(0, 0, 0, ()), 0
    # Looking at a default place where nothing is yet makes no file.
    if os.path.exists(place):
        found, pruned = _open(place, prune, older_than, weights, everything)
    elif memo is not None:
        raise UsageError(f"--memo {memo}: no such file; a run with --memo {memo} makes it")
    if result.json:
        document = _document(place, found, pruned if prune else None)
        show_json(document | {"unpacked": unpacked})
        return
    _print(place, found, pruned if prune else None)
    if unpacked is not None and (unpacked["models"] or unpacked["pruned"]):
        show(Text(_unpacked_line(unpacked)))


def _open(
    place: Path, prune: bool, older_than: float | None, weights: str | None, everything: bool
) -> tuple[MemoStatistics, int]:
    from depthprune.evaluator.memo.store import Memo

    pruned = 0
    with Memo.open(place) as store:
        for line in store.notes:
            note(f"warning: {line}")
        if prune:
            pruned = store.prune(older_than_days=older_than, weights=weights, everything=everything)
        return store.statistics(), pruned


def _unpacked(
    prune: bool, older_than: float | None, weights: str | None, everything: bool
) -> dict[str, Any]:
    """What GGUF files left unpacked in the cache folder, after what was asked for is deleted."""
    from depthprune.models.gguf.unpacked import (
        forget_kept,
        kept_models,
        limit_bytes,
        unpacked_folder,
    )

    gone = 0
    if prune:
        gone = len(forget_kept(older_than_days=older_than, weights=weights, everything=everything))
    found = kept_models()
    return {
        "path": str(unpacked_folder()),
        "bytes": sum(kept.bytes for kept in found),
        "limit_bytes": limit_bytes(),
        "pruned": gone if prune else None,
        "models": [
            {
                "name": kept.name,
                "weights": kept.fingerprint,
                "dtype": kept.dtype,
                "bytes": kept.bytes,
                "last_used": _time(kept.used),
            }
            for kept in found
        ],
    }


def _unpacked_line(found: dict[str, Any]) -> str:
    models = found["models"]
    many = f"{len(models)} unpacked GGUF file{'' if len(models) == 1 else 's'}"
    gone = "" if found["pruned"] is None else f"{found['pruned']} unpacked files deleted; "
    sizes = f"{format_bytes(found['bytes'])} of at most {format_bytes(found['limit_bytes'])}"
    return f"{gone}{found['path']}: {many}, {sizes}"


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec="seconds")


def _check(prune: bool, older_than: float | None, weights: str | None, everything: bool) -> None:
    some = older_than is not None or weights is not None
    if not prune and (some or everything):
        raise UsageError("--older-than, --weights and --all say what to prune; add --prune")
    if prune and not (some or everything):
        raise UsageError("--prune: expected --older-than DAYS, --weights PREFIX or --all")
    if some and everything:
        raise UsageError("--all prunes everything; drop --older-than and --weights, or drop --all")
    if weights == "":
        raise UsageError("--weights: expected the beginning of a fingerprint, got nothing")


def _print(place: Path, found: MemoStatistics, pruned: int | None) -> None:
    if found.contexts:
        show(_table(found))
    show(Text(_summary(place, found, pruned)))


def _table(found: MemoStatistics) -> Table:
    columns = ["model", "weights", "dtype", "device", "torch", "objective", "arithmetic"]
    columns += ["losses", "last used"]
    repaired = any(row.context.recovery for row in found.contexts)
    table = Table(box=None, pad_edge=False)
    for name in (*columns, *(["recovery"] if repaired else [])):
        # Folded, never cut off: what two lines differ in may stand at the end.
        table.add_column(name, overflow="fold", no_wrap=name in _WHOLE)
    for row in found.contexts:
        context = row.context
        used = datetime.fromtimestamp(row.used).strftime("%Y-%m-%d")
        cells = [
            ", ".join(map(_last_part, row.names)),
            context.weights[:_SHORT],
            context.dtype,
            context.device,
        ]
        cells += [context.torch, context.objective, context.arithmetic]
        cells += [f"{row.losses:,}", used, context.recovery]
        table.add_row(*(Text(cell) for cell in cells[: len(table.columns)]))
    return table


def _last_part(name: str) -> str:
    """Of a path what tells it from its neighbours; a hub id whole. --json has paths whole."""
    return Path(name).name if Path(name).is_absolute() else name


def _summary(place: Path, found: MemoStatistics, pruned: int | None) -> str:
    losses = sum(row.losses for row in found.contexts)
    held = f"{losses:,} losses of {found.sets:,} sets on {found.windows:,} windows"
    if not losses:
        held = "nothing is stored"
    gone = "" if pruned is None else f"{pruned:,} losses pruned; "
    return f"{gone}{place}: {held}, {format_bytes(found.bytes)}"


def _document(place: Path, found: MemoStatistics, pruned: int | None) -> dict[str, Any]:
    return {
        "schema": 1,
        "path": str(place),
        "bytes": found.bytes,
        "sets": found.sets,
        "windows": found.windows,
        "losses": sum(row.losses for row in found.contexts),
        "pruned": pruned,
        "contexts": [_row(row) for row in found.contexts],
    }


def _row(row: ContextStatistics) -> dict[str, Any]:
    last = _time(row.used)
    return {**vars(row.context), "names": row.names, "losses": row.losses, "last_used": last}
