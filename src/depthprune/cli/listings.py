"""`searches`, `objectives`, `calibrations`, `architectures`: what there is, a line each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Optional

import typer
from rich.table import Table

from depthprune.cli import options
from depthprune.cli.console import show, show_json
from depthprune.errors import UsageError


def searches(json: options.Json = False, debug: options.Debug = False) -> None:
    """List the searches."""
    from depthprune.search import SEARCHES

    _list("searches", SEARCHES.describe(lambda make: make().summary), json)


def objectives(json: options.Json = False, debug: options.Debug = False) -> None:
    """List the objectives."""
    from depthprune.objectives import OBJECTIVES

    _list("objectives", OBJECTIVES.describe(lambda make: make().summary), json)


def calibrations(
    action: Annotated[
        Optional[str],  # noqa: UP045
        typer.Argument(metavar="[show]", help="show SPEC prints what a spec draws."),
    ] = None,
    spec: Annotated[
        Optional[str],  # noqa: UP045
        typer.Argument(metavar="[SPEC]", help="A calibration."),
    ] = None,
    model: Annotated[str, typer.Option(help="Whose tokenizer is used.")] = "demo",
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """List presets and sources, or show what one spec draws."""
    from depthprune.calibration import PRESETS, SOURCES

    if action is not None:
        if action != "show" or spec is None:
            raise UsageError(f"calibrations: expected nothing or show SPEC, got {action!r}")
        _show(spec, model, json)
        return
    lines = {name: preset.summary for name, preset in PRESETS.items()}
    lines |= SOURCES.describe(lambda source: source.summary)
    _list("calibrations", lines, json)


def architectures(json: options.Json = False, debug: options.Debug = False) -> None:
    """List the architectures that surgery knows, with their rules."""
    from depthprune.models.architectures import architectures as table

    rows = table()
    if json:
        fields = ("model_type", "status", "rule", "why")
        found = [{field: getattr(row, field) for field in fields} for row in rows]
        show_json({"schema": 1, "architectures": found})
        return
    lines = [(row.model_type, row.status, row.rule, row.why) for row in rows]
    show(_table(("type", "status", "rule", "why"), lines))


def _list(name: str, lines: Mapping[str, str], json: bool) -> None:
    if json:
        found = [{"name": key, "summary": line} for key, line in lines.items()]
        show_json({"schema": 1, name: found})
        return
    show(_table(("name", "what it is"), list(lines.items())))


def _show(spec: str, model: str, json: bool) -> None:
    from depthprune.calibration import calibrate
    from depthprune.cli.session import Reader
    from depthprune.models.source import find_model

    tokenizer = find_model(model).tokenizer()
    drawn = calibrate(spec, Reader(tokenizer))
    rows = []
    for part in drawn.parts:
        for window in part.windows:
            text = " ".join(str(tokenizer.decode(window.tokens[:40].tolist())).split())
            rows.append((window.document, window.start, len(window.tokens), text[:60]))
    if json:
        fields = ("document", "start", "tokens", "text")
        show_json(
            {
                "schema": 1,
                "calibration": [part.spec.line() for part in drawn.parts],
                "fingerprint": drawn.fingerprint,
                "tokens": drawn.tokens,
                "windows": [dict(zip(fields, row, strict=True)) for row in rows],
            }
        )
        return
    cells = [tuple(str(value) for value in row) for row in rows]
    show(_table(("document", "start", "tokens", "begins"), cells))
    show(f"{len(rows)} windows, {drawn.tokens:,} tokens, fingerprint {drawn.fingerprint[:16]}")


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    from rich.text import Text

    table = Table(*columns, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    return table
