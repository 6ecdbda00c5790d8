"""`searches`, `objectives`, `calibrations`, `architectures`: what there is, a line each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer
from rich.table import Table

from depthprune.cli.console import TerminalProgress, note, show, show_json
from depthprune.cli.option_groups import ResultOptions, expand_groups
from depthprune.errors import UsageError

if TYPE_CHECKING:
    from depthprune.calibration import Calibration, Part


@expand_groups
def searches(*, result: ResultOptions) -> None:
    """List the searches."""
    from depthprune.searches import SEARCHES

    _list("searches", SEARCHES.describe(lambda make: make().summary), result.json)


@expand_groups
def objectives(*, result: ResultOptions) -> None:
    """List the objectives."""
    from depthprune.objectives import OBJECTIVES

    _list("objectives", OBJECTIVES.describe(lambda make: make().summary), result.json)


@expand_groups
def calibrations(
    *,
    action: Annotated[
        Optional[str],  # noqa: UP045
        typer.Argument(
            metavar="[show|portfolio]",
            help="show SPEC prints what a spec draws, portfolio what prune --for tries.",
        ),
    ] = None,
    spec: Annotated[
        Optional[str],  # noqa: UP045
        typer.Argument(metavar="[SPEC]", help="A calibration."),
    ] = None,
    model: Annotated[
        str, typer.Option(help="Whose tokenizer is used, and who writes the text of self.")
    ] = "demo",
    schema: Annotated[
        bool, typer.Option("--schema", help="Print the JSON schema of a YAML file of specs.")
    ] = False,
    result: ResultOptions,
) -> None:
    """List presets and sources, or show what one spec draws."""
    from depthprune.calibration import PRESETS, SOURCES, file_schema

    if schema:
        if action is not None:
            raise UsageError("calibrations: --schema takes no other words")
        show_json(file_schema())
        return
    if action == "portfolio" and spec is None:
        _portfolio(result.json)
        return
    if action is not None:
        if action != "show" or spec is None:
            raise UsageError(
                f"calibrations: expected nothing, show SPEC or portfolio, got {action!r}"
            )
        _show(spec, model, result.json)
        return
    lines = {
        name: f"{preset.summary}; {preset.note}" if preset.note else preset.summary
        for name, preset in PRESETS.items()
    }
    lines |= SOURCES.describe(lambda source: source.summary)
    _list("calibrations", lines, result.json)


def _portfolio(json: bool) -> None:
    from depthprune.pruning.target.portfolio import PORTFOLIO

    if json:
        rows = [row.model_dump(mode="json") for row in PORTFOLIO]
        show_json({"schema": 1, "portfolio": rows})
        return
    cells = [
        (
            row.name,
            " + ".join(map(str, row.calibration)),
            row.objective,
            str(row.draws),
            row.summary,
        )
        for row in PORTFOLIO
    ]
    show(_table(("name", "calibration", "objective", "draws", "what it is"), cells))


@expand_groups
def architectures(*, result: ResultOptions) -> None:
    """List the architectures that surgery knows, with their rules: of folders, then of GGUFs."""
    from depthprune.checkpoints.architectures.table import architectures as table
    from depthprune.checkpoints.gguf.architectures import listed_architectures

    lines = [(row.model_type, row.status, row.rule, row.why) for row in table()]
    gguf = [(row.name, row.status, row.rule, row.refused) for row in listed_architectures()]
    if result.json:
        fields = ("status", "rule", "why")
        show_json(
            {
                "schema": 1,
                "architectures": [
                    dict(zip(("model_type", *fields), line, strict=True)) for line in lines
                ],
                "gguf": [dict(zip(("architecture", *fields), line, strict=True)) for line in gguf],
            }
        )
        return
    show(_table(("type", "status", "rule", "why"), lines))
    show("")
    show(_table(("GGUF architecture", "status", "rule", "why"), gguf))


def _list(name: str, lines: Mapping[str, str], json: bool) -> None:
    if json:
        found = [{"name": key, "summary": line} for key, line in lines.items()]
        show_json({"schema": 1, name: found})
        return
    show(_table(("name", "what it is"), list(lines.items())))


def _show(spec: str, model: str, json: bool) -> None:
    from depthprune.calibration import calibrate, check_files, parse_calibration
    from depthprune.pruning.session import (
        Loading,
        read_tokenizer,
        reading,
    )

    specs = parse_calibration(spec)
    check_files(specs)
    loading = Loading(model)
    progress = TerminalProgress()
    reader = read_tokenizer(loading.find(), progress, loading)
    with reading(specs, progress):
        drawn = calibrate(specs, reader)
    rows = _rows(drawn, reader.tokenizer)
    if json:
        show_json(_document(drawn, rows))
    else:
        _show_drawn(drawn, rows)


_FIELDS = ("document", "start", "tokens", "scored", "domain", "text")


def _rows(drawn: Calibration, tokenizer: Any) -> list[tuple[Any, ...]]:
    """A row a window, of `_FIELDS`."""
    rows = []
    for window, domain in zip(drawn.windows, drawn.domains, strict=True):
        # Forty tokens fill the line; decoding all of a long window would take a while.
        text = " ".join(str(tokenizer.decode(window.tokens[:40].tolist())).split())
        counted = int(window.scored.sum())
        rows.append((window.document, window.start, len(window.tokens), counted, domain, text[:60]))
    return rows


def _document(drawn: Calibration, rows: Sequence[tuple[Any, ...]]) -> dict[str, Any]:
    return {
        "schema": 1,
        "calibration": [part.spec.line() for part in drawn.parts],
        "specs": [part.spec.model_dump(mode="json") for part in drawn.parts],
        "fingerprint": drawn.fingerprint,
        "tokens": drawn.tokens,
        "bos": [part.begun for part in drawn.parts],
        "windows": [dict(zip(_FIELDS, row, strict=True)) for row in rows],
        "overlap": [_overlap(part) for part in drawn.parts],
        "repeats": [part.material.repeats for part in drawn.parts],
        "warnings": drawn.warnings(),
    }


def _show_drawn(drawn: Calibration, rows: Sequence[tuple[Any, ...]]) -> None:
    cells = [tuple(str(value) for value in row) for row in rows]
    show(_table((*_FIELDS[:-1], "begins"), cells))
    show(f"{len(rows)} windows, {drawn.tokens:,} tokens, fingerprint {drawn.fingerprint[:16]}")
    for part in drawn.parts:
        show(f"{part.spec.short()}: windows begin {'with' if part.begun else 'without'} BOS")
    for domain in dict.fromkeys(drawn.domains):
        inside = [w for w, d in zip(drawn.windows, drawn.domains, strict=True) if d == domain]
        show(f"{domain}: {len(inside)} windows, {sum(len(w.tokens) for w in inside):,} tokens")
    for part in drawn.parts:
        if part.overlap is not None:
            show(f"{part.spec.short()}: {part.overlap.words()}")
        if part.spec.dedupe:
            show(f"{part.spec.short()}: {part.material.repeats} repeated documents left out")
    for warning in drawn.warnings():
        note(f"warning: {warning}")


def _overlap(part: Part) -> dict[str, Any] | None:
    if part.overlap is None:
        return None
    found = part.overlap
    return {
        "files": list(found.files),
        "ngram": found.ngram,
        "share": found.share,
        "documents": list(found.documents),
    }


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    from rich.text import Text

    table = Table(*columns, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    return table
