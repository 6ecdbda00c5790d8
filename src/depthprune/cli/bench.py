"""`depthprune bench`: prefill and decode speed, memory and size, side by side."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from depthprune.cli import options
from depthprune.cli.console import TerminalProgress, show, show_json
from depthprune.cli.option_groups import ResultOptions, expand_groups
from depthprune.errors import UsageError

if TYPE_CHECKING:
    from depthprune.pruning.drafting.bench_draft import BenchedDraft


@dataclass(frozen=True)
class DraftOptions:
    """The draft that is measured, if one is, and how."""

    draft: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            metavar="DRAFT",
            help="Have a smaller model draft what MODEL writes, and measure what that gains.",
        ),
    ] = None
    draft_tokens: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(help="With --draft: tokens of a draft (default 4)."),
    ] = None
    temperature: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(help="With --draft: of the sampled run (default 1)."),
    ] = None
    runtime: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            help="With --draft: transformers, llama.cpp, or auto (default): llama.cpp for two "
            "GGUF files."
        ),
    ] = None
    calibration: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            "-c",
            "--calibration",
            metavar="SPEC",
            help="With --draft: text whose held-out windows are the prompts.",
        ),
    ] = None

    def keywords(self) -> dict[str, Any]:
        """As `bench_draft` takes them, but for what was not given.

        Raises:
            UsageError: If anything was given without a draft.
        """
        given = {
            "--draft-tokens": ("length", self.draft_tokens),
            "--temperature": ("temperature", self.temperature),
            "--runtime": ("runtime", self.runtime),
            "-c": ("prompts", self.calibration),
        }
        found = {flag: pair for flag, pair in given.items() if pair[1] is not None}
        if self.draft is None and found:
            raise UsageError(
                f"{next(iter(found))}: means nothing without --draft; add it, or drop it"
            )
        return dict(found.values())


@expand_groups
def bench(
    model: options.ModelName,
    *,
    model2: Annotated[
        Optional[str],  # noqa: UP045
        typer.Argument(metavar="[MODEL2]", help="A second model, measured in turns."),
    ] = None,
    prompt_tokens: Annotated[
        int, typer.Option(min=1, max=1_000_000, help="Length of the prompt.")
    ] = 256,
    new_tokens: Annotated[
        int, typer.Option(min=1, max=1_000_000, help="Tokens decoded after it.")
    ] = 32,
    repeats: Annotated[
        int, typer.Option(min=1, max=1_000, help="Repeats; medians are reported.")
    ] = 5,
    draft: DraftOptions,
    dtype: options.Dtype = "auto",
    device: options.Device = "auto",
    trust_remote_code: options.RemoteCode = False,
    allow_pickle: options.Pickle = False,
    threads: options.Threads = None,
    result: ResultOptions,
) -> None:
    """Measure how fast one model, or two side by side, reads a prompt and writes an answer."""
    shared: dict[str, Any] = {
        "dtype": dtype,
        "device": device,
        "trust_remote_code": trust_remote_code,
        "allow_pickle": allow_pickle,
        "progress": TerminalProgress(),
    }
    drafting = draft.keywords()
    if draft.draft is not None:
        if model2 is not None:
            raise UsageError("--draft: is the second model; drop MODEL2")
        from depthprune.pruning.drafting.bench_draft import bench_draft

        drafted = bench_draft(model, draft.draft, new_tokens=new_tokens, **drafting, **shared)
        _show_draft(drafted, result)
        return
    from depthprune.pruning.bench import bench as measure

    found = measure(
        model,
        model2,
        prompt_tokens=prompt_tokens,
        new_tokens=new_tokens,
        repeats=repeats,
        **shared,
    )
    if result.json:
        show_json(found.document())
        return
    from depthprune.cli.tables import bench_table

    show(bench_table(found.models))


def _show_draft(found: BenchedDraft, result: ResultOptions) -> None:
    if result.json:
        show_json(found.document())
        return
    from depthprune.cli.tables import draft_table

    show(draft_table(found))
